//! State resolution, written down a second time straight from the specification (room versions 1, 2 and 12), slow and plain,
//! and the truth that follows from it: what every event of a room has before it, and whether it is good.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ruma::OwnedEventId;
use ruma::room_version_rules::RoomVersionRules;
use sha1::{Digest as _, Sha1};

use super::book;
use crate::room::event::Pdu;
use crate::room::resolve::state_key;
use crate::room::snapshot::StateKey;

pub(super) type States = BTreeMap<StateKey, OwnedEventId>;

/// What holds for an event, wherever it is seen.
pub(super) struct Standing {
    pub before: States,
    pub after: States,
    pub rejected: Option<String>,
}

/// A room as somebody sees it who sees everything.
pub(super) struct Truth<'a> {
    rules: &'a RoomVersionRules,
    pub events: &'a BTreeMap<OwnedEventId, Arc<Pdu>>,
    pub standing: HashMap<OwnedEventId, Standing>,
}

impl<'a> Truth<'a> {
    /// Judges all events, parents first.
    pub(super) fn of(rules: &'a RoomVersionRules, events: &'a BTreeMap<OwnedEventId, Arc<Pdu>>) -> Self {
        let mut truth = Self {
            rules,
            events,
            standing: HashMap::new(),
        };
        let mut left: Vec<&Arc<Pdu>> = events.values().collect();
        left.sort_by_key(|pdu| pdu.depth);
        while !left.is_empty() {
            let before = left.len();
            left.retain(|pdu| {
                let needed = pdu.prev_events.iter().chain(&pdu.auth_events);
                let ready = needed.clone().all(|id| truth.standing.contains_key(id));
                if ready {
                    truth.judge(pdu);
                }
                !ready
            });
            assert!(left.len() < before, "events whose parents nobody made");
        }
        truth
    }

    fn judge(&mut self, pdu: &Arc<Pdu>) {
        let states: Vec<States> = pdu
            .prev_events
            .iter()
            .map(|id| self.standing[id].after.clone())
            .collect();
        let before = self.resolve(&states);
        let rejected = self.check(pdu, &before).err();
        let mut after = before.clone();
        if let Some(key) = pdu.key().filter(|_| rejected.is_none()) {
            after.insert(key, pdu.event_id.clone());
        }
        let standing = Standing {
            before,
            after,
            rejected,
        };
        self.standing.insert(pdu.event_id.clone(), standing);
    }

    fn check(&self, pdu: &Pdu, before: &States) -> Result<(), String> {
        book::check_auth_events(pdu, self.rules, &|id| {
            Some((self.events.get(id)?.clone(), self.standing.get(id)?.rejected.is_some()))
        })?;
        let mut named = States::new();
        self.add_named(pdu, &mut named);
        self.allows(pdu, &named)?;
        self.allows(pdu, before)
    }

    /// The state that an event's auth events make up.
    fn add_named(&self, pdu: &Pdu, state: &mut States) {
        let create = self.events.values().find(|event| event.prev_events.is_empty());
        let named = pdu.auth_events.iter().map(|id| &self.events[id]);
        for event in named.chain(create.filter(|create| create.event_id != pdu.event_id)) {
            if let Some(key) = event.key() {
                state.entry(key).or_insert_with(|| event.event_id.clone());
            }
        }
    }

    /// Whether a state allows an event.
    pub(super) fn allows(&self, pdu: &Pdu, state: &States) -> Result<(), String> {
        book::allowed(pdu, self.rules, &|kind, key| {
            self.events.get(state.get(&state_key(kind, key))?).cloned()
        })
    }

