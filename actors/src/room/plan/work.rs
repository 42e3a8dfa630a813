//! The room as it changes while a batch is planned.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use entities::ids::{EventNid, StateGroupId, StateKeyNid, StreamPos};
use entities::store::rows::{RedactedEvent, Rows};
use entities::{current_state, membership, room_head, state_key};
use ruma::{EventId, OwnedEventId, OwnedServerName, OwnedUserId, UserId};
use serde_json::json;

use super::build::{self, Content};
use super::{Input, Plan, Reply, TxnKey, find, redaction};
use crate::error::{DomainError, Outcome};
use crate::room::commands::{Append, Draft};
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::snapshot::{Extremity, RoomSnapshot, StateEntry, StateKey, TIMELINE_TAIL};
use crate::room::state_group::{Change, FullMap, NewGroup};
use crate::room::{auth, members};
use crate::stream::fact::{Fact, FactKind};

/// The part that a refused [`Append`] takes back. Cloning is cheap.
#[derive(Clone)]
struct Live {
    room: RoomSnapshot,
    txns: imbl::HashMap<TxnKey, OwnedEventId>,
    fresh: imbl::OrdMap<OwnedEventId, Arc<StoredEvent>>,
    /// Older events that have another form now.
    changed: imbl::OrdMap<OwnedEventId, Arc<StoredEvent>>,
    /// Servers of the room but this one.
    remote: Arc<[OwnedServerName]>,
    next: i64,
}

/// What one [`Append`] adds.
#[derive(Default)]
struct Out {
    rows: Rows,
    facts: Vec<Fact>,
}

/// A batch being planned.
pub(super) struct Work<'a> {
    input: &'a Input<'a>,
    live: Live,
    out: Out,
    next_nid: i64,
}

impl<'a> Work<'a> {
    pub(super) fn new(room: RoomSnapshot, input: &'a Input<'a>) -> Self {
        let remote = members::without(&room.joined_servers, &input.origin.server);
        let live = Live {
            room,
            txns: imbl::HashMap::new(),
            fresh: imbl::OrdMap::new(),
            changed: imbl::OrdMap::new(),
            remote,
            next: 0,
        };
        Self {
            next_nid: input.first_nid,
            input,
            live,
            out: Out::default(),
        }
    }

    /// Takes all drafts or none.
    pub(super) fn append(&mut self, append: &Append) -> Outcome<Reply> {
        let before = self.live.clone();
        let mut out = Out::default();
        let mut reply = Reply {
            event_ids: Vec::with_capacity(append.drafts.len()),
            offset: None,
        };
        for draft in &append.drafts {
            match self.draft(draft, &mut out) {
                Ok((event_id, offset)) => {
                    reply.event_ids.push(event_id);
                    reply.offset = offset.or(reply.offset);
                }
                Err(refusal) => {
                    self.live = before;
                    return Err(refusal);
                }
            }
        }
        self.take(out);
        Ok(reply)
    }

    /// Begins a room with its create event.
    pub(super) fn begin(&mut self, create: Pdu) -> Outcome<()> {
        auth::check_auth(&create, &self.live.room.rules, |_, _| None).map_err(DomainError::forbidden)?;
        let mut out = Out::default();
        self.admit(create, None, &mut out)?;
        self.take(out);
        Ok(())
    }

    fn take(&mut self, out: Out) {
        self.out.rows.merge(out.rows);
        self.out.facts.extend(out.facts);
    }

    fn nid(&mut self) -> i64 {
        let nid = self.next_nid;
        self.next_nid += 1;
        nid
    }

    fn lookup(&self, id: &EventId) -> Option<Arc<StoredEvent>> {
        let changed = self.live.fresh.get(id).or_else(|| self.live.changed.get(id));
        let id = id.to_owned();
        changed
            .or_else(|| find(&self.live.room, &id))
            .or_else(|| self.input.prefetched.events.get(&id))
            .cloned()
    }

    /// The event that this transaction made before, in the database or in this batch.
    fn answered(&self, draft: &Draft) -> Option<OwnedEventId> {
        let key = txn_key(draft)?;
        self.input
            .prefetched
            .txns
            .get(&key)
            .or_else(|| self.live.txns.get(&key))
            .cloned()
    }

