//! What placing an event changes: rows, the snapshot, facts.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use entities::ids::{EventNid, StateGroupId, StateKeyNid, StreamPos};
use entities::store::rows::{EventUpdate, RedactedEvent, Rows};
use entities::{current_state, membership, state_key as state_key_row};
use ruma::{OwnedEventId, OwnedUserId, UserId};

use super::Receiver;
use crate::error::{DomainError, Outcome};
use crate::room::auth::Power;
use crate::room::commands::Verdict;
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::ingest::Placed;
use crate::room::members;
use crate::room::plan::{Parts, Plan, forgetful, head_row, prune, redacted_unsigned, replace, replaced_unsigned};
use crate::room::redact::redaction_allowed;
use crate::room::resolve::StateIds;
use crate::room::snapshot::{Extremity, StateEntry, StateKey, TIMELINE_TAIL};
use crate::room::state_group::{Chain, ContentHash, FullMap, NewGroup};
use crate::stream::fact::{Fact, FactKind};

/// What has been gathered for the commit.
#[derive(Default)]
pub(super) struct Out {
    rows: Rows,
    facts: Vec<Fact>,
    fresh: HashMap<EventNid, Arc<StoredEvent>>,
    pruned: Vec<Arc<StoredEvent>>,
    changed: BTreeSet<StateKey>,
    interned: BTreeSet<StateKey>,
    groups: HashMap<ContentHash, (StateGroupId, Chain)>,
    updates: bool,
    next: i64,
}