    pub(super) fn resolve(&self, states: &[States]) -> States {
        let keys: BTreeSet<&StateKey> = states.iter().flat_map(BTreeMap::keys).collect();
        let (mut agreed, mut conflicted) = (States::new(), BTreeMap::<StateKey, BTreeSet<OwnedEventId>>::new());
        for key in keys {
            let ids: BTreeSet<Option<&OwnedEventId>> = states.iter().map(|state| state.get(key)).collect();
            // In version 1 a key that only some states have is no conflict.
            let lenient = self.rules.state_res.v2_rules().is_none();
            let ids: BTreeSet<Option<&OwnedEventId>> = ids.into_iter().filter(|id| !lenient || id.is_some()).collect();
            match ids.first() {
                Some(Some(id)) if ids.len() == 1 => drop(agreed.insert(key.clone(), (*id).clone())),
                _ => drop(conflicted.insert(key.clone(), ids.into_iter().flatten().cloned().collect())),
            }
        }
        if conflicted.is_empty() {
            return agreed;
        }
        match self.rules.state_res.v2_rules() {
            None => self.version_1(agreed, &conflicted),
            Some(v2) => {
                let subgraph = v2.consider_conflicted_state_subgraph;
                let start = if v2.begin_iterative_auth_checks_with_empty_state_map {
                    States::new()
                } else {
                    agreed.clone()
                };
                let mut resolved = self.version_2(start, states, &conflicted, subgraph);
                resolved.extend(agreed);
                resolved
            }
        }
    }

    // ---- version 1

    fn version_1(&self, agreed: States, conflicted: &BTreeMap<StateKey, BTreeSet<OwnedEventId>>) -> States {
        let hash = |id: &OwnedEventId| Sha1::digest(id.as_str()).to_vec();
        let mut resolved = agreed;
        for kind in ["m.room.power_levels", "m.room.join_rules", "m.room.member"] {
            // Those of one kind see what was resolved before them, not each other.
            let mut found = States::new();
            for (key, ids) in conflicted.iter().filter(|(key, _)| &*key.0 == kind) {
                let mut list: Vec<&Arc<Pdu>> = ids.iter().map(|id| &self.events[id]).collect();
                list.sort_by_key(|pdu| (pdu.depth, Reverse(hash(&pdu.event_id))));
                let mut state = resolved.clone();
                state.insert(key.clone(), list[0].event_id.clone());
                for pdu in &list[1..] {
                    if self.allows(pdu, &state).is_err() {
                        break;
                    }
                    state.insert(key.clone(), pdu.event_id.clone());
                }
                found.insert(key.clone(), state[key].clone());
            }
            resolved.extend(found);
        }
        let first = resolved.clone();
        for (key, ids) in conflicted.iter().filter(|(key, _)| !first.contains_key(*key)) {
            let mut list: Vec<&Arc<Pdu>> = ids.iter().map(|id| &self.events[id]).collect();
            list.sort_by_key(|pdu| (Reverse(pdu.depth), hash(&pdu.event_id)));
            // Where none passes the specification is silent; servers take the oldest.
            let passes = list.iter().find(|pdu| self.allows(pdu, &first).is_ok());
            if let Some(pdu) = passes.or(list.last()) {
                resolved.insert(key.clone(), pdu.event_id.clone());
            }
        }
        resolved
    }

    // ---- version 2 and later

    fn chain(&self, from: impl IntoIterator<Item = OwnedEventId>) -> BTreeSet<OwnedEventId> {
        let mut chain = BTreeSet::new();
        let mut open: Vec<OwnedEventId> = from.into_iter().collect();
        while let Some(id) = open.pop() {
            let auth = self.events[&id].auth_events.iter();
            open.extend(auth.filter(|id| chain.insert((*id).clone())).cloned());
        }
        chain
    }

    fn version_2(
        &self,
        start: States,
        states: &[States],
        conflicted: &BTreeMap<StateKey, BTreeSet<OwnedEventId>>,
        subgraph: bool,
    ) -> States {
        let mut full: BTreeSet<OwnedEventId> = conflicted.values().flatten().cloned().collect();
        let ends = full.clone();
        let chains: Vec<_> = states.iter().map(|state| self.chain(state.values().cloned())).collect();
        let all: BTreeSet<&OwnedEventId> = chains.iter().flatten().collect();
        let differ = all
            .into_iter()
            .filter(|id| chains.iter().any(|chain| !chain.contains(*id)));
        full.extend(differ.cloned());
        if subgraph {
            full.extend(self.between(&ends));
        }
        let powerful = full.iter().filter(|id| self.is_power_event(id));
        let mut first: BTreeSet<OwnedEventId> = powerful.cloned().collect();
        let below = self.chain(first.iter().cloned());
        first.extend(below.into_iter().filter(|id| full.contains(id)));
        let mut resolved = start;
        for id in self.by_power(&first) {
            self.apply(&id, &mut resolved);
        }
        let rest: Vec<OwnedEventId> = full.difference(&first).cloned().collect();
        let mainline = self.mainline(resolved.get(&state_key("m.room.power_levels", "")).cloned());
        let mut rest: Vec<_> = rest
            .into_iter()
            .map(|id| (self.mainline_order(&id, &mainline), id))
            .collect();
        rest.sort();
        for (_, id) in rest {
            self.apply(&id, &mut resolved);
        }
        resolved
    }