    /// One draft: the id that answers it, and its offset if it became a new event.
    fn draft(&mut self, draft: &Draft, out: &mut Out) -> Outcome<(OwnedEventId, Option<i64>)> {
        if let Some(event_id) = self.answered(draft) {
            return Ok((event_id, None));
        }
        build::check_names(draft)?;
        let redacts = redaction::target(draft);
        if draft.kind == redaction::KIND && draft.state_key.is_none() && redacts.is_none() {
            return Err(DomainError::bad_json("a redaction needs `redacts`"));
        }
        let room = &self.live.room;
        let content = Content::of(draft, redacts.as_deref(), &room.rules)?;
        if let Some(standing) = standing(room, draft)
            && content.repeats(&standing.pdu, draft)
        {
            return Ok((standing.pdu.event_id.clone(), None));
        }
        let lookup = |id: &EventId| self.lookup(id);
        let object = build::unsealed(room, draft, content, redacts.as_deref(), self.input.now, lookup)?;
        let pdu = build::seal(object, &room.rules, self.input.origin)?;
        let state = |kind: &str, key: &str| room.state_event(kind, key).map(|event| event.pdu.clone());
        auth::check_auth(&pdu, &room.rules, state).map_err(DomainError::forbidden)?;
        let target = redacts.and_then(|id| self.lookup(&id));
        if draft.kind == redaction::KIND && draft.state_key.is_none() {
            redaction::check(room, draft, target.as_deref())?;
        }
        let event = self.admit(pdu, draft.txn.as_ref(), out)?;
        if let Some(key) = txn_key(draft) {
            self.live.txns.insert(key, event.pdu.event_id.clone());
        }
        if let Some(target) = target {
            self.prune(&target, &event, out)?;
        }
        Ok((event.pdu.event_id.clone(), event.pos.map(|pos| pos.0)))
    }

    /// Makes an authorized event part of the room.
    fn admit(&mut self, pdu: Pdu, txn: Option<&(String, String)>, out: &mut Out) -> Outcome<Arc<StoredEvent>> {
        let key = pdu
            .state_key
            .as_deref()
            .map(|key| -> StateKey { (Arc::from(pdu.kind.to_string()), Arc::from(key)) });
        let replaced = key
            .as_ref()
            .and_then(|key| self.live.room.state.get(key))
            .map(|entry| entry.event.clone());
        let offset = self.live.next;
        self.live.next += 1;
        let event = Arc::new(StoredEvent {
            nid: EventNid(self.nid()),
            room_nid: self.live.room.nid,
            pos: Some(StreamPos(offset)),
            state_group: Some(self.live.room.state_group),
            status: Status::Accepted,
            redacted_by: None,
            txn: txn.map(|(device, txn)| (Box::from(device.as_str()), Box::from(txn.as_str()))),
            unsigned: replaced.as_deref().map(replaced_unsigned),
            pdu: Arc::new(pdu),
        });
        out.rows.events.push(event.to_row());
        self.live.fresh.insert(event.pdu.event_id.clone(), event.clone());
        self.grow(&event);
        let (users, servers) = (self.live.room.local_joined.clone(), self.live.remote.clone());
        match key {
            Some(key) => {
                self.set_state(&key, &event, out)?;
                self.announce_state(&event, (users, servers), out);
            }
            None => self.announce(&event, users, servers, out),
        }
        Ok(event)
    }

    /// The event is the newest of the timeline and the child of its parents.
    fn grow(&mut self, event: &Arc<StoredEvent>) {
        let room = &mut self.live.room;
        let newest = Extremity {
            nid: event.nid,
            event_id: event.pdu.event_id.clone(),
            depth: event.pdu.depth,
        };
        let left = room
            .extremities
            .iter()
            .filter(|e| !event.pdu.prev_events.contains(&e.event_id))
            .cloned();
        room.extremities = left.chain([newest]).collect();
        if !event.pdu.is_dummy() {
            room.timeline.push_back(event.clone());
        }
        if room.timeline.len() > TIMELINE_TAIL {
            room.timeline.pop_front();
            room.timeline_complete = false;
        }
        room.pos = event.pos.unwrap_or(room.pos);
    }

