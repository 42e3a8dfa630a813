//! Member events of local users that do not follow what this server knows of the room: the join with which a room is taken
//! over, and what happens to those who are not in it.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{StateKeyNid, StreamPos};
use entities::store::rows::Rows;
use ruma::{OwnedServerName, UserId};

use super::apply::Change;
use super::work::Work;
use crate::error::Outcome;
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::plan::{Plan, replaced_unsigned};
use crate::room::snapshot::{RoomSnapshot, StateKey};

/// What a join needs.
pub(in crate::room) struct Arrival {
    pub join: Arc<Pdu>,
    /// Its parents, and itself, as far as they are stored.
    pub known: Vec<Arc<StoredEvent>>,
    /// The number of its state key.
    pub keys: HashMap<StateKey, (StateKeyNid, bool)>,
    /// Internal numbers.
    pub nids: std::ops::Range<i64>,
    /// Whether there is a timeline from an earlier time.
    pub rejoined: bool,
    /// What is written with it; memberships take its position.
    pub rows: Rows,
}

/// Makes the join the newest event of a room whose state is that before it.
pub(in crate::room) fn arrive(room: &RoomSnapshot, server: OwnedServerName, arrival: Arrival) -> Outcome<Plan> {
    let mut work = Work::new(room, server);
    let Arrival {
        join,
        known,
        keys,
        nids,
        rejoined,
        mut rows,
    } = arrival;
    work.keys = keys;
    work.nids = nids;
    known.into_iter().for_each(|event| work.know(event));
    let unknown = work.unknown_parents(&join);
    if !unknown.is_empty() {
        let hole = if rejoined { Some(work.open_hole()?) } else { None };
        work.open_gaps(&join, &unknown, hole);
    }
    let key = join.key();
    let replaced = key.as_ref().and_then(|key| room.state.get(key));
    let event = work.enter(&join, room.state_group, replaced.map(|entry| &*entry.event))?;
    work.set_extremities(&event, std::slice::from_ref(&join.event_id));
    let pos = event.pos.unwrap_or_default();
    let mut users = Vec::new();
    for row in &mut rows.memberships {
        row.pos = pos.0;
        users.extend(
            UserId::parse(row.user_id.as_str())
                .ok()
                .filter(|user| user.server_name() == work.server),
        );
    }
    // What stands in `rows` comes first: the join's own rows may replace some of it.
    std::mem::swap(&mut work.out.rows, &mut rows);
    work.out.rows.merge(rows);
    if let Some(key) = key {
        let change = Change {
            key,
            event: Some(event.clone()),
        };
        users.extend(work.step(change, &event)?);
    }
    let nobody = Arc::from([]);
    work.announce(&event, &nobody, &users, Arc::from([]));
    work.fill_gap(&join);
    work.redact_early(&event)?;
    Ok(work.finish())
}

/// A member event of somebody who is not in the room.
pub(in crate::room) struct Outside {
    pub pdu: Arc<Pdu>,
    /// The event itself, if it is stored.
    pub known: Vec<Arc<StoredEvent>>,
    /// The number of its state key.
    pub keys: HashMap<StateKey, (StateKeyNid, bool)>,
    /// Internal numbers.
    pub nids: std::ops::Range<i64>,
    /// What is written with it.
    pub rows: Rows,
}

/// Puts the event into the state of a room that this server is not in any more, outside of the timeline.
pub(in crate::room) fn outside(room: &RoomSnapshot, server: OwnedServerName, event: Outside) -> Outcome<Plan> {
    let mut work = Work::new(room, server);
    work.keys = event.keys;
    work.nids = event.nids;
    work.out.rows = event.rows;
    event.known.into_iter().for_each(|event| work.know(event));
    let pdu = event.pdu;
    let key = pdu.key();
    let replaced = key.as_ref().and_then(|key| room.state.get(key));
    let unsigned = replaced.map(|entry| replaced_unsigned(&entry.event));
    let pos = StreamPos(work.out.next);
    work.out.next += 1;
    let event = work.event_of(&pdu, Status::Outlier, None, Some(pos), unsigned)?;
    work.write(&event, false);
    work.room.pos = pos;
    let mut users = Vec::new();
    if let Some(key) = key {
        let change = Change {
            key,
            event: Some(event.clone()),
        };
        users = work.step(change, &event)?;
    }
    work.announce(&event, &Arc::from([]), &users, Arc::from([]));
    Ok(work.finish())
}
