//! What endpoints refuse beyond the authorization rules: invites that the invited block, guests where they may not come
//! in, aliases that lead elsewhere, relations that make no sense.

use std::collections::BTreeSet;
use std::sync::Arc;

use ruma::{OwnedEventId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::invite_filter::{InviteFilter, Verdict};
use super::membership::{self, Change};
use super::spaces;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commands::Draft;
use crate::room::event::{StoredEvent, relation_of};
use crate::room::membership::Action;
use crate::room::snapshot::RoomSnapshot;

/// Refuses an invite that its target blocks (client-server API, "Invite permission"; MSC4155).
///
/// # Errors
/// `M_INVITE_BLOCKED` (403).
pub async fn invite(env: &Env, sender: &UserId, target: &UserId) -> Outcome<()> {
    if env.is_local(target) && InviteFilter::of(env, target).await?.judge(sender) == Verdict::Block {
        let message = format!("{target} takes no such invites");
        return Err(DomainError::matrix(403, "M_INVITE_BLOCKED", message));
    }
    Ok(())
}

/// Whether a local user takes no invites from anybody.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn blocks_invites(env: &Env, user: &UserId) -> Outcome<bool> {
    Ok(InviteFilter::of(env, user).await?.blocks_all())
}

/// Refuses a guest's join where guests may not join (client-server API, "Guest access"). Of a room that this server is not
/// in, the servers to go through tell; once the guest is in, the room's state decides ([`remove_guests`]).
///
/// # Errors
/// `M_GUEST_ACCESS_FORBIDDEN`; `M_NOT_FOUND` for unknown aliases.
pub async fn guest_join(hub: &Hub, guest: &UserId, target: &RoomOrAliasId, via: &[OwnedServerName]) -> Outcome<()> {
    let way = membership::way_in(hub, guest, target, via).await?;
    let welcome = match &way.here {
        Some(room) => guests_welcome(room),
        None => spaces::guests_welcome(hub, &way.room_id, &way.servers).await,
    };
    if welcome {
        Ok(())
    } else {
        Err(DomainError::guest_forbidden("guests may not join this room"))
    }
}

/// Whether guests may join.
#[must_use]
pub fn guests_welcome(room: &RoomSnapshot) -> bool {
    #[derive(Deserialize)]
    struct Content {
        guest_access: Option<String>,
    }
    let event = room.state_event("m.room.guest_access", "");
    let content = event.and_then(|event| event.pdu.content_as::<Content>().ok());
    content.and_then(|content| content.guest_access).as_deref() == Some("can_join")
}

/// Has the guests leave a room that no longer wants them (client-server API, "Guest access").
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn remove_guests(hub: &Hub, room_id: &RoomId) -> Outcome<()> {
    let Some(room) = hub.rooms().view(room_id).await?.filter(|room| !guests_welcome(room)) else {
        return Ok(());
    };
    for guest in hub.env().store.guests_in_room(room.nid.0).await? {
        let Ok(guest) = UserId::parse(guest) else { continue };
        let change = Change {
            room_id,
            sender: &guest,
            target: &guest,
            reason: Some("guests are no longer welcome"),
        };
        if let Err(error) = membership::change(hub, &change, Action::Leave).await {
            tracing::warn!(%error, %room_id, %guest, "a guest could not be removed");
        }
    }
    Ok(())
}

/// A state event that a local user wants to send.
#[derive(Clone, Copy, Debug)]
pub struct StateAsk<'a> {
    /// Who.
    pub sender: &'a UserId,
    /// Whether that is a guest.
    pub is_guest: bool,
    /// Where.
    pub room_id: &'a RoomId,
    /// `type`
    pub kind: &'a str,
    /// `state_key`
    pub state_key: &'a str,
}

/// Refuses state that the endpoint promises to refuse.
///
/// # Errors
/// `M_BAD_ALIAS`, `M_INVALID_PARAM`, `M_INVITE_BLOCKED`, `M_GUEST_ACCESS_FORBIDDEN`.
pub async fn state(hub: &Hub, ask: &StateAsk<'_>, content: &RawValue) -> Outcome<()> {
    match ask.kind {
        "m.room.canonical_alias" if ask.state_key.is_empty() => canonical_alias(hub, ask.room_id, content).await,
        "m.room.member" => member(hub, ask, content).await,
        "m.room.history_visibility" | "m.room.join_rules" if ask.state_key.is_empty() => known_value(ask.kind, content),
        _ => Ok(()),
    }
}

/// A mistyped value would open or close the room in ways its sender did not mean.
fn known_value(kind: &str, content: &RawValue) -> Outcome<()> {
    #[derive(Deserialize)]
    struct Content {
        history_visibility: Option<String>,
        join_rule: Option<String>,
    }
    let content: Content =
        serde_json::from_str(content.get()).map_err(|e| DomainError::bad_json(format!("{kind}: {e}")))?;
    let value = if kind == "m.room.join_rules" {
        content.join_rule
    } else {
        content.history_visibility
    };
    if value.is_none() {
        return Err(DomainError::bad_json(format!("{kind} lacks its value")));
    }
    Ok(())
}

