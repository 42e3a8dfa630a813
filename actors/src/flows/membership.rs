//! Joins, leaves, invites, kicks, bans and knocks of local users.

use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId, UserId};

use super::{not_federated, profiles};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::membership::{self, Action, Ask};
use crate::room::snapshot::RoomSnapshot;

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

/// Does what is asked in a room that this server is in.
///
/// # Errors
/// `M_FORBIDDEN` with the reason; `M_NOT_FOUND` for unknown rooms (`M_FORBIDDEN` where the endpoint must not tell).
pub async fn change(hub: &Hub, change: &Change<'_>, action: Action) -> Outcome<()> {
    let env = hub.env();
    let Some(room) = hub.rooms().view(change.room_id).await? else {
        return Err(DomainError::forbidden(format!("you are not in {}", change.room_id)));
    };
    if matches!(action, Action::Invite { .. }) && !env.is_local(change.target) && room.is_joined(change.sender) {
        return Err(not_federated(&format!("cannot invite {}", change.target)));
    }
    apply(hub, &room, change, action).await
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
        Some(draft) => hub.rooms().send(change.room_id, draft).await.map(|_| ()),
        None => Ok(()),
    }
}

/// Joins a room by id or alias. `via` names servers to go through for rooms this server is not in.
///
/// # Errors
/// `M_FORBIDDEN` when the user may not join; `M_NOT_FOUND` for unknown aliases and rooms.
pub async fn join(
    hub: &Hub,
    user: &UserId,
    target: &RoomOrAliasId,
    via: &[OwnedServerName],
    reason: Option<&str>,
) -> Outcome<OwnedRoomId> {
    let (room, room_id) = find(hub, target, via).await?;
    let allowed = is_allowed(hub, &room, user).await?;
    let change = Change {
        room_id: &room_id,
        sender: user,
        target: user,
        reason,
    };
    apply(hub, &room, &change, Action::Join { allowed }).await?;
    Ok(room_id)
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
    let (room, room_id) = find(hub, target, via).await?;
    let change = Change {
        room_id: &room_id,
        sender: user,
        target: user,
        reason,
    };
    apply(hub, &room, &change, Action::Knock).await?;
    Ok(room_id)
}

/// The room that an id or alias names.
async fn find(
    hub: &Hub,
    target: &RoomOrAliasId,
    via: &[OwnedServerName],
) -> Outcome<(std::sync::Arc<RoomSnapshot>, OwnedRoomId)> {
    let env = hub.env();
    let room_id = match <&RoomAliasId>::try_from(target) {
        Ok(alias) => resolve_alias(hub, alias).await?,
        Err(_) => RoomId::parse(target.as_str()).map_err(|e| DomainError::invalid_param(format!("room id: {e}")))?,
    };
    let room = hub.rooms().view(&room_id).await?;
    // Where nobody is left on any server, what this one knows of the room is all there is.
    let here = room.filter(|room| room.joined_servers.is_empty() || room.joined_servers.contains(&env.server_name));
    let elsewhere = || match room_id.server_name() {
        Some(server) if server != env.server_name => true,
        _ => via.iter().any(|server| *server != env.server_name),
    };
    match here {
        Some(room) => Ok((room, room_id)),
        None if elsewhere() => Err(not_federated(&format!("{room_id} is on other servers"))),
        None => Err(DomainError::not_found(format!("there is no room {room_id}"))),
    }
}

/// The room of a local alias.
///
/// # Errors
/// `M_NOT_FOUND` for unknown aliases.
pub async fn resolve_alias(hub: &Hub, alias: &RoomAliasId) -> Outcome<OwnedRoomId> {
    let env = hub.env();
    if alias.server_name() != env.server_name {
        return Err(not_federated(&format!("{alias} belongs to another server")));
    }
    let row = env.store.alias(alias.as_str()).await?;
    let row = row.ok_or_else(|| DomainError::not_found(format!("there is no room alias {alias}")))?;
    RoomId::parse(row.room_id).map_err(|e| DomainError::internal(format!("{alias}: {e}")))
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
