//! Which servers may ask about a room.

use std::sync::Arc;

use ruma::{EventId, RoomId, ServerName};

use super::super::acl;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::{Status, StoredEvent};
use crate::room::snapshot::RoomSnapshot;
use crate::room::visibility::HistoryVisibility;

/// Whether a user of `server` is joined.
#[must_use]
pub fn is_in(room: &RoomSnapshot, server: &ServerName) -> bool {
    room.joined_servers
        .binary_search_by(|joined| (**joined).cmp(server))
        .is_ok()
}

/// A room that this server is in, for a server that its access control list does not shut out.
///
/// # Errors
/// 404 `M_NOT_FOUND`, 403 `M_FORBIDDEN`.
pub async fn hosted(env: &Env, room_id: &RoomId, server: &ServerName) -> Outcome<Arc<RoomSnapshot>> {
    let room = env.rooms.view(room_id).await?;
    let room = room
        .filter(|room| is_in(room, &env.server_name))
        .ok_or_else(|| DomainError::not_found(format!("this server is not in {room_id}")))?;
    if acl::allows(&room, server) {
        Ok(room)
    } else {
        Err(DomainError::forbidden(format!(
            "{server} is denied access to {room_id}"
        )))
    }
}

/// … whose whole state is known here.
///
/// # Errors
/// As [`hosted`]; 404 `M_NOT_FOUND` while members are still being fetched.
pub async fn complete(env: &Env, room_id: &RoomId, server: &ServerName) -> Outcome<Arc<RoomSnapshot>> {
    let room = hosted(env, room_id, server).await?;
    check_complete(env, &room).await?;
    Ok(room)
}

async fn check_complete(env: &Env, room: &RoomSnapshot) -> Outcome<()> {
    if env.store.is_partial_room(room.nid.0).await? {
        let message = format!("this server has not finished joining {}", room.room_id);
        return Err(DomainError::not_found(message));
    }
    Ok(())
}

/// A room that both servers are in.
///
/// # Errors
/// As [`hosted`]; 403 `M_FORBIDDEN` when the asking server is not in the room.
pub async fn shared(env: &Env, room_id: &RoomId, server: &ServerName) -> Outcome<Arc<RoomSnapshot>> {
    let room = hosted(env, room_id, server).await?;
    check_in(&room, server)?;
    Ok(room)
}

fn check_in(room: &RoomSnapshot, server: &ServerName) -> Outcome<()> {
    if is_in(room, server) {
        Ok(())
    } else {
        Err(DomainError::forbidden(format!("{server} is not in {}", room.room_id)))
    }
}

/// … whose whole state is known here.
///
/// # Errors
/// As [`shared`] and [`complete`].
pub async fn shared_complete(env: &Env, room_id: &RoomId, server: &ServerName) -> Outcome<Arc<RoomSnapshot>> {
    let room = shared(env, room_id, server).await?;
    check_complete(env, &room).await?;
    Ok(room)
}

/// A room that both servers are in or that everybody may read. There is no telling which other rooms exist.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub async fn viewable(env: &Env, room_id: &RoomId, server: &ServerName) -> Outcome<Arc<RoomSnapshot>> {
    let missing = || DomainError::not_found(format!("there is no room {room_id} to be read"));
    let room = hosted(env, room_id, server).await.map_err(|error| match error {
        DomainError::Matrix { .. } => missing(),
        other => other,
    })?;
    let visibility = HistoryVisibility::of(room.state_event("m.room.history_visibility", "").map(|event| &**event));
    if is_in(&room, server) || visibility == HistoryVisibility::WorldReadable {
        Ok(room)
    } else {
        Err(missing())
    }
}

/// An event of a room that is not rejected.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub async fn event(env: &Env, room: &RoomSnapshot, event_id: &EventId) -> Outcome<Arc<StoredEvent>> {
    let event = env.rooms.event_by_id(event_id).await?;
    event
        .filter(|event| event.room_nid == room.nid && event.status != Status::Rejected)
        .ok_or_else(|| DomainError::not_found(format!("there is no event {event_id} in {}", room.room_id)))
}
