//! States: read by their group, and given a group.

use std::collections::HashSet;

use entities::ids::{EventNid, StateGroupId, StateKeyNid};
use ruma::OwnedEventId;

use super::Receiver;
use super::work::{Held, Known, Work};
use crate::error::{DomainError, Outcome};
use crate::room::event::Status;
use crate::room::fault::{Rule, is_broken};
use crate::room::ingest;
use crate::room::library::Library;
use crate::room::resolve::{StateIds, differing};
use crate::room::snapshot::StateKey;
use crate::room::state_group::{Chain, Change, ContentHash, FullMap, NewGroup};

/// Groups at hand that a new one may be a step away from.
const NEIGHBOURS: usize = 8;

impl<L: Library> Receiver<'_, L> {
    /// Reads the state after a stored event.
    pub(super) async fn read_after(&mut self, id: &OwnedEventId) -> Outcome<()> {
        let work = self.work();
        if work.after.contains_key(id) {
            return Ok(());
        }
        if let [only] = &*work.room.extremities
            && only.event_id == *id
        {
            let current = work.current();
            work.after.insert(id.clone(), current);
            return Ok(());
        }
        let known = work.find(id).cloned();
        let Some((event, group)) = known.and_then(|event| Some((event.clone(), event.state_group?))) else {
            return Ok(());
        };
        let mut state = self.state_of(group).await?;
        if event.status != Status::Rejected || is_broken(Rule::RejectedState) {
            state = ingest::state_after(&state, &event.pdu);
        }
        self.work().after.insert(id.clone(), state);
        Ok(())
    }

    /// The content of a group: the room's current state, and what differs from it.
    async fn state_of(&mut self, group: StateGroupId) -> Outcome<StateIds> {
        if let Some(state) = self.work().group_content(group) {
            return Ok(state);
        }
        let map = self.library.state_map(group).await?;
        let work = self.work();
        let here = FullMap::from_entries(work.room.state.values().map(|e| (e.key_nid, e.event.nid)));
        let changes = here.changes_to(&map.0);
        let gone: HashSet<StateKeyNid> = changes.iter().filter(|c| c.new.is_none()).map(|c| c.key).collect();
        let mut state = work.current();
        if !gone.is_empty() {
            let entries = work
                .room
                .state
                .iter()
                .filter(|(_, entry)| gone.contains(&entry.key_nid));
            for (key, _) in entries {
                state.remove(key);
            }
        }
        let new: Vec<EventNid> = changes.iter().filter_map(|change| change.new).collect();
        let events = self.library.events(&new).await?;
        let work = self.work();
        for change in &changes {
            let event = change.new.and_then(|nid| events.get(&nid));
            let Some((event, key)) = event.and_then(|event| Some((event, event.pdu.key()?))) else {
                continue;
            };
            work.keys.insert(key.clone(), (change.key, true));
            state.insert(key, event.pdu.event_id.clone());
            // It may have been pruned by this very command.
            if !work.stored.contains_key(event.event_id()) {
                work.know(event.clone());
            }
        }
        work.known.push(Known {
            group,
            chain: map.1,
            held: Held::Ids(state.clone()),
        });
        Ok(state)
    }

    /// The state that these events make up: as another server tells it. `Err` names those that are not known.
    pub(super) async fn given(&mut self, ids: &[OwnedEventId]) -> Outcome<Result<StateIds, Vec<OwnedEventId>>> {
        let mut rest: HashSet<&OwnedEventId> = ids.iter().collect();
        let mut state = self.work().current();
        let absent = |id: &OwnedEventId| !rest.contains(id);
        let gone: Vec<StateKey> = state
            .iter()
            .filter(|(_, id)| absent(id))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &gone {
            state.remove(key);
        }
        for id in state.values() {
            rest.remove(id);
        }
        self.look_up(rest.iter().map(|id| (*id).clone())).await?;
        let work = self.work();
        let mut missing = Vec::new();
        for id in rest {
            match work.stored.get(id) {
                None => missing.push(id.clone()),
                // What is rejected here is part of no state here.
                Some(event) if event.status == Status::Rejected => {}
                Some(event) => {
                    if let Some(key) = event.pdu.key() {
                        state.insert(key, id.clone());
                    }
                }
            }
        }
        Ok(if missing.is_empty() { Ok(state) } else { Err(missing) })
    }

    /// The state group that holds this state: one at hand, one of equal content, or a new one.
    pub(super) async fn group_of(&mut self, state: &StateIds) -> Outcome<(StateGroupId, Chain)> {
        let (base, keys) = self.work().nearest(state);
        if keys.is_empty() {
            return Ok((base.group, base.chain));
        }
        let other = self.work().content_of(&base);
        self.number(&keys, &[&other, state]).await?;
        let work = self.work();
        let changes = work.changes(&keys, &other, state)?;
        let mut full = None;
        let next = NewGroup::after(base.group, &base.chain, &changes, || {
            let map = work.full_map(state);
            full = map.as_ref().err().cloned();
            map.unwrap_or_default()
        });
        if let Some(error) = full {
            return Err(error);
        }
        let next = next.map_err(|e| DomainError::internal(format!("state group: {e}")))?;
        if let Some(found) = self.equal_group(next.chain.hash, state).await? {
            return Ok(found);
        }
        let work = self.work();
        let group = StateGroupId(work.nid()?);
        work.out.rows.state_groups.push(next.to_row(group, work.room.nid));
        work.remember(group, next.chain, state);
        Ok((group, next.chain))
    }

    /// A stored group of the same content.
    async fn equal_group(&mut self, hash: ContentHash, state: &StateIds) -> Outcome<Option<(StateGroupId, Chain)>> {
        if let Some(group) = self.work().out.groups.get(&hash) {
            return Ok(Some(*group));
        }
        let room = self.work().room.nid;
        let rows = self.library.groups_by_hash(room, hash).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let all: Vec<StateKey> = state.keys().cloned().collect();
        self.number(&all, &[state]).await?;
        let map = self.work().full_map(state)?;
        for row in rows {
            let group = StateGroupId(row.id);
            let stored = self.library.state_map(group).await?;
            if stored.0 == map {
                self.work().remember(group, stored.1, state);
                return Ok(Some((group, stored.1)));
            }
        }
        Ok(None)
    }

    /// Makes sure that keys have numbers and that the events which states have under them are at hand.
    pub(super) async fn number(&mut self, keys: &[StateKey], states: &[&StateIds]) -> Outcome<()> {
        let work = self.work();
        let unknown = |key: &StateKey| {
            let ids = states.iter().filter_map(|state| state.get(key));
            ids.filter(|id| work.nid_of(key, id).is_none())
                .cloned()
                .collect::<Vec<_>>()
        };
        let events: Vec<OwnedEventId> = keys.iter().flat_map(unknown).collect();
        let keys = keys
            .iter()
            .filter(|key| !work.room.state.contains_key(*key) && !work.keys.contains_key(*key));
        let keys: Vec<StateKey> = keys.cloned().collect();
        self.look_up(events).await?;
        if !keys.is_empty() {
            let numbers = self.library.intern(&keys).await?;
            self.work().keys.extend(numbers);
        }
        Ok(())
    }
}