    /// The event becomes the current state of its key: new state group, `current_state`, `membership`, counts.
    fn set_state(&mut self, key: &StateKey, event: &Arc<StoredEvent>, out: &mut Out) -> Outcome<()> {
        let key_nid = self.intern(key, out)?;
        let group = self.nid();
        let room = &mut self.live.room;
        let old = room.state.insert(
            key.clone(),
            StateEntry {
                key_nid,
                event: event.clone(),
            },
        );
        let change = Change {
            key: key_nid,
            old: old.as_ref().map(|entry| entry.event.nid),
            new: Some(event.nid),
        };
        let map = || FullMap::from_entries(room.state.values().map(|entry| (entry.key_nid, entry.event.nid)));
        let next = NewGroup::after(room.state_group, &room.state_chain, &[change], map)
            .map_err(|e| DomainError::internal(format!("state group: {e}")))?;
        room.state_group = StateGroupId(group);
        room.state_chain = next.chain;
        out.rows.state_groups.push(next.to_row(room.state_group, room.nid));
        out.rows.current_state.push(current_state::Model {
            room_nid: room.nid.0,
            r#type: key.0.to_string(),
            state_key: key.1.to_string(),
            event_nid: event.nid.0,
        });
        if &*key.0 == "m.room.member"
            && let Ok(user) = <&UserId>::try_from(&*key.1)
        {
            let old = old.and_then(|entry| entry.event.pdu.membership());
            self.set_membership(user, old.as_deref(), event, out);
        }
        Ok(())
    }

    fn intern(&mut self, key: &StateKey, out: &mut Out) -> Outcome<StateKeyNid> {
        if let Some(entry) = self.live.room.state.get(key) {
            return Ok(entry.key_nid);
        }
        let missing = || DomainError::internal(format!("state key ({}, {}) is not interned", key.0, key.1));
        let (nid, stored) = *self.input.prefetched.state_keys.get(key).ok_or_else(missing)?;
        if !stored {
            out.rows.state_keys.push(state_key::Model {
                nid: nid.0,
                r#type: key.0.to_string(),
                state_key: key.1.to_string(),
            });
        }
        Ok(nid)
    }

    fn set_membership(&mut self, user: &UserId, old: Option<&str>, event: &StoredEvent, out: &mut Out) {
        let new = event.pdu.membership().unwrap_or_else(|| "leave".to_owned());
        let server = &self.input.origin.server;
        members::change(&mut self.live.room, user, old.unwrap_or("leave"), &new, server);
        self.live.remote = members::without(&self.live.room.joined_servers, server);
        out.rows.memberships.push(membership::Model {
            room_nid: event.room_nid.0,
            user_id: user.to_string(),
            membership: new,
            sender: event.pdu.sender.to_string(),
            event_nid: event.nid.0,
            pos: event.pos.map_or(0, |pos| pos.0),
            forgotten: false,
        });
    }

    /// Who is told of a state event: whoever was in the room before it or is after it, and the target of a member event.
    fn announce_state(
        &self,
        event: &Arc<StoredEvent>,
        before: (Arc<[OwnedUserId]>, Arc<[OwnedServerName]>),
        out: &mut Out,
    ) {
        let (mut users, mut servers) = before;
        let target = event.pdu.state_user().filter(|_| event.pdu.membership().is_some());
        if let Some(target) = target {
            if target.server_name() == self.input.origin.server {
                users = members::with(&users, target);
            } else {
                servers = members::with(&servers, target.server_name());
            }
        }
        self.announce(event, users, servers, out);
    }

    fn announce(
        &self,
        event: &Arc<StoredEvent>,
        users: Arc<[OwnedUserId]>,
        servers: Arc<[OwnedServerName]>,
        out: &mut Out,
    ) {
        // Other servers get them with the events that follow.
        if event.pdu.is_dummy() {
            return;
        }
        let kind = FactKind::Event {
            room_id: self.live.room.room_id.clone(),
            event: event.clone(),
            servers,
        };
        out.facts.push(Fact {
            pos: event.pos.unwrap_or_default(),
            users,
            kind,
        });
    }