    /// The conflicted state subgraph: events on a path of auth events from one conflicted event to another.
    fn between(&self, ends: &BTreeSet<OwnedEventId>) -> BTreeSet<OwnedEventId> {
        let all = self.chain(ends.iter().cloned());
        let reaches = |id: &OwnedEventId| self.chain([id.clone()]).iter().any(|below| ends.contains(below));
        all.into_iter().filter(|id| reaches(id) || ends.contains(id)).collect()
    }

    fn is_power_event(&self, id: &OwnedEventId) -> bool {
        let pdu = &self.events[id];
        let kind = pdu.kind.to_string();
        match &*kind {
            "m.room.power_levels" | "m.room.join_rules" => pdu.state_key.as_deref() == Some(""),
            "m.room.member" => {
                let expels = pdu.has_membership("leave") || pdu.has_membership("ban");
                expels && pdu.state_key.as_deref() != Some(pdu.sender.as_str())
            }
            _ => false,
        }
    }

    fn auth_state(&self, id: &OwnedEventId) -> States {
        let mut named = States::new();
        self.add_named(&self.events[id], &mut named);
        named
    }

    fn by_power(&self, ids: &BTreeSet<OwnedEventId>) -> Vec<OwnedEventId> {
        let rank = |id: &OwnedEventId| {
            let pdu = &self.events[id];
            let named = self.auth_state(id);
            let level = book::level_of(pdu.sender.as_str(), self.rules, &|kind, key| {
                self.events.get(named.get(&state_key(kind, key))?).cloned()
            });
            (Reverse(level), pdu.origin_server_ts, id.clone())
        };
        let below: BTreeMap<&OwnedEventId, BTreeSet<OwnedEventId>> =
            ids.iter().map(|id| (id, self.chain([id.clone()]))).collect();
        let (mut left, mut sorted) = (ids.clone(), Vec::new());
        while !left.is_empty() {
            let ready = left.iter().filter(|id| below[*id].is_disjoint(&left));
            let next = ready.min_by_key(|id| rank(id)).expect("no cycles").clone();
            left.remove(&next);
            sorted.push(next);
        }
        sorted
    }

    fn apply(&self, id: &OwnedEventId, resolved: &mut States) {
        let pdu = &self.events[id];
        let Some(key) = pdu.key() else { return };
        if self.standing[id].rejected.is_some() {
            return;
        }
        // Where the resolved state lacks something, the event's own auth events stand in, but for rejected ones.
        let mut state = resolved.clone();
        let mut named = self.auth_state(id);
        named.retain(|_, id| self.standing[id].rejected.is_none());
        for (key, id) in named {
            state.entry(key).or_insert(id);
        }
        if self.allows(pdu, &state).is_ok() {
            resolved.insert(key, id.clone());
        }
    }

    fn levels_before(&self, id: &OwnedEventId) -> Option<OwnedEventId> {
        let auth = self.events[id].auth_events.iter();
        let mut levels = auth.filter(|id| self.events[*id].is_state("m.room.power_levels", ""));
        levels.next().cloned()
    }

    fn mainline(&self, mut at: Option<OwnedEventId>) -> Vec<OwnedEventId> {
        let mut line = Vec::new();
        while let Some(id) = at {
            at = self.levels_before(&id);
            line.push(id);
        }
        line
    }

    /// Those that hang on older power levels come first.
    fn mainline_order(&self, id: &OwnedEventId, line: &[OwnedEventId]) -> (Reverse<usize>, i64, OwnedEventId) {
        let mut seen = HashSet::new();
        let mut at = Some(id.clone());
        let mut place = line.len();
        while let Some(next) = at.filter(|id| seen.insert(id.clone())) {
            if let Some(found) = line.iter().position(|other| *other == next) {
                place = found;
                break;
            }
            at = self.levels_before(&next);
        }
        (
            Reverse(place),
            i64::from(self.events[id].origin_server_ts.get()),
            id.clone(),
        )
    }
}
