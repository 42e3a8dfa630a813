//! Joins, leaves, invites, kicks, bans and knocks of local users.

use std::sync::Arc;
use std::time::Duration;

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId, UserId};

use super::remote::{self, candidates::Hints};
use super::{alias, profiles};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commands::Draft;
use crate::room::membership::{self, Action, Ask};
use crate::room::snapshot::RoomSnapshot;

/// How long a user waits while somebody else of this server joins the same room.
const TURN: Duration = Duration::from_secs(100);

/// A change of membership that a local user asks for.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The room.
    pub room_id: &'a RoomId,
    /// Who asks.
    pub sender: &'a UserId,
    /// Whose membership changes.
    pub target: &'a UserId,
    /// `reason`
    pub reason: Option<&'a str>,
}

/// Does what is asked. A room that this server is not in can only be left.
///
/// # Errors
/// `M_FORBIDDEN` with the reason; what another server says that has to agree.
pub async fn change(hub: &Hub, change: &Change<'_>, action: Action) -> Outcome<()> {
    let env = hub.env();
    if matches!(action, Action::Invite { .. }) {
        refuse_blocked(env, change.room_id).await?;
    }
    let room = hub.rooms().view(change.room_id).await?;
    if action == Action::Leave
        && let Some(pending) = remote::pending(env, change.sender, change.room_id, room.as_deref()).await?
    {
        return remote::leave::leave(hub, change.room_id, change.sender, &pending, change.reason).await;
    }
    let Some(room) = room else {
        return Err(DomainError::forbidden(format!("you are not in {}", change.room_id)));
    };
    apply(hub, &room, change, action).await
}

/// Sends a state event; an invite of another server's user is signed by that server first.
///
/// # Errors
/// As `Rooms::send` and [`remote::invite::send`].
pub async fn send_state(hub: &Hub, room_id: &RoomId, draft: Draft) -> Outcome<OwnedEventId> {
    if remote::invite::is_remote_invite(&draft, &hub.env().server_name) {
        remote::invite::send(hub, room_id, &draft).await
    } else {
        hub.rooms().send(room_id, draft).await
    }
}

/// Refuses rooms that administrators have closed to everybody.
///
/// # Errors
/// `M_FORBIDDEN`.
pub async fn refuse_blocked(env: &Env, room_id: &RoomId) -> Outcome<()> {
    match env.store.blocked_room(room_id.as_str()).await? {
        Some(_) => Err(DomainError::forbidden("This room has been blocked on this server")),
        None => Ok(()),
    }
}

async fn apply(hub: &Hub, room: &RoomSnapshot, change: &Change<'_>, action: Action) -> Outcome<()> {
    let env = hub.env();
    let shows_profile = matches!(action, Action::Join { .. } | Action::Knock | Action::Invite { .. });
    let profile = if shows_profile && env.is_local(change.target) {
        profiles(env, &[change.target.to_owned()])
            .await?
            .remove(change.target)
            .unwrap_or_default()
    } else {
        membership::Profile::default()
    };
    let ask = Ask {
        sender: change.sender,
        target: change.target,
        action,
        reason: change.reason,
        profile: &profile,
    };
    match membership::draft(room, &ask, &env.server_name)? {
        Some(draft) => send_state(hub, change.room_id, draft).await.map(|_| ()),
        None => Ok(()),
    }
}

/// Joins a room by id or alias. `via` names servers to go through for rooms this server is not in.
///
/// # Errors
/// `M_FORBIDDEN` when the user may not join; `M_NOT_FOUND` for unknown aliases and rooms; what other servers say.
pub async fn join(
    hub: &Hub,
    user: &UserId,
    target: &RoomOrAliasId,
    via: &[OwnedServerName],
    reason: Option<&str>,
) -> Outcome<OwnedRoomId> {
    let goal = Goal::of(hub, target, via).await?;
    if goal.join_here(hub, user, reason).await? {
        return Ok(goal.room_id);
    }
    let _turn = hub.env().entering.take(&goal.room_id, TURN).await?;
    // Somebody else may have brought the room here meanwhile.
    if goal.join_here(hub, user, reason).await? {
        return Ok(goal.room_id);
    }
    let joining = remote::join::Joining {
        room_id: &goal.room_id,
        user,
        reason,
        servers: &goal.servers(hub, user).await?,
    };
    remote::join::join(hub, &joining).await?;
    Ok(goal.room_id)
}

