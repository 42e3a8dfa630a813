//! The state of a room before one of its events.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{EventNid, StateGroupId};
use ruma::EventId;

use super::access;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;

/// The state before an event.
///
/// # Errors
/// 404 `M_NOT_FOUND` for events that are not known, or whose state is not.
pub async fn before(env: &Env, room: &RoomSnapshot, event_id: &EventId) -> Outcome<Vec<Arc<StoredEvent>>> {
    let event = access::event(env, room, event_id).await?;
    let unknown = || DomainError::not_found(format!("the state at {event_id} is not known"));
    of_group(env, room, event.state_group.ok_or_else(unknown)?).await
}

/// The state of a group. What it has in common with the current state is not read again.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn of_group(env: &Env, room: &RoomSnapshot, group: StateGroupId) -> Outcome<Vec<Arc<StoredEvent>>> {
    let current = || room.state.values().map(|entry| &entry.event);
    if group == room.state_group {
        return Ok(current().cloned().collect());
    }
    let map = env.rooms.state_map(group).await?;
    let at_hand: HashMap<EventNid, &Arc<StoredEvent>> = current().map(|event| (event.nid, event)).collect();
    let wanted: Vec<EventNid> = map.0.entries().iter().map(|(_, event)| *event).collect();
    let missing: Vec<EventNid> = wanted
        .iter()
        .filter(|nid| !at_hand.contains_key(nid))
        .copied()
        .collect();
    let read = env.rooms.events(&missing).await?;
    let event = |nid: &EventNid| at_hand.get(nid).copied().or_else(|| read.get(nid)).cloned();
    let broken = |nid: &EventNid| DomainError::internal(format!("state group {group}: event {nid} is not stored"));
    wanted.iter().map(|nid| event(nid).ok_or_else(|| broken(nid))).collect()
}
