//! The state that belongs to a piece of timeline, by state groups.

use std::sync::Arc;

use entities::ids::{StateGroupId, StreamPos};
use ruma::events::TimelineEventType;

use super::filter::{event_allowed, lazy, section_allows_room};
use super::look::Candidate;
use super::members::members;
use super::timeline::Slice;
use super::{Context, tail_covers};
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::{RoomSnapshot, StateKey};

/// Which state the client has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// None: a first sync, a room new to the user, or `full_state`.
    Nothing,
    /// None that still holds, but the client may keep what it had up to here: the user was away meanwhile.
    Outdated(StreamPos),
    /// The state after everything up to here.
    Upto(StreamPos),
}

/// A question for state.
pub struct Delta<'a> {
    /// The room.
    pub room: &'a RoomSnapshot,
    /// The timeline that goes with it.
    pub slice: &'a Slice,
    /// What the client has.
    pub known: Known,
    /// No state after this position, whatever the slice holds.
    pub upto: StreamPos,
    /// Whom the room is named after: shown in any case.
    pub heroes: &'a [ruma::OwnedUserId],
}

/// The state events to send: those at the start of the timeline (or at its end, where the client asked for
/// `state_after`) that the client lacks.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn delta(cx: &Context<'_>, delta: &Delta<'_>) -> Outcome<Vec<Arc<StoredEvent>>> {
    let Delta { room, slice, upto, .. } = *delta;
    if !section_allows_room(&cx.args.filter.room.state, &room.room_id) {
        return Ok(Vec::new());
    }
    let after = cx.args.use_state_after;
    let start = slice.start.as_ref().filter(|event| !after && event.pos <= Some(upto));
    let target = match start.and_then(|event| event.state_group) {
        Some(group) => group,
        None => group_upto(cx, room, upto).await?,
    };
    // What the timeline does not show of its own state stands here, a little early.
    let mut events = match delta.known {
        Known::Nothing => merge(whole(cx, room, target).await?, late(slice, after, upto)),
        Known::Outdated(since) => {
            let mut events = whole(cx, room, target).await?;
            if lazy(&cx.args.filter).is_some() {
                let base = group_upto(cx, room, since).await?;
                let members = changed(cx, base, target).await?.into_iter();
                events.extend(members.filter(|event| event.pdu.kind == TimelineEventType::RoomMember));
            }
            merge(events, late(slice, after, upto))
        }
        Known::Upto(_) if slice.tells_all && after => {
            let mut all: Vec<_> = slice.events.iter().chain(&slice.dropped).cloned().collect();
            all.retain(|event| event.pdu.state_key.is_some());
            all.sort_by_key(|event| event.pos);
            merge(Vec::new(), all.iter())
        }
        Known::Upto(_) if slice.tells_all => merge(Vec::new(), slice.dropped.iter()),
        Known::Upto(since) => {
            let base = group_upto(cx, room, since).await?;
            merge(changed(cx, base, target).await?, late(slice, after, upto))
        }
    };
    if let Some(redundant) = lazy(&cx.args.filter) {
        let lacking = members(cx, delta, target, redundant, &events).await?;
        events.extend(lacking);
    }
    events.retain(|event| event_allowed(&cx.args.filter.room.state, event));
    Ok(events)
}

/// Reads the state at the start of several rooms' timelines at once, where each would else be asked for by itself.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn prefetch(cx: &Context<'_>, rooms: &[Candidate], slices: &[Option<Slice>]) -> Outcome<()> {
    if cx.args.use_state_after || rooms.len() == 1 {
        return Ok(());
    }
    let groups = rooms.iter().zip(slices).filter_map(|(room, slice)| {
        let start = slice.as_ref()?.start.as_ref()?;
        let whole = room.is_new() || cx.args.full_state;
        start
            .state_group
            .filter(|group| whole && *group != room.snapshot.state_group)
    });
    let groups: Vec<StateGroupId> = groups.collect();
    if groups.is_empty() {
        return Ok(());
    }
    let maps = cx.env.rooms.state_maps(&groups).await?;
    let nids: Vec<_> = maps
        .values()
        .flat_map(|map| map.0.entries())
        .map(|(_, event)| *event)
        .collect();
    // Whoever asks next finds them in memory.
    cx.env.rooms.events(&nids).await.map(|_| ())
}

/// State events that the slice leaves out and that are newer than the state at its start.
fn late(slice: &Slice, after: bool, upto: StreamPos) -> impl Iterator<Item = &Arc<StoredEvent>> {
    let dropped = slice.dropped.iter();
    dropped.filter(move |event| !after && event.pos <= Some(upto))
}

/// Of each key the newest event: `newer` come later than all of `older` and stand in their order.
fn merge<'a>(older: Vec<Arc<StoredEvent>>, newer: impl Iterator<Item = &'a Arc<StoredEvent>>) -> Vec<Arc<StoredEvent>> {
    let mut events = older;
    let known = events.len();
    for event in newer {
        let same =
            |other: &Arc<StoredEvent>| other.pdu.kind == event.pdu.kind && other.pdu.state_key == event.pdu.state_key;
        match events.iter().position(same) {
            Some(at) => events[at] = event.clone(),
            None => events.push(event.clone()),
        }
    }
    events[known..].sort_by_key(|event| event.pos);
    events
}

/// Everything, or with lazy members everything but members.
async fn whole(cx: &Context<'_>, room: &RoomSnapshot, group: StateGroupId) -> Outcome<Vec<Arc<StoredEvent>>> {
    let lazy = lazy(&cx.args.filter).is_some();
    let wanted = |key: &StateKey| !lazy || &*key.0 != "m.room.member";
    if group == room.state_group {
        let entries = room.state.iter().filter(|(key, _)| wanted(key));
        return Ok(entries.map(|(_, entry)| entry.event.clone()).collect());
    }
    let state = cx.env.rooms.state_at_group(group).await?;
    Ok(state
        .iter()
        .filter(|(key, _)| wanted(key))
        .map(|(_, event)| event.clone())
        .collect())
}

/// What `target` has and `base` has not.
async fn changed(cx: &Context<'_>, base: StateGroupId, target: StateGroupId) -> Outcome<Vec<Arc<StoredEvent>>> {
    if base == target {
        return Ok(Vec::new());
    }
    let (base, target) = (
        cx.env.rooms.state_map(base).await?,
        cx.env.rooms.state_map(target).await?,
    );
    let new = target
        .0
        .entries()
        .iter()
        .filter(|(key, event)| base.0.get(*key) != Some(*event));
    let nids: Vec<_> = new.map(|(_, event)| *event).collect();
    let mut events: Vec<_> = cx.env.rooms.events(&nids).await?.into_values().collect();
    events.sort_by_key(|event| event.pos);
    Ok(events)
}

/// The state group after everything up to `upto`.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn group_upto(cx: &Context<'_>, room: &RoomSnapshot, upto: StreamPos) -> Outcome<StateGroupId> {
    if room.pos <= upto {
        return Ok(room.state_group);
    }
    // The state before the first event after `upto` is the state after everything up to it.
    let after = if tail_covers(room, upto) {
        let mut tail = room.timeline.iter();
        tail.find(|event| event.pos.is_some_and(|pos| pos > upto)).cloned()
    } else {
        let rooms = &cx.env.rooms;
        rooms
            .timeline_range(room.nid, Some(upto.0), None, 1, false)
            .await?
            .pop()
    };
    Ok(after.and_then(|event| event.state_group).unwrap_or(room.state_group))
}