async fn member(hub: &Hub, ask: &StateAsk<'_>, content: &RawValue) -> Outcome<()> {
    #[derive(Deserialize)]
    struct Content {
        membership: Option<String>,
    }
    let Ok(target) = <&UserId>::try_from(ask.state_key) else {
        return Err(DomainError::bad_json("the state key of m.room.member is a user id"));
    };
    let content: Content =
        serde_json::from_str(content.get()).map_err(|e| DomainError::bad_json(format!("m.room.member: {e}")))?;
    match content.membership.as_deref() {
        Some("invite") => invite(hub.env(), ask.sender, target).await,
        Some("join") if ask.is_guest => {
            let room = hub.rooms().view(ask.room_id).await?;
            let allowed = room.is_some_and(|room| room.is_joined(ask.sender) || guests_welcome(&room));
            if allowed {
                Ok(())
            } else {
                Err(DomainError::guest_forbidden("guests may not join this room"))
            }
        }
        _ => Ok(()),
    }
}

/// The aliases that the content of `m.room.canonical_alias` names.
fn aliases(content: &RawValue) -> Outcome<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Content {
        alias: Option<String>,
        #[serde(default)]
        alt_aliases: Option<Vec<String>>,
    }
    let content: Content = serde_json::from_str(content.get())
        .map_err(|e| DomainError::bad_json(format!("m.room.canonical_alias: {e}")))?;
    // An empty string takes the alias away, as leaving it out does.
    let alias = content.alias.filter(|alias| !alias.is_empty());
    Ok(alias
        .into_iter()
        .chain(content.alt_aliases.unwrap_or_default())
        .collect())
}

/// Every alias that the room did not have before must lead to it.
async fn canonical_alias(hub: &Hub, room_id: &RoomId, content: &RawValue) -> Outcome<()> {
    let room = hub.rooms().view(room_id).await?;
    let before = room
        .as_ref()
        .and_then(|room| room.state_event("m.room.canonical_alias", ""));
    let before = before
        .and_then(|event| aliases(&event.pdu.content).ok())
        .unwrap_or_default();
    for alias in aliases(content)?.difference(&before) {
        let bad = |why: &str| DomainError::matrix(400, "M_BAD_ALIAS", format!("{alias} {why}"));
        let parsed = <&RoomAliasId>::try_from(alias.as_str())
            .map_err(|e| DomainError::invalid_param(format!("{alias}: {e}")))?;
        match membership::resolve_alias(hub, parsed).await {
            Ok(found) if found == room_id => {}
            Ok(_) => return Err(bad("leads to another room")),
            Err(DomainError::Matrix { status: 404, .. }) => return Err(bad("does not exist")),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Refuses relations that servers should refuse: a thread below an event that relates to another itself, the same
/// reaction twice.
///
/// # Errors
/// `M_UNKNOWN` (400), `M_DUPLICATE_ANNOTATION` (400).
pub async fn relation(env: &Env, room_id: &RoomId, draft: &Draft) -> Outcome<()> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Relation,
    }
    #[derive(Deserialize)]
    struct Relation {
        rel_type: String,
        event_id: OwnedEventId,
        key: Option<String>,
    }
    if !draft.content.get().contains("m.relates_to") {
        return Ok(());
    }
    let Ok(Content { relates_to }) = serde_json::from_str::<Content>(draft.content.get()) else {
        return Ok(());
    };
    match relates_to.rel_type.as_str() {
        "m.thread" => {
            let target = env.rooms.event_by_id(&relates_to.event_id).await?;
            // What is in other rooms is not the sender's business.
            let target = target.filter(|target| target.pdu.room_id == room_id);
            if target.is_some_and(|target| relation_of(&target.pdu).1.is_some()) {
                return Err(DomainError::unknown(
                    "a thread cannot start at an event that relates to another",
                ));
            }
        }
        "m.annotation" => {
            let Some(room) = env.rooms.view(room_id).await? else {
                return Ok(());
            };
            let target = relates_to.event_id.as_str();
            let sender = draft.sender.as_str();
            let rows = env
                .store
                .own_annotations(room.nid.0, target, &draft.kind, sender)
                .await?;
            let same = |event: &Arc<StoredEvent>| {
                let content = event.pdu.content_as::<Content>();
                let retried = || {
                    let (device, txn) = draft.txn.as_ref()?;
                    let before = event.txn.as_ref()?;
                    Some(*before.0 == **device && *before.1 == **txn)
                };
                content.is_ok_and(|content| content.relates_to.key == relates_to.key) && retried() != Some(true)
            };
            if env.rooms.decode(rows).await?.iter().any(same) {
                let message = "you have reacted to this event with the same key already";
                return Err(DomainError::matrix(400, "M_DUPLICATE_ANNOTATION", message));
            }
        }
        _ => {}
    }
    Ok(())
}
