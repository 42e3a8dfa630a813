//! Planning: what the drafts of local users become, given a room as it stands. Pure: no clock, no I/O, no actor.
//!
//! Every [`Append`] of a batch is taken whole or refused whole, and a refusal leaves the others alone. The result carries
//! offsets where it will carry stream positions once it is committed ([`Plan::publish`]).

mod build;
mod finish;
mod redaction;
mod template;
mod work;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{EventNid, StateGroupId, StateKeyNid, StreamPos};
use entities::store::rows::Rows;
use ruma::events::TimelineEventType;
use ruma::{OwnedEventId, OwnedServerName, OwnedUserId};

use super::commands::{Append, Appended, Draft};
use super::event::StoredEvent;
use super::snapshot::{RoomSnapshot, StateKey};
use crate::error::Outcome;
use crate::key::ServerKey;
use crate::rng::Rng;
use crate::stream::fact::Fact;

pub use build::{MAX_ID_BYTES, MAX_PDU_BYTES, seal, unsealed_create};
pub use finish::Published;
pub(in crate::room) use finish::replace;
pub(in crate::room) use redaction::{forgetful, prune, unsigned as redacted_unsigned};
pub use template::template;
#[cfg(test)]
pub(in crate::room) use template::unchecked;
pub(in crate::room) use work::{head_row, replaced_unsigned};

/// At most this many drafts are planned together.
pub const BATCH_EVENTS: usize = 50;

/// Who sent it, from which device, with which transaction id, of which type: a transaction id belongs to one path.
pub type TxnKey = (OwnedUserId, String, String, String);

/// This server, as the origin of events.
#[derive(Clone)]
pub struct Origin {
    /// Its name.
    pub server: OwnedServerName,
    /// Its signing key.
    pub key: Arc<ServerKey>,
    /// For event ids of room versions 1 and 2.
    pub rng: Rng,
}

/// What planning a batch must know beyond the snapshot; see [`Needs`].
#[derive(Clone, Debug, Default)]
pub struct Prefetched {
    /// Transactions that were answered before.
    pub txns: HashMap<TxnKey, OwnedEventId>,
    /// The interned state keys of all state drafts; `true` where the key's row is in the database already.
    pub state_keys: HashMap<StateKey, (StateKeyNid, bool)>,
    /// Events of this room that drafts refer to.
    pub events: HashMap<OwnedEventId, Arc<StoredEvent>>,
    /// State events that may have replaced one that a draft redacts.
    pub successors: Vec<Arc<StoredEvent>>,
}

/// What must be looked up before a batch can be planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Transactions that may have been answered.
    pub txns: Vec<TxnKey>,
    /// State keys to intern.
    pub state_keys: Vec<StateKey>,
    /// Events that are not in the snapshot.
    pub events: Vec<OwnedEventId>,
    /// Events that drafts redact.
    pub redacted: Vec<OwnedEventId>,
    /// How many internal numbers planning takes at most.
    pub nids: usize,
}

impl Needs {
    /// What planning `drafts` on top of `base` needs.
    #[must_use]
    pub fn of<'a>(base: &RoomSnapshot, drafts: impl IntoIterator<Item = &'a Draft>) -> Self {
        let mut needs = Self::default();
        for draft in drafts {
            needs.nids += 2;
            needs.txns.extend(work::txn_key(draft));
            if let Some(state_key) = &draft.state_key {
                let key: StateKey = (Arc::from(draft.kind.as_str()), Arc::from(state_key.as_str()));
                let fits = key.0.len().max(key.1.len()) <= build::MAX_ID_BYTES;
                // An entry of the current state knows its number; what is too long is refused.
                if fits && !base.state.contains_key(&key) {
                    needs.state_keys.push(key);
                }
            }
            if let Some(target) = redaction::target(draft) {
                if find(base, &target).is_none() {
                    needs.events.push(target.clone());
                }
                needs.redacted.push(target);
            }
        }
        if build::needs_parent_hashes(&base.rules) {
            let parents = base.extremities.iter().map(|e| &e.event_id);
            needs
                .events
                .extend(parents.filter(|id| find(base, id).is_none()).cloned());
        }
        needs
    }
}

/// The event, if the snapshot holds it.
pub(in crate::room) fn find<'a>(room: &'a RoomSnapshot, id: &OwnedEventId) -> Option<&'a Arc<StoredEvent>> {
    let in_timeline = room.timeline.iter().rev().find(|event| event.pdu.event_id == *id);
    in_timeline.or_else(|| {
        room.state
            .values()
            .map(|entry| &entry.event)
            .find(|event| event.pdu.event_id == *id)
    })
}

