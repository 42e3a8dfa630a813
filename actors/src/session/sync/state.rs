//! The state that belongs to a piece of timeline, by state groups.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use entities::ids::{StateGroupId, StreamPos};
use ruma::OwnedUserId;

use super::Context;
use super::filter::{Redundant, event_allowed, lazy};
use super::timeline::Slice;
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::{RoomSnapshot, StateKey};

/// Which state the client has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// None: a first sync, a room new to the user, or `full_state`.
    Nothing,
    /// The state after everything up to here.
    Upto(StreamPos),
}

/// The state events to send: those at the start of the timeline (or, `after`, at its end) that the client lacks.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn delta(
    cx: &Context<'_>,
    room: &RoomSnapshot,
    slice: &Slice,
    known: Known,
    upto: StreamPos,
    after: bool,
) -> Outcome<Vec<Arc<StoredEvent>>> {
    // Without a gap or a fork, what happened in between is the timeline itself.
    let linear = !slice.limited && room.extremities.len() <= 1;
    let start = slice.start.as_ref().and_then(|event| event.state_group);
    let target = match start.filter(|_| !after) {
        Some(group) => group,
        None => group_upto(cx, room, upto).await?,
    };
    let mut events = match known {
        Known::Nothing => whole(cx, room, target).await?,
        Known::Upto(_) if linear && after => last_of_each_key(slice),
        Known::Upto(_) if linear => Vec::new(),
        Known::Upto(since) => changed(cx, group_upto(cx, room, since).await?, target).await?,
    };
    if let Some(redundant) = lazy(&cx.args.filter) {
        events.extend(members(cx, room, target, slice, redundant, known, &events).await?);
    }
    events.retain(|event| event_allowed(&cx.args.filter.room.state, event));
    Ok(events)
}

/// The newest state event of each key in the slice.
fn last_of_each_key(slice: &Slice) -> Vec<Arc<StoredEvent>> {
    let mut latest = BTreeMap::new();
    for event in &slice.events {
        if let Some(key) = &event.pdu.state_key {
            latest.insert((event.pdu.kind.to_string(), key.clone()), event.clone());
        }
    }
    latest.into_values().collect()
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
    Ok(cx.env.rooms.events(&nids).await?.into_values().collect())
}

/// The member events of those who speak in the timeline and, in a first sync, of the user.
async fn members(
    cx: &Context<'_>,
    room: &RoomSnapshot,
    group: StateGroupId,
    slice: &Slice,
    redundant: Redundant,
    known: Known,
    have: &[Arc<StoredEvent>],
) -> Outcome<Vec<Arc<StoredEvent>>> {
    let (user, device) = (&cx.args.user, &cx.args.device);
    let mut users: HashSet<OwnedUserId> = slice.events.iter().map(|event| event.pdu.sender.clone()).collect();
    if known == Known::Nothing {
        cx.env.lazy.forget_room(user, device, room.nid);
        users.insert(user.clone());
    }
    users.retain(|member| cx.env.lazy.note_sent(user, device, room.nid, member) || redundant.0);
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let sent: HashSet<_> = have.iter().chain(&slice.events).map(|event| event.nid).collect();
    let member = Arc::<str>::from("m.room.member");
    let keys: Vec<StateKey> = users
        .iter()
        .map(|user| (member.clone(), Arc::from(user.as_str())))
        .collect();
    let found = if group == room.state_group {
        keys.iter()
            .map(|key| room.state.get(key).map(|entry| entry.event.clone()))
            .collect()
    } else {
        cx.env.rooms.state_events_at(group, &keys).await?
    };
    Ok(found
        .into_iter()
        .flatten()
        .filter(|event| !sent.contains(&event.nid))
        .collect())
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
    let covered = room.timeline_complete
        || room
            .timeline
            .front()
            .is_some_and(|event| event.pos.is_some_and(|pos| pos <= upto));
    let after = if covered {
        room.timeline
            .iter()
            .find(|event| event.pos.is_some_and(|pos| pos > upto))
            .cloned()
    } else {
        cx.first_after(room, upto).await?
    };
    Ok(after.and_then(|event| event.state_group).unwrap_or(room.state_group))
}
