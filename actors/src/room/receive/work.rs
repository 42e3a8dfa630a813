//! The room while events from elsewhere are placed into it: what was read for that, and what is to be written. No I/O.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use entities::ids::{EventNid, StateGroupId, StateKeyNid, StreamPos};
use entities::store::rows::{EventUpdate, Rows};
use ruma::{EventId, OwnedEventId, OwnedServerName};

use super::redact::Early;
use crate::error::{DomainError, Outcome};
use crate::room::cache::Reset;
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::plan::{Parts, Plan, head_row, replace};
use crate::room::resolve::{Events, StateIds};
use crate::room::snapshot::{RoomSnapshot, StateEntry, StateKey};
use crate::room::state_group::{Chain, ContentHash};
use crate::stream::fact::Fact;

/// The entries of a state, as a snapshot holds them.
pub(super) type Entries = imbl::OrdMap<StateKey, StateEntry>;

/// The content of a state group.
#[derive(Clone)]
pub(super) enum Held {
    /// As a snapshot had it.
    Entries(Entries),
    /// By event id.
    Ids(StateIds),
}

/// A state group whose content is at hand.
#[derive(Clone)]
pub(super) struct Known {
    pub group: StateGroupId,
    pub chain: Chain,
    pub held: Held,
}

/// What has been gathered for the commit.
#[derive(Default)]
pub(super) struct Out {
    pub rows: Rows,
    pub facts: Vec<Fact>,
    /// Events whose positions are offsets, or that have none.
    pub fresh: HashMap<EventNid, Arc<StoredEvent>>,
    /// Events in their final form.
    pub settled: HashMap<EventNid, Arc<StoredEvent>>,
    /// State keys whose entry is another.
    pub changed: HashSet<StateKey>,
    pub interned: HashSet<StateKey>,
    pub groups: HashMap<ContentHash, (StateGroupId, Chain)>,
    /// Holes whose positions are offsets.
    pub opened: Vec<i64>,
    /// Whether stored events change their standing.
    pub updates: bool,
    /// The next offset.
    pub next: i64,
}

/// The room while a command is worked on.
pub(in crate::room) struct Work {
    pub(in crate::room) room: RoomSnapshot,
    pub(super) server: OwnedServerName,
    /// Events that were read or have just been placed.
    pub(super) stored: HashMap<OwnedEventId, Arc<StoredEvent>>,
    /// Events that were looked for and are not there.
    pub(super) absent: HashSet<OwnedEventId>,
    /// The state after events.
    pub(super) after: HashMap<OwnedEventId, StateIds>,
    /// The parents of soft-failed and rejected events.
    pub(super) hidden: HashMap<OwnedEventId, Vec<OwnedEventId>>,
    /// Groups whose content is at hand, the newest last.
    pub(super) known: Vec<Known>,
    /// The numbers of state keys; `false`: not stored yet.
    pub(super) keys: HashMap<StateKey, (StateKeyNid, bool)>,
    /// Redactions that wait for events.
    pub(super) early: HashMap<OwnedEventId, Vec<Early>>,
    /// State events that may tell what another said, which is to be redacted.
    pub(super) successors: Vec<Arc<StoredEvent>>,
    /// Internal numbers to be used.
    pub(super) nids: std::ops::Range<i64>,
    /// Some state, and the same by event id.
    ids: Option<(Entries, StateIds)>,
    /// The last event that changed more of the current state than its own entry.
    pub(super) reset: Option<Reset>,
    pub(super) out: Out,
}

impl Events for Work {
    fn event(&self, id: &EventId) -> Option<&Arc<Pdu>> {
        self.stored.get(id).map(|event| &event.pdu)
    }

    /// Events are numbered after those that authorize them.
    fn age(&self, id: &EventId, key: Option<&StateKey>) -> Option<i64> {
        let standing = || {
            let entry = self.room.state.get(key?)?;
            (*entry.event.pdu.event_id == *id).then_some(&entry.event)
        };
        self.stored.get(id).or_else(standing).map(|event| event.nid.0)
    }
}

