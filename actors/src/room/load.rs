//! A room's snapshot from the database, in a handful of queries.
//!
//! Everything follows from the room's head: state groups never change, events only by redaction, and the timeline is read
//! up to the head's position. So the queries need no common transaction.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{EventNid, StateGroupId, StreamPos};
use entities::room_head;
use entities::store::history::Ends;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName};

use super::cache::{RoomCache, RoomName, StateMap};
use super::event::StoredEvent;
use super::members;
use super::plan::empty_room;
use super::snapshot::{Extremity, Gap, Hole, RoomSnapshot, StateEntry, TIMELINE_TAIL};
use crate::error::{DomainError, Outcome};

/// Reads a room; `None` where this server has no state of it.
pub(super) async fn load_room(cache: &RoomCache, room_id: &RoomId) -> Outcome<Option<RoomSnapshot>> {
    let store = cache.store();
    let Some(row) = store.room_by_id(room_id.as_str()).await? else {
        return Ok(None);
    };
    let Some(head) = store.room_heads(&[row.nid]).await?.pop() else {
        return Ok(None);
    };
    let name = RoomName::from_row(&row)?;
    cache.remember(&name);
    let map = cache.state_map(StateGroupId(head.state_group)).await?;
    let nids: Vec<i64> = map.0.entries().iter().map(|(_, event)| event.0).collect();
    let state = cache.decode(store.events_by_nid(&nids).await?).await?;
    let timeline = cache
        .timeline_range(name.nid, Some(head.pos), None, tail(), true)
        .await?;
    let ends = store.history_ends(&[row.nid]).await?;
    let parts = Parts {
        name,
        head,
        map,
        timeline: timeline.into_iter().rev().collect(),
    };
    let mut room = parts.build(&by_nid(state), cache.server())?;
    set_ends(&mut room, &ends)?;
    Ok(Some(room))
}

/// Reads several rooms with as many queries as one; those are left out that this server has no state of, or that change
/// while they are read.
pub(super) async fn load_rooms(
    cache: &RoomCache,
    room_ids: Vec<OwnedRoomId>,
) -> Outcome<HashMap<OwnedRoomId, RoomSnapshot>> {
    let store = cache.store();
    let rows = store.rooms_by_id(&room_ids).await?;
    let nids: Vec<i64> = rows.iter().map(|row| row.nid).collect();
    let heads = store.room_heads(&nids).await?;
    let groups: Vec<_> = heads.iter().map(|head| StateGroupId(head.state_group)).collect();
    let maps = cache.state_maps(&groups).await?;
    let nids: Vec<i64> = heads.iter().map(|head| head.room_nid).collect();
    for row in &rows {
        cache.remember(&RoomName::from_row(row)?);
    }
    let state: Vec<i64> = maps
        .values()
        .flat_map(|map| map.0.entries())
        .map(|(_, event)| event.0)
        .collect();
    let state = by_nid(cache.decode(store.events_by_nid(&state).await?).await?);
    let tails = store.timelines_tail(&nids, i64::MAX, tail()).await?;
    let mut timelines: HashMap<i64, Vec<Arc<StoredEvent>>> = HashMap::new();
    for event in cache.decode(tails).await? {
        timelines.entry(event.room_nid.0).or_default().push(event);
    }
    let ends = store.history_ends(&nids).await?;
    let heads: HashMap<i64, room_head::Model> = heads.into_iter().map(|head| (head.room_nid, head)).collect();
    let mut rooms = HashMap::with_capacity(rows.len());
    for row in rows {
        let Some(head) = heads.get(&row.nid).cloned() else {
            continue;
        };
        let timeline = timelines.remove(&row.nid).unwrap_or_default();
        let Some(map) = maps.get(&StateGroupId(head.state_group)).cloned() else {
            continue;
        };
        // Events that are newer than the head: the tail would be too short.
        if timeline
            .last()
            .is_some_and(|event| event.pos > Some(StreamPos(head.pos)))
        {
            continue;
        }
        let name = RoomName::from_row(&row)?;
        let parts = Parts {
            name,
            head,
            map,
            timeline,
        };
        let mut room = parts.build(&state, cache.server())?;
        set_ends(&mut room, &ends)?;
        rooms.insert(room.room_id.clone(), room);
    }
    Ok(rooms)
}

/// How many events are read for a snapshot's timeline: one more than it carries tells whether there are more.
fn tail() -> u32 {
    u32::try_from(TIMELINE_TAIL + 1).unwrap_or(u32::MAX)
}

fn by_nid(events: Vec<Arc<StoredEvent>>) -> HashMap<EventNid, Arc<StoredEvent>> {
    events.into_iter().map(|event| (event.nid, event)).collect()
}

/// What a room is built from.
pub(super) struct Parts {
    pub name: RoomName,
    pub head: room_head::Model,
    pub map: Arc<StateMap>,
    /// Oldest first, with one more than a snapshot carries where there are so many.
    pub timeline: Vec<Arc<StoredEvent>>,
}

impl Parts {
    pub(super) fn build(
        self,
        state: &HashMap<EventNid, Arc<StoredEvent>>,
        server: &ServerName,
    ) -> Outcome<RoomSnapshot> {
        let Self {
            name,
            head,
            map,
            mut timeline,
        } = self;
        let complete = timeline.len() <= TIMELINE_TAIL;
        timeline.drain(..timeline.len().saturating_sub(TIMELINE_TAIL));
        let mut room = RoomSnapshot {
            pos: StreamPos(head.pos),
            extremities: extremities(&head)?,
            state_group: StateGroupId(head.state_group),
            state_chain: map.1,
            timeline: timeline.into_iter().collect(),
            timeline_complete: complete,
            ..empty_room(name.nid, name.room_id, name.version, name.rules)
        };
        for (key_nid, nid) in map.0.entries() {
            let broken = || DomainError::internal(format!("room {}: event {nid} is no state event", room.nid));
            let event = state.get(nid).cloned().ok_or_else(broken)?;
            let key = event.pdu.key().ok_or_else(broken)?;
            let entry = StateEntry {
                key_nid: *key_nid,
                event,
            };
            room.state.insert(key, entry);
        }
        members::recount(&mut room, server);
        Ok(room)
    }
}

/// Where the room's known history ends.
pub(super) fn set_ends(room: &mut RoomSnapshot, ends: &Ends) -> Outcome<()> {
    let nid = room.nid.0;
    for gap in ends.gaps.iter().filter(|gap| gap.room_nid == nid) {
        let broken = |e| DomainError::internal(format!("room {nid}: gap {}: {e}", gap.event_id));
        let id = EventId::parse(gap.event_id.as_str()).map_err(broken)?;
        let (depth, hole) = (gap.depth, gap.hole);
        room.gaps.insert(id, Gap { depth, hole });
    }
    let holes = ends.holes.iter().filter(|hole| hole.room_nid == nid);
    room.holes = holes
        .map(|hole| {
            let (low, next) = (hole.low, hole.next);
            (hole.id, Hole { low, next })
        })
        .collect();
    room.early_redactions = ends.early.contains(&nid);
    Ok(())
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
