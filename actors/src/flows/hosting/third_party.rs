//! Invites of those of whom only an e-mail address or phone number was known (server-server API, "Third-party invites").

use std::sync::Arc;

use ruma::api::federation::thirdparty::bind_callback::v1::ThirdPartyInvite;
use ruma::api::federation::thirdparty::exchange_invite;
use ruma::events::room::member::RoomMemberEventContent;
use ruma::serde::Raw;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::error::{DomainError, Outcome};
use crate::flows::remote;
use crate::hub::Hub;
use crate::peer::handle::Pace;
use crate::policy;
use crate::room::commands::{Draft, Incoming, Ingest, Verdict};
use crate::room::commit::origin;
use crate::room::event::StoredEvent;
use crate::room::export::{access, template};
use crate::room::plan;
use crate::room::snapshot::RoomSnapshot;

/// Invites that one binding may bring along.
const MAX_INVITES: usize = 50;

/// A claim on a third-party invite.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who sent the third-party invite.
    pub sender: OwnedUserId,
    /// Who turned out to be meant.
    pub user: OwnedUserId,
    /// What the identity server has signed.
    pub signed: Box<RawValue>,
}

/// What an identity server signs.
#[derive(Deserialize)]
struct Signed {
    mxid: OwnedUserId,
    token: String,
}

impl Exchange {
    /// From the content of a member event.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` or `M_MISSING_PARAM` when it is no third-party invite.
    pub fn of(room_id: OwnedRoomId, sender: OwnedUserId, user: OwnedUserId, content: &RawValue) -> Outcome<Self> {
        #[derive(Deserialize)]
        struct Content {
            membership: Option<String>,
            third_party_invite: Option<ThirdParty>,
        }
        #[derive(Deserialize)]
        struct ThirdParty {
            signed: Box<RawValue>,
        }
        let content: Content =
            serde_json::from_str(content.get()).map_err(|e| DomainError::bad_json(format!("content: {e}")))?;
        if content.membership.as_deref() != Some("invite") {
            return Err(DomainError::invalid_param("the event is no invite"));
        }
        let missing = || DomainError::missing_param("the event has no third_party_invite");
        Ok(Self {
            room_id,
            sender,
            user,
            signed: content.third_party_invite.ok_or_else(missing)?.signed,
        })
    }

    fn read(&self) -> Outcome<Signed> {
        let signed: Signed =
            serde_json::from_str(self.signed.get()).map_err(|e| DomainError::invalid_param(format!("signed: {e}")))?;
        if signed.mxid != self.user {
            return Err(DomainError::invalid_param(format!("{} was not signed for", self.user)));
        }
        Ok(signed)
    }
}

/// Turns a third-party invite of a user of this server into an invite. Answers its id, or that of the one that stands.
///
/// # Errors
/// 404 `M_NOT_FOUND` for rooms this server is not in; 403 `M_FORBIDDEN` for tokens the room does not know and signatures that
/// do not hold; 400 `M_INVALID_PARAM`; what the invited user's server says.
pub async fn exchange(hub: &Hub, origin: &ServerName, claim: &Exchange) -> Outcome<OwnedEventId> {
    let env = hub.env();
    let room = access::hosted(env, &claim.room_id, origin).await?;
    if !env.is_local(&claim.sender) {
        return Err(DomainError::forbidden(format!(
            "{} is no user of this server",
            claim.sender
        )));
    }
    invite(hub, &room, claim).await
}

async fn invite(hub: &Hub, room: &Arc<RoomSnapshot>, claim: &Exchange) -> Outcome<OwnedEventId> {
    let signed = claim.read()?;
    let unknown = || DomainError::forbidden("the room has no such third-party invite");
    let offer = room
        .state_event("m.room.third_party_invite", &signed.token)
        .ok_or_else(unknown)?;
    if let Some(standing) = room.state_event("m.room.member", claim.user.as_str())
        && standing.pdu.has_membership("invite")
    {
        return Ok(standing.pdu.event_id.clone());
    }
    let draft = draft(offer, claim)?;
    if hub.env().is_local(&claim.user) {
        take(hub, room, &draft).await
    } else {
        remote::invite::send(hub, &room.room_id, &draft).await
    }
}