    /// Replaces `target` by its pruned form wherever it stands.
    fn prune(&mut self, target: &StoredEvent, by: &StoredEvent, out: &mut Out) -> Outcome<()> {
        if target.redacted_by.is_some() {
            return Ok(());
        }
        let pruned = redaction::prune(target, by, &self.live.room.rules)?;
        out.rows.redactions.push(RedactedEvent {
            nid: pruned.nid.0,
            redacted_by: by.event_id().to_string(),
            json: pruned.pdu.json.to_string(),
            unsigned: redaction::unsigned(by),
        });
        self.change(&pruned);
        let key = pruned
            .pdu
            .state_key
            .as_deref()
            .map(|key| (pruned.pdu.kind.to_string(), key));
        let Some((kind, key)) = key else { return Ok(()) };
        let room = &self.live.room;
        let held = room
            .timeline
            .iter()
            .chain(room.state_event(&kind, key))
            .chain(&self.input.prefetched.successors);
        let later: BTreeSet<OwnedEventId> = held
            .filter(|event| event.pdu.is_state(&kind, key))
            .map(|event| event.pdu.event_id.clone())
            .collect();
        for id in later {
            let newest = self.lookup(&id).or_else(|| self.successor(&id));
            if let Some(event) = newest.and_then(|event| redaction::forgetful(&event, &pruned)) {
                out.rows
                    .unsigned_updates
                    .push((event.nid.0, event.unsigned.as_deref().unwrap_or_default().to_owned()));
                self.change(&event);
            }
        }
        Ok(())
    }

    fn successor(&self, id: &EventId) -> Option<Arc<StoredEvent>> {
        self.input
            .prefetched
            .successors
            .iter()
            .find(|event| event.pdu.event_id == *id)
            .cloned()
    }

    /// An event has another form from here on.
    fn change(&mut self, event: &Arc<StoredEvent>) {
        super::finish::replace(&mut self.live.room, event);
        match self.live.fresh.get_mut(event.event_id()) {
            Some(fresh) => *fresh = event.clone(),
            None => drop(self.live.changed.insert(event.pdu.event_id.clone(), event.clone())),
        }
    }

    pub(super) fn finish(self, replies: Vec<Outcome<Reply>>) -> Plan {
        let Out { mut rows, facts } = self.out;
        let pruned = self.live.changed.values().cloned().collect();
        let room = self.live.room;
        if self.live.next > 0 {
            rows.room_heads.push(head_row(&room));
        }
        let interned = rows
            .state_keys
            .iter()
            .map(|row| -> StateKey { (Arc::from(row.r#type.as_str()), Arc::from(row.state_key.as_str())) });
        let interned = interned.collect();
        let fresh: HashMap<_, _> = self
            .live
            .fresh
            .values()
            .map(|event| (event.nid, event.clone()))
            .collect();
        Plan {
            rows,
            positions: u32::try_from(self.live.next).unwrap_or(u32::MAX),
            snapshot: room,
            replies,
            facts,
            fresh,
            pruned,
            interned,
            opened: Vec::new(),
            updates: false,
        }
    }
}

/// The state event that the draft would replace, if a repetition of it needs no new event. A member event repeats
/// itself; any other state is for those in the room to repeat.
fn standing<'a>(room: &'a RoomSnapshot, draft: &Draft) -> Option<&'a Arc<StoredEvent>> {
    let standing = room.state_event(&draft.kind, draft.state_key.as_deref()?)?;
    (draft.kind == "m.room.member" || room.is_joined(&draft.sender)).then_some(standing)
}

/// What tells the draft's transaction from others.
pub(super) fn txn_key(draft: &Draft) -> Option<TxnKey> {
    let (device, txn) = draft.txn.as_ref()?;
    Some((draft.sender.clone(), device.clone(), txn.clone(), draft.kind.clone()))
}

/// What the readers of a state event learn about the one it replaced.
pub(in crate::room) fn replaced_unsigned(replaced: &StoredEvent) -> Arc<str> {
    let value = json!({
        "prev_content": replaced.pdu.content,
        "prev_sender": replaced.pdu.sender,
        "replaces_state": replaced.pdu.event_id,
    });
    Arc::from(value.to_string())
}

/// The row of a room's head.
pub(in crate::room) fn head_row(room: &RoomSnapshot) -> room_head::Model {
    let extremities: Vec<_> = room
        .extremities
        .iter()
        .map(|e| (e.nid.0, e.event_id.as_str(), e.depth))
        .collect();
    room_head::Model {
        room_nid: room.nid.0,
        extremities: json!(extremities).to_string(),
        state_group: room.state_group.0,
        pos: room.pos.0,
    }
}