impl Work {
    pub(super) fn new(room: &RoomSnapshot, server: OwnedServerName) -> Self {
        let standing = Known {
            group: room.state_group,
            chain: room.state_chain,
            held: Held::Entries(room.state.clone()),
        };
        Self {
            room: room.clone(),
            server,
            stored: HashMap::new(),
            absent: HashSet::new(),
            after: HashMap::new(),
            hidden: HashMap::new(),
            known: vec![standing],
            keys: HashMap::new(),
            early: HashMap::new(),
            successors: Vec::new(),
            nids: 0..0,
            ids: None,
            reset: None,
            out: Out::default(),
        }
    }

    pub(super) fn nid(&mut self) -> Outcome<i64> {
        let exhausted = || DomainError::internal("fewer numbers were taken than events need");
        self.nids.next().ok_or_else(exhausted)
    }

    pub(super) fn know(&mut self, event: Arc<StoredEvent>) {
        self.absent.remove(event.event_id());
        self.stored.insert(event.pdu.event_id.clone(), event);
    }

    /// An event that is at hand without asking the database.
    pub(super) fn find(&self, id: &EventId) -> Option<&Arc<StoredEvent>> {
        let timeline = || self.room.timeline.iter().rev().find(|event| event.event_id() == id);
        self.stored.get(id).or_else(timeline)
    }

    /// The room's current state by event id.
    pub(super) fn current(&mut self) -> StateIds {
        let state = self.room.state.clone();
        self.ids_of(&state)
    }

    /// A state by event id.
    pub(super) fn ids_of(&mut self, entries: &Entries) -> StateIds {
        let id = |entry: &StateEntry| entry.event.pdu.event_id.clone();
        let ids = match self.ids.take() {
            Some((base, mut ids)) => {
                for change in base.diff(entries) {
                    use imbl::ordmap::DiffItem::{Add, Remove, Update};
                    match change {
                        Add(key, entry) | Update { new: (key, entry), .. } => drop(ids.insert(key.clone(), id(entry))),
                        Remove(key, _) => drop(ids.remove(key)),
                    }
                }
                ids
            }
            None => entries.iter().map(|(key, entry)| (key.clone(), id(entry))).collect(),
        };
        self.ids = Some((entries.clone(), ids.clone()));
        ids
    }

    /// The content of a group, if it is at hand.
    pub(super) fn group_content(&mut self, group: StateGroupId) -> Option<StateIds> {
        if group == self.room.state_group {
            return Some(self.current());
        }
        let held = self.known.iter().rev().find(|known| known.group == group)?.held.clone();
        Some(match held {
            Held::Entries(entries) => self.ids_of(&entries),
            Held::Ids(ids) => ids,
        })
    }

    /// The number of an event that a state has under `key`.
    pub(super) fn nid_of(&self, key: &StateKey, id: &EventId) -> Option<EventNid> {
        let entry = self.room.state.get(key);
        let standing = entry.filter(|entry| entry.event.event_id() == id);
        standing
            .map(|entry| entry.event.nid)
            .or_else(|| self.stored.get(id).map(|event| event.nid))
    }

    /// The number of a state key, which is noted as used.
    pub(super) fn key_nid(&mut self, key: &StateKey) -> Outcome<StateKeyNid> {
        if let Some(entry) = self.room.state.get(key) {
            return Ok(entry.key_nid);
        }
        let missing = || DomainError::internal(format!("state key ({}, {}) has no number", key.0, key.1));
        let (nid, stored) = *self.keys.get(key).ok_or_else(missing)?;
        if !stored && self.out.interned.insert(key.clone()) {
            self.out.rows.state_keys.push(entities::state_key::Model {
                nid: nid.0,
                r#type: key.0.to_string(),
                state_key: key.1.to_string(),
            });
        }
        Ok(nid)
    }