/// Everything besides the room and the batch.
pub struct Input<'a> {
    /// This server.
    pub origin: &'a Origin,
    /// Unix milliseconds.
    pub now: i64,
    /// The first of the internal numbers that [`Needs::nids`] asked for.
    pub first_nid: i64,
    /// What was looked up.
    pub prefetched: &'a Prefetched,
}

/// What a batch becomes. `pos` fields of new things are offsets.
#[derive(Debug)]
pub struct Plan {
    /// What to write.
    pub rows: Rows,
    /// How many positions it takes; 0 when there is nothing to commit.
    pub positions: u32,
    /// The room after the batch.
    pub snapshot: RoomSnapshot,
    /// One for each [`Append`]; `None` in place of a position means: nothing new, all was there before.
    pub replies: Vec<Outcome<Reply>>,
    facts: Vec<Fact>,
    fresh: HashMap<EventNid, Arc<StoredEvent>>,
    pruned: Vec<Arc<StoredEvent>>,
    interned: Vec<StateKey>,
    opened: Vec<i64>,
    updates: bool,
}

/// What a [`Plan`] is made of.
pub(in crate::room) struct Parts {
    pub(in crate::room) rows: Rows,
    pub(in crate::room) positions: u32,
    pub(in crate::room) snapshot: RoomSnapshot,
    pub(in crate::room) facts: Vec<Fact>,
    /// New events, and outliers that found their place.
    pub(in crate::room) fresh: HashMap<EventNid, Arc<StoredEvent>>,
    /// Events that are committed in this form: pruned ones, and history.
    pub(in crate::room) pruned: Vec<Arc<StoredEvent>>,
    /// State keys whose numbers are among the rows.
    pub(in crate::room) interned: Vec<StateKey>,
    /// Holes whose positions are offsets.
    pub(in crate::room) opened: Vec<i64>,
    /// Whether stored events change their standing.
    pub(in crate::room) updates: bool,
}

impl Plan {
    /// Without replies.
    pub(in crate::room) fn from_parts(parts: Parts) -> Self {
        let Parts {
            rows,
            positions,
            snapshot,
            facts,
            fresh,
            pruned,
            interned,
            opened,
            updates,
        } = parts;
        Self {
            rows,
            positions,
            snapshot,
            replies: Vec::new(),
            facts,
            fresh,
            pruned,
            interned,
            opened,
            updates,
        }
    }

    /// Whether there is anything that readers must learn of.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.positions > 0 || self.updates || !(self.fresh.is_empty() && self.pruned.is_empty())
    }
}

/// What became of one [`Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// One id for each draft.
    pub event_ids: Vec<OwnedEventId>,
    /// The offset of its last new event.
    pub offset: Option<i64>,
}

impl Reply {
    /// With its final position: `base` is that of offset 0, `before` that of the room before the batch.
    #[must_use]
    pub fn place(self, base: StreamPos, before: StreamPos) -> Appended {
        let pos = self.offset.map_or(before.0, |offset| base.0 + offset);
        Appended {
            event_ids: self.event_ids,
            pos,
        }
    }
}

/// Plans a batch.
#[must_use]
pub fn plan(base: &RoomSnapshot, batch: &[Append], input: &Input<'_>) -> Plan {
    let mut work = work::Work::new(base.clone(), input);
    let replies = batch.iter().map(|append| work.append(append)).collect();
    work.finish(replies)
}

/// Plans a room that does not exist yet: its create event, then everything else, all or nothing.
///
/// # Errors
/// The first refusal.
pub fn plan_new(empty: RoomSnapshot, create: super::event::Pdu, rest: &Append, input: &Input<'_>) -> Outcome<Plan> {
    let mut work = work::Work::new(empty, input);
    work.begin(create)?;
    let reply = work.append(rest)?;
    Ok(work.finish(vec![Ok(reply)]))
}

/// A snapshot of a room without events, on top of which [`plan_new`] works.
#[must_use]
pub fn empty_room(
    nid: entities::ids::RoomNid,
    room_id: ruma::OwnedRoomId,
    version: ruma::RoomVersionId,
    rules: Arc<ruma::room_version_rules::RoomVersionRules>,
) -> RoomSnapshot {
    RoomSnapshot {
        nid,
        room_id,
        version,
        rules,
        pos: StreamPos(0),
        extremities: Arc::from([]),
        state_group: StateGroupId(0),
        state_chain: super::state_group::Chain::default(),
        state: imbl::OrdMap::new(),
        timeline: imbl::Vector::new(),
        timeline_complete: true,
        local_joined: Arc::from([]),
        joined_servers: Arc::from([]),
        server_members: imbl::OrdMap::new(),
        joined_count: 0,
        invited_count: 0,
        gaps: imbl::OrdMap::new(),
        holes: imbl::OrdMap::new(),
        early_redactions: false,
    }
}

fn is_create(kind: &TimelineEventType) -> bool {
    *kind == TimelineEventType::RoomCreate
}