fn draft(offer: &StoredEvent, claim: &Exchange) -> Outcome<Draft> {
    #[derive(Deserialize)]
    struct Offer {
        display_name: Option<String>,
    }
    let offer: Option<Offer> = offer.pdu.content_as().ok();
    let name = offer.and_then(|offer| offer.display_name).unwrap_or_default();
    let content = json!({
        "membership": "invite",
        "third_party_invite": { "display_name": name, "signed": claim.signed },
    });
    let content = to_raw_value(&content).map_err(|e| DomainError::internal(format!("an invite: {e}")))?;
    Ok(Draft::state(
        claim.sender.clone(),
        "m.room.member",
        claim.user.as_str(),
        content,
    ))
}

/// The invited user is local, so this server makes and signs the event, whoever its sender is.
async fn take(hub: &Hub, room: &Arc<RoomSnapshot>, draft: &Draft) -> Outcome<OwnedEventId> {
    let env = hub.env();
    let object = template::unsigned(env, room, draft).await?;
    let pdu = policy::agreed(env, room, plan::seal(object, &room.rules, &origin(env))?).await?;
    let incoming = Incoming {
        relay: true,
        ..Incoming::of(&pdu)
    };
    let command = Ingest {
        pdus: vec![incoming],
        outliers: Vec::new(),
    };
    match hub.rooms().ingest(&room.room_id, command).await?.pop() {
        Some(Verdict::Accepted | Verdict::Duplicate) => Ok(pdu.event_id),
        Some(Verdict::Rejected(reason)) => Err(DomainError::forbidden(reason)),
        _ => Err(DomainError::forbidden(
            "the room's newest state does not allow the invite",
        )),
    }
}

/// An identity server tells that an address belongs to a local user: the invites that waited for it are made. What goes wrong
/// with one of them is logged.
///
/// # Errors
/// 400 `M_INVALID_PARAM` for users of other servers and too many invites.
pub async fn bound(hub: &Hub, user: &UserId, invites: Vec<ThirdPartyInvite>) -> Outcome<()> {
    let known = crate::session::load::view(hub.env(), user).await?;
    if !hub.env().is_local(user) || known.is_none_or(|view| view.deactivated) {
        return Err(DomainError::invalid_param(format!("{user} is no user of this server")));
    }
    if invites.len() > MAX_INVITES {
        return Err(DomainError::invalid_param(format!(
            "there are more than {MAX_INVITES} invites"
        )));
    }
    for invite in invites {
        let claim = Exchange {
            room_id: invite.room_id,
            sender: invite.sender,
            user: user.to_owned(),
            signed: invite.signed.into_json(),
        };
        if let Err(error) = claimed(hub, &claim).await {
            tracing::info!(%error, %user, room_id = %claim.room_id, "a third-party invite was not made");
        }
    }
    Ok(())
}

/// Claims an invite for a local user: here if this server is in the room, or else at the server of who sent it.
async fn claimed(hub: &Hub, claim: &Exchange) -> Outcome<()> {
    claim.read()?;
    let env = hub.env();
    let room = env.rooms.view(&claim.room_id).await?;
    if let Some(room) = room.filter(|room| access::is_in(room, &env.server_name)) {
        return invite(hub, &room, claim).await.map(|_| ());
    }
    if env.is_local(&claim.sender) {
        return Err(DomainError::not_found(format!(
            "this server is not in {}",
            claim.room_id
        )));
    }
    let request = request(&claim.room_id, &claim.sender, &claim.user, &claim.signed)?;
    hub.peers().call(claim.sender.server_name(), request, Pace::Now).await?;
    Ok(())
}

fn request(
    room_id: &RoomId,
    sender: &UserId,
    user: &UserId,
    signed: &RawValue,
) -> Outcome<exchange_invite::v1::Request> {
    // The server that is asked knows the name from the room.
    let content: Value = json!({
        "membership": "invite",
        "third_party_invite": { "display_name": user.localpart(), "signed": signed },
    });
    let content = to_raw_value(&content).map_err(|e| DomainError::internal(format!("an invite: {e}")))?;
    let content: Raw<RoomMemberEventContent> = Raw::from_json(content);
    Ok(exchange_invite::v1::Request::new(
        room_id.to_owned(),
        sender.to_owned(),
        user.to_owned(),
        content,
    ))
}
