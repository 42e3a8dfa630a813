//! A room's snapshot from the database, in a handful of queries.
//!
//! Everything follows from the room's head: state groups never change, events only by redaction, and the timeline is read
//! up to the head's position. So the queries need no common transaction.

use std::sync::Arc;

use entities::ids::{EventNid, StateGroupId, StreamPos};
use entities::{room, room_head};
use ruma::{OwnedEventId, RoomId};

use super::cache::{RoomCache, RoomName};
use super::event::StoredEvent;
use super::members;
use super::snapshot::{Extremity, RoomSnapshot, StateEntry, StateKey, TIMELINE_TAIL};
use crate::error::{DomainError, Outcome};

/// The state key of a state event.
pub(super) fn key_of(event: &StoredEvent) -> Option<StateKey> {
    Some((
        Arc::from(event.pdu.kind.to_string()),
        Arc::from(event.pdu.state_key.as_deref()?),
    ))
}

/// Reads a room; `None` where this server has no state of it.
pub(super) async fn load_room(cache: &RoomCache, room_id: &RoomId) -> Outcome<Option<RoomSnapshot>> {
    let store = cache.store();
    let Some(row) = store.room_by_id(room_id.as_str()).await? else {
        return Ok(None);
    };
    let Some(head) = store.room_heads(&[row.nid]).await?.pop() else {
        return Ok(None);
    };
    from_head(cache, &row, &head).await.map(Some)
}

async fn from_head(cache: &RoomCache, row: &room::Model, head: &room_head::Model) -> Outcome<RoomSnapshot> {
    let name = RoomName::from_row(row)?;
    let group = StateGroupId(head.state_group);
    let map = cache.state_map(group).await?;
    let nids: Vec<i64> = map.0.entries().iter().map(|(_, event)| event.0).collect();
    let events = cache.decode(cache.store().events_by_nid(&nids).await?).await?;
    if events.len() != nids.len() {
        return Err(DomainError::internal(format!(
            "room {}: state events are missing",
            row.nid
        )));
    }
    let tail = u32::try_from(TIMELINE_TAIL).unwrap_or(u32::MAX);
    let mut timeline = cache
        .timeline_range(name.nid, Some(head.pos), None, tail + 1, true)
        .await?;
    let complete = timeline.len() <= TIMELINE_TAIL;
    timeline.truncate(TIMELINE_TAIL);
    let mut room = RoomSnapshot {
        nid: name.nid,
        room_id: name.room_id,
        version: name.version,
        rules: name.rules,
        pos: StreamPos(head.pos),
        extremities: extremities(head)?,
        state_group: group,
        state_chain: map.1,
        state: imbl::OrdMap::new(),
        timeline: timeline.into_iter().rev().collect(),
        timeline_complete: complete,
        local_joined: Arc::from([]),
        joined_servers: Arc::from([]),
        joined_count: 0,
        invited_count: 0,
    };
    let by_nid: std::collections::HashMap<EventNid, Arc<StoredEvent>> =
        events.into_iter().map(|event| (event.nid, event)).collect();
    for (key_nid, nid) in map.0.entries() {
        let event = by_nid.get(nid).cloned();
        let keyed = event.and_then(|event| Some((key_of(&event)?, event)));
        let broken = || DomainError::internal(format!("room {}: event {nid} is no state event", row.nid));
        let (key, event) = keyed.ok_or_else(broken)?;
        room.state.insert(
            key,
            StateEntry {
                key_nid: *key_nid,
                event,
            },
        );
    }
    members::recount(&mut room, cache.server());
    Ok(room)
}

fn extremities(head: &room_head::Model) -> Outcome<Arc<[Extremity]>> {
    let broken = |e| DomainError::internal(format!("room {}: extremities: {e}", head.room_nid));
    let list: Vec<(i64, OwnedEventId, i64)> = serde_json::from_str(&head.extremities).map_err(broken)?;
    Ok(list
        .into_iter()
        .map(|(nid, event_id, depth)| Extremity {
            nid: EventNid(nid),
            event_id,
            depth,
        })
        .collect())
}