impl Work {
    /// The group at hand that differs least from a state, and the keys that it differs by.
    fn nearest(&mut self, state: &StateIds) -> (Known, Vec<StateKey>) {
        let current = Known {
            group: self.room.state_group,
            chain: self.room.state_chain,
            held: Held::Entries(self.room.state.clone()),
        };
        let recent: Vec<Known> = self.known.iter().rev().take(NEIGHBOURS).cloned().collect();
        let mut best = (current, None::<Vec<StateKey>>);
        for known in std::iter::once(best.0.clone()).chain(recent) {
            let content = self.content_of(&known);
            let most = best.1.as_ref().map_or(usize::MAX, Vec::len);
            let keys: Vec<StateKey> = differing(&content, state).take(most).cloned().collect();
            if keys.len() < most {
                best = (known, Some(keys));
            }
        }
        (best.0, best.1.unwrap_or_default())
    }

    fn content_of(&mut self, known: &Known) -> StateIds {
        match &known.held {
            Held::Entries(entries) => self.ids_of(&entries.clone()),
            Held::Ids(ids) => ids.clone(),
        }
    }

    fn changes(&mut self, keys: &[StateKey], old: &StateIds, new: &StateIds) -> Outcome<Vec<Change>> {
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            let number = |id: Option<&OwnedEventId>| -> Outcome<Option<EventNid>> {
                let Some(id) = id else { return Ok(None) };
                let missing = || DomainError::internal(format!("state event {id} is not stored"));
                self.nid_of(key, id).ok_or_else(missing).map(Some)
            };
            let (old, new) = (number(old.get(key))?, number(new.get(key))?);
            changes.push(Change {
                key: self.key_nid(key)?,
                old,
                new,
            });
        }
        changes.sort_by_key(|change| change.key);
        Ok(changes)
    }

    /// A whole state by numbers.
    fn full_map(&self, state: &StateIds) -> Outcome<FullMap> {
        let entry = |(key, id): (&StateKey, &OwnedEventId)| {
            let missing = || DomainError::internal(format!("state event {id} is not at hand"));
            let standing = self.room.state.get(key).map(|entry| entry.key_nid);
            let key_nid = standing.or_else(|| self.keys.get(key).map(|(nid, _)| *nid));
            let nid = self.nid_of(key, id);
            key_nid.zip(nid).ok_or_else(missing)
        };
        let entries: Outcome<Vec<_>> = state.iter().map(entry).collect();
        Ok(FullMap::from_entries(entries?))
    }

    fn remember(&mut self, group: StateGroupId, chain: Chain, state: &StateIds) {
        self.out.groups.insert(chain.hash, (group, chain));
        self.known.push(Known {
            group,
            chain,
            held: Held::Ids(state.clone()),
        });
    }
}

/// The events that a state has under some keys.
pub(super) fn under<'a>(state: &'a StateIds, keys: &'a [StateKey]) -> impl Iterator<Item = OwnedEventId> + 'a {
    keys.iter().filter_map(|key| state.get(key).cloned())
}