impl Receiver<'_> {
    pub(super) async fn apply(&mut self, pdu: &Arc<Pdu>, placed: Placed) -> Outcome<Verdict> {
        let status = match &placed.verdict {
            Verdict::Accepted => Status::Accepted,
            Verdict::SoftFailed => Status::SoftFailed,
            Verdict::Rejected(_) => Status::Rejected,
            Verdict::Duplicate | Verdict::Missing(_) => return Ok(placed.verdict),
        };
        let group = self.group_of(&placed.before).await?.0;
        self.ground.after.insert(pdu.event_id.clone(), placed.after.clone());
        if status == Status::Accepted {
            self.accept(pdu, group, &placed).await?;
        } else {
            self.store_hidden(pdu, status, Some(group)).await?;
        }
        Ok(placed.verdict)
    }

    /// Stores an event that no reader sees.
    pub(super) async fn store_hidden(
        &mut self,
        pdu: &Arc<Pdu>,
        status: Status,
        group: Option<StateGroupId>,
    ) -> Outcome<Arc<StoredEvent>> {
        let pdu = Arc::new(Pdu {
            rejected: status == Status::Rejected,
            ..(**pdu).clone()
        });
        let event = self.stored_event(&pdu, status, group, None, None).await?;
        self.write(&event);
        Ok(event)
    }

    async fn stored_event(
        &self,
        pdu: &Arc<Pdu>,
        status: Status,
        group: Option<StateGroupId>,
        pos: Option<StreamPos>,
        unsigned: Option<Arc<str>>,
    ) -> Outcome<Arc<StoredEvent>> {
        let nid = match self.stored.get(&pdu.event_id) {
            Some(outlier) => outlier.nid,
            None => EventNid(self.env.ids.take(1).await?),
        };
        Ok(Arc::new(StoredEvent {
            nid,
            room_nid: self.room.nid,
            pos,
            state_group: group,
            status,
            redacted_by: None,
            txn: None,
            unsigned,
            pdu: pdu.clone(),
        }))
    }

    /// Inserts a new event, or lifts an outlier to its place.
    fn write(&mut self, event: &Arc<StoredEvent>) {
        if self.stored.contains_key(event.event_id()) && !self.out.fresh.contains_key(&event.nid) {
            self.out.updates = true;
            self.out.rows.event_updates.push(EventUpdate {
                nid: event.nid.0,
                pos: event.pos.map(|pos| pos.0),
                state_group: event.state_group.map(|group| group.0),
                status: event.status.code(),
            });
        } else {
            // An outlier of this very command gives way to its timeline form.
            self.out.rows.events.retain(|row| row.nid != event.nid.0);
            self.out.rows.events.push(event.to_row());
        }
        self.out.fresh.insert(event.nid, event.clone());
        self.know(event.clone());
    }

    async fn accept(&mut self, pdu: &Arc<Pdu>, group: StateGroupId, placed: &Placed) -> Outcome<()> {
        let offset = self.out.next;
        self.out.next += 1;
        let key = pdu
            .state_key
            .as_deref()
            .map(|key| -> StateKey { (Arc::from(pdu.kind.to_string()), Arc::from(key)) });
        let replaced = key
            .as_ref()
            .and_then(|key| placed.before.get(key))
            .and_then(|id| self.stored.get(id));
        let unsigned = replaced.map(|old| replaced_unsigned(old));
        let pos = StreamPos(offset);
        let event = self
            .stored_event(pdu, Status::Accepted, Some(group), Some(pos), unsigned)
            .await?;
        self.write(&event);
        self.follow(&event, &placed.extremities);
        let before = self.room.local_joined.clone();
        let targets = self.set_current(&placed.current, pos).await?;
        let mut users = before;
        for user in self.room.local_joined.iter().chain(&targets) {
            users = members::with(&users, user);
        }
        let kind = FactKind::Event {
            room_id: self.room.room_id.clone(),
            event: event.clone(),
            servers: Arc::from([]),
        };
        self.out.facts.push(Fact { pos, users, kind });
        self.redact(&event, &placed.before).await
    }

    /// The event joins the timeline and the extremities.
    fn follow(&mut self, event: &Arc<StoredEvent>, extremities: &[OwnedEventId]) {
        let old = self.room.extremities.clone();
        let extremity = |id: &OwnedEventId| {
            let known = old.iter().find(|e| e.event_id == *id).cloned();
            let own = (*id == event.pdu.event_id).then(|| Extremity {
                nid: event.nid,
                event_id: id.clone(),
                depth: event.pdu.depth,
            });
            known.or(own)
        };
        self.room.extremities = extremities.iter().filter_map(extremity).collect();
        self.ground.extremities = extremities.to_vec();
        self.room.timeline.push_back(event.clone());
        if self.room.timeline.len() > TIMELINE_TAIL {
            self.room.timeline.pop_front();
            self.room.timeline_complete = false;
        }
        self.room.pos = event.pos.unwrap_or(self.room.pos);
    }

    /// Moves the room's current state. Answers the local users whose membership changed.
    async fn set_current(&mut self, current: &StateIds, pos: StreamPos) -> Outcome<Vec<OwnedUserId>> {
        let old = std::mem::replace(&mut self.ground.current, current.clone());
        if old == *current {
            return Ok(Vec::new());
        }
        let (group, chain) = self.group_of(current).await?;
        let keys: BTreeSet<&StateKey> = old.keys().chain(current.keys()).collect();
        let changed: Vec<StateKey> = keys
            .into_iter()
            .filter(|key| old.get(*key) != current.get(*key))
            .cloned()
            .collect();
        self.look_up(changed.iter().filter_map(|key| current.get(key).cloned()))
            .await?;
        let numbers = self.key_nids(&changed).await?;
        let mut targets = Vec::new();
        for key in changed {
            let before = match current.get(&key) {
                Some(id) => {
                    let missing = || DomainError::internal(format!("resolved to {id}, which is not stored"));
                    let event = self.stored.get(id).cloned().ok_or_else(missing)?;
                    let key_nid = *numbers.get(&key).ok_or_else(missing)?;
                    self.room.state.insert(key.clone(), StateEntry { key_nid, event })
                }
                None => self.room.state.remove(&key),
            };
            if &*key.0 == "m.room.member"
                && let Ok(user) = UserId::parse(&*key.1)
            {
                self.set_membership(&user, before.map(|entry| entry.event), pos);
                if self.env.is_local(&user) {
                    targets.push(user);
                }
            }
            self.out.changed.insert(key);
        }
        (self.room.state_group, self.room.state_chain) = (group, chain);
        Ok(targets)
    }

    fn set_membership(&mut self, user: &UserId, old: Option<Arc<StoredEvent>>, pos: StreamPos) {
        let new = self.room.state_event("m.room.member", user.as_str()).cloned();
        let membership = |event: &Option<Arc<StoredEvent>>| {
            let membership = event.as_ref().and_then(|event| event.pdu.membership());
            membership.unwrap_or_else(|| "leave".to_owned())
        };
        let (was, is) = (membership(&old), membership(&new));
        members::change(&mut self.room, user, &was, &is, &self.env.server_name);
        // Where resolution leaves no member event, the row keeps pointing at the one that was.
        let Some(event) = new.or(old) else { return };
        self.out.rows.memberships.push(membership::Model {
            room_nid: self.room.nid.0,
            user_id: user.to_string(),
            membership: is,
            sender: event.pdu.sender.to_string(),
            event_nid: event.nid.0,
            pos: pos.0,
            forgotten: false,
        });
    }

    /// The numbers of state keys; new ones are written with this commit.
    async fn key_nids(&mut self, keys: &[StateKey]) -> Outcome<HashMap<StateKey, StateKeyNid>> {
        let known = |key: &StateKey| Some((key.clone(), self.room.state.get(key)?.key_nid));
        let mut numbers: HashMap<_, _> = keys.iter().filter_map(known).collect();
        let rest: Vec<_> = keys.iter().filter(|key| !numbers.contains_key(*key)).cloned().collect();
        for (key, (nid, stored)) in self.env.rooms.keys().intern(&rest).await? {
            if !stored && self.out.interned.insert(key.clone()) {
                self.out.rows.state_keys.push(state_key_row::Model {
                    nid: nid.0,
                    r#type: key.0.to_string(),
                    state_key: key.1.to_string(),
                });
            }
            numbers.insert(key, nid);
        }
        Ok(numbers)
    }

    /// The state group that holds this state: the current one, one of equal content, or a new one.
    async fn group_of(&mut self, state: &StateIds) -> Outcome<(StateGroupId, Chain)> {
        if self.is_room_state(state) {
            return Ok((self.room.state_group, self.room.state_chain));
        }
        let map = self.numbered(state).await?;
        let hash = ContentHash::of(&map);
        if let Some(group) = self.out.groups.get(&hash) {
            return Ok(*group);
        }
        for row in self
            .env
            .store
            .state_group_by_hash(self.room.nid.0, &hash.bytes())
            .await?
        {
            let stored = self.env.rooms.state_map(StateGroupId(row.id)).await?;
            if stored.0 == map {
                return Ok((StateGroupId(row.id), stored.1));
            }
        }
        let base = FullMap::from_entries(self.room.state.values().map(|e| (e.key_nid, e.event.nid)));
        let changes = base.changes_to(&map);
        let next = NewGroup::after(self.room.state_group, &self.room.state_chain, &changes, || map)
            .map_err(|e| DomainError::internal(format!("state group: {e}")))?;
        let group = StateGroupId(self.env.ids.take(1).await?);
        self.out.rows.state_groups.push(next.to_row(group, self.room.nid));
        self.out.groups.insert(hash, (group, next.chain));
        Ok((group, next.chain))
    }

    fn is_room_state(&self, state: &StateIds) -> bool {
        let room = &self.room.state;
        state.len() == room.len()
            && state
                .iter()
                .zip(room)
                .all(|((a, id), (b, entry))| a == b && *id == entry.event.pdu.event_id)
    }

    async fn numbered(&mut self, state: &StateIds) -> Outcome<FullMap> {
        let standing = |key: &StateKey, id: &OwnedEventId| {
            let entry = self.room.state.get(key)?;
            (entry.event.pdu.event_id == *id).then_some((entry.key_nid, entry.event.nid))
        };
        let mut entries: Vec<_> = state.iter().filter_map(|(key, id)| standing(key, id)).collect();
        let rest: Vec<(StateKey, OwnedEventId)> = state
            .iter()
            .filter(|(key, id)| standing(key, id).is_none())
            .map(|(key, id)| (key.clone(), id.clone()))
            .collect();
        self.look_up(rest.iter().map(|(_, id)| id.clone())).await?;
        let keys: Vec<_> = rest.iter().map(|(key, _)| key.clone()).collect();
        let numbers = self.key_nids(&keys).await?;
        for (key, id) in &rest {
            let missing = || DomainError::internal(format!("state event {id} is not stored"));
            let event = self.stored.get(id).ok_or_else(missing)?;
            entries.push((*numbers.get(key).ok_or_else(missing)?, event.nid));
        }
        Ok(FullMap::from_entries(entries))
    }

    /// An accepted redaction prunes its target, if it may and the target is known.
    async fn redact(&mut self, event: &Arc<StoredEvent>, before: &StateIds) -> Outcome<()> {
        let Some(target) = event.pdu.redacts.clone() else {
            return Ok(());
        };
        self.look_up([target.clone()]).await?;
        let Some(target) = self
            .stored
            .get(&target)
            .cloned()
            .filter(|target| target.redacted_by.is_none())
        else {
            return Ok(());
        };
        let state = |kind: &str, key: &str| {
            let id = before.get(&(Arc::from(kind), Arc::from(key)))?;
            self.ground.events.get(id).cloned()
        };
        let Ok(power) = Power::of(&self.room.rules, state) else {
            return Ok(());
        };
        if !redaction_allowed(&event.pdu, &target.pdu, &self.room.rules, &power) {
            return Ok(());
        }
        let pruned = prune(&target, event, &self.room.rules)?;
        self.out.rows.redactions.push(RedactedEvent {
            nid: pruned.nid.0,
            redacted_by: event.event_id().to_string(),
            json: pruned.pdu.json.to_string(),
            unsigned: redacted_unsigned(event),
        });
        self.change(pruned.clone());
        let mut successors = self.env.rooms.successors(&pruned).await?;
        successors.extend(self.out.fresh.values().cloned());
        for event in successors {
            let newest = self.stored.get(event.event_id()).cloned().unwrap_or(event);
            if let Some(event) = forgetful(&newest, &pruned) {
                let unsigned = event.unsigned.as_deref().unwrap_or_default().to_owned();
                self.out.rows.unsigned_updates.push((event.nid.0, unsigned));
                self.change(event);
            }
        }
        Ok(())
    }

    /// An event has another form from here on.
    fn change(&mut self, event: Arc<StoredEvent>) {
        replace(&mut self.room, &event);
        match self.out.fresh.get_mut(&event.nid) {
            Some(fresh) => *fresh = event.clone(),
            None => {
                self.out.pruned.retain(|other| other.nid != event.nid);
                self.out.pruned.push(event.clone());
            }
        }
        self.know(event);
    }

    /// Everything for one commit.
    pub(super) fn finish(self) -> Plan {
        let Out {
            mut rows,
            facts,
            fresh,
            pruned,
            changed,
            interned,
            updates,
            next,
            ..
        } = self.out;
        let room = self.room;
        for key in &changed {
            let (kind, state_key) = (key.0.to_string(), key.1.to_string());
            match room.state.get(key) {
                Some(entry) => rows.current_state.push(current_state::Model {
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
            changed: changed.into_iter().collect(),
            pruned,
            interned: interned.into_iter().collect(),
            updates,
        })
    }
}