/// Knocks on a room by id or alias.
///
/// # Errors
/// As [`join`].
pub async fn knock(
    hub: &Hub,
    user: &UserId,
    target: &RoomOrAliasId,
    via: &[OwnedServerName],
    reason: Option<&str>,
) -> Outcome<OwnedRoomId> {
    let goal = Goal::of(hub, target, via).await?;
    match goal.here(hub).await? {
        Some(room) => {
            let change = Change {
                room_id: &goal.room_id,
                sender: user,
                target: user,
                reason,
            };
            apply(hub, &room, &change, Action::Knock).await?;
        }
        None => {
            let servers = goal.servers(hub, user).await?;
            remote::knock::knock(hub, &goal.room_id, user, reason, &servers).await?;
        }
    }
    Ok(goal.room_id)
}

/// A room that somebody wants to enter.
struct Goal {
    room_id: OwnedRoomId,
    /// Servers that the user or the alias names.
    named: Vec<OwnedServerName>,
}

impl Goal {
    async fn of(hub: &Hub, target: &RoomOrAliasId, via: &[OwnedServerName]) -> Outcome<Self> {
        let mut named = via.to_vec();
        let room_id = match <&RoomAliasId>::try_from(target) {
            Ok(alias) => {
                let target = alias::resolve(hub, alias).await?;
                named.extend(target.servers);
                target.room_id
            }
            Err(_) => {
                RoomId::parse(target.as_str()).map_err(|e| DomainError::invalid_param(format!("room id: {e}")))?
            }
        };
        refuse_blocked(hub.env(), &room_id).await?;
        Ok(Self { room_id, named })
    }

    /// The room, if this server has a say in it.
    async fn here(&self, hub: &Hub) -> Outcome<Option<Arc<RoomSnapshot>>> {
        let room = hub.rooms().view(&self.room_id).await?;
        Ok(room.filter(|room| remote::is_here(room, &hub.env().server_name)))
    }

    /// Joins, if that takes no other server. Answers whether it was done.
    async fn join_here(&self, hub: &Hub, user: &UserId, reason: Option<&str>) -> Outcome<bool> {
        let Some(room) = self.here(hub).await? else {
            return Ok(false);
        };
        let allowed = is_allowed(hub, &room, user).await?;
        if allowed && membership::needs_other_server(&room, user, &hub.env().server_name) {
            return Ok(false);
        }
        let change = Change {
            room_id: &self.room_id,
            sender: user,
            target: user,
            reason,
        };
        apply(hub, &room, &change, Action::Join { allowed }).await?;
        Ok(true)
    }

    /// The servers to go through.
    async fn servers(&self, hub: &Hub, user: &UserId) -> Outcome<Vec<OwnedServerName>> {
        let room = hub.rooms().view(&self.room_id).await?;
        let pending = remote::pending(hub.env(), user, &self.room_id, room.as_deref()).await?;
        let mut named = self.named.clone();
        if let Some(room) = &room
            && remote::is_here(room, &hub.env().server_name)
        {
            // This server is in the room, but nobody here may let the user in.
            named = remote::candidates::inviting(room);
        }
        let hints = Hints {
            named: &named,
            pending: pending.as_ref(),
            known: room.as_deref(),
        };
        Ok(remote::candidates::servers(hub, &self.room_id, &hints))
    }
}

/// A room that somebody wants to enter.
pub(super) struct WayIn {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// The room, if this server has a say in it.
    pub here: Option<Arc<RoomSnapshot>>,
    /// Through whom, where it has none.
    pub servers: Vec<OwnedServerName>,
}

/// How the user would enter a room.
pub(super) async fn way_in(
    hub: &Hub,
    user: &UserId,
    target: &RoomOrAliasId,
    via: &[OwnedServerName],
) -> Outcome<WayIn> {
    let goal = Goal::of(hub, target, via).await?;
    Ok(WayIn {
        here: goal.here(hub).await?,
        servers: goal.servers(hub, user).await?,
        room_id: goal.room_id,
    })
}

/// The room of an alias.
///
/// # Errors
/// As [`alias::resolve`].
pub async fn resolve_alias(hub: &Hub, alias: &RoomAliasId) -> Outcome<OwnedRoomId> {
    Ok(alias::resolve(hub, alias).await?.room_id)
}

/// Whether the user is in one of the rooms whose members may join this one.
pub(super) async fn is_allowed(hub: &Hub, room: &RoomSnapshot, user: &UserId) -> Outcome<bool> {
    for room_id in membership::allowing_rooms(room).unwrap_or_default() {
        if hub
            .rooms()
            .view(&room_id)
            .await?
            .is_some_and(|room| room.is_joined(user))
        {
            return Ok(true);
        }
    }
    Ok(false)
}