    /// Makes a stored event of a PDU; an outlier keeps its number and what is stored of it.
    pub(super) fn event_of(
        &mut self,
        pdu: &Arc<Pdu>,
        status: Status,
        group: Option<StateGroupId>,
        pos: Option<StreamPos>,
        unsigned: Option<Arc<str>>,
    ) -> Outcome<Arc<StoredEvent>> {
        let mut event = StoredEvent {
            nid: EventNid(0),
            room_nid: self.room.nid,
            pos,
            state_group: group,
            status,
            redacted_by: None,
            txn: None,
            unsigned,
            pdu: pdu.clone(),
        };
        match self.stored.get(&pdu.event_id) {
            Some(outlier) => {
                event.nid = outlier.nid;
                event.pdu = if outlier.pdu.rejected == pdu.rejected {
                    outlier.pdu.clone()
                } else {
                    let rejected = pdu.rejected;
                    Arc::new(Pdu {
                        rejected,
                        ..(*outlier.pdu).clone()
                    })
                };
                if outlier.redacted_by.is_some() {
                    event.redacted_by = outlier.redacted_by.clone();
                    event.unsigned = outlier.unsigned.clone();
                }
            }
            None => event.nid = EventNid(self.nid()?),
        }
        Ok(Arc::new(event))
    }

    /// Inserts a new event, or lifts an outlier to its place. `settled`: its position is final.
    pub(super) fn write(&mut self, event: &Arc<StoredEvent>, settled: bool) {
        let rows = &mut self.out.rows;
        let is_stored = self.stored.contains_key(event.event_id())
            && !self.out.fresh.contains_key(&event.nid)
            && !self.out.settled.contains_key(&event.nid);
        if is_stored {
            self.out.updates = true;
            let updates = if settled {
                &mut rows.history_updates
            } else {
                &mut rows.event_updates
            };
            updates.push(EventUpdate {
                nid: event.nid.0,
                pos: event.pos.map(|pos| pos.0),
                state_group: event.state_group.map(|group| group.0),
                status: event.status.code(),
            });
            if let Some(unsigned) = event.unsigned.as_deref().filter(|_| event.redacted_by.is_none()) {
                rows.unsigned_updates.push((event.nid.0, unsigned.to_owned()));
            }
        } else {
            // An outlier of this very command gives way to its timeline form.
            if self.out.fresh.remove(&event.nid).is_some() {
                rows.events.retain(|row| row.nid != event.nid.0);
            }
            let list = if settled { &mut rows.history } else { &mut rows.events };
            list.push(event.to_row());
        }
        let list = if settled {
            &mut self.out.settled
        } else {
            &mut self.out.fresh
        };
        list.insert(event.nid, event.clone());
        self.know(event.clone());
    }

    /// Stores an event that no reader sees.
    pub(super) fn hide(&mut self, pdu: &Arc<Pdu>, status: Status, group: Option<StateGroupId>) -> Outcome<()> {
        let rejected = Pdu {
            rejected: status == Status::Rejected,
            ..(**pdu).clone()
        };
        let event = self.event_of(&Arc::new(rejected), status, group, None, None)?;
        self.write(&event, false);
        Ok(())
    }

    /// An event has another form from here on.
    pub(super) fn change(&mut self, event: Arc<StoredEvent>) {
        replace(&mut self.room, &event);
        match self.out.fresh.get_mut(&event.nid) {
            Some(fresh) => *fresh = event.clone(),
            None => drop(self.out.settled.insert(event.nid, event.clone())),
        }
        self.know(event);
    }

    /// Everything for one commit.
    pub(super) fn finish(self) -> Plan {
        let Out {
            mut rows,
            facts,
            fresh,
            settled,
            changed,
            interned,
            opened,
            updates,
            next,
            ..
        } = self.out;
        let room = self.room;
        for key in &changed {
            let (kind, state_key) = (key.0.to_string(), key.1.to_string());
            match room.state.get(key) {
                Some(entry) => rows.current_state.push(entities::current_state::Model {
                    room_nid: room.nid.0,
                    r#type: kind,
                    state_key,
                    event_nid: entry.event.nid.0,
                }),
                None => rows.current_state_removed.push((room.nid.0, kind, state_key)),
            }
        }
        if next > 0 {
            rows.room_heads.push(head_row(&room));
        }
        Plan::from_parts(Parts {
            rows,
            positions: u32::try_from(next).unwrap_or(u32::MAX),
            snapshot: room,
            facts,
            fresh,
            pruned: settled.into_values().collect(),
            interned: interned.into_iter().collect(),
            opened,
            updates,
        })
    }
}
