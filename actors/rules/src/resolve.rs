//! State resolution: one state from several.
//!
//! Spec: "State resolution" of room versions 1, 2 and 12. Versions 2 and later are ruma's algorithm over events that the
//! caller has fetched before ([`needed_for_resolution`]); version 1 is [`super::resolve_v1`].
//!
//! The cost follows what the states disagree on, not their size: states that grew from one another share their structure,
//! so that comparing them is quick, and the algorithm gets to see only the entries that can matter to it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use ruma::events::StateEventType;
use ruma::room_version_rules::RoomVersionRules;
use ruma::state_res::StateMap;
use ruma::state_res::utils::event_id_set::EventIdSet;
use ruma::{EventId, OwnedEventId};

use super::event::{Pdu, StoredEvent};
use super::snapshot::StateKey;
use super::{auth, resolve_v1};

/// A state, by event id. Cloning is cheap.
pub type StateIds = imbl::OrdMap<StateKey, OwnedEventId>;

/// Events at hand.
pub type EventMap = HashMap<OwnedEventId, Arc<Pdu>>;

/// Where events are looked up.
pub trait Events {
    /// The event, if it is at hand.
    fn event(&self, id: &EventId) -> Option<&Arc<Pdu>>;

    /// A number that is higher than those of all events in the event's auth chain, where one is known. `key`: under which
    /// state key a state has it. It spares looking for something in the auth chains of events that are older.
    fn age(&self, _id: &EventId, _key: Option<&StateKey>) -> Option<i64> {
        None
    }
}

impl Events for EventMap {
    fn event(&self, id: &EventId) -> Option<&Arc<Pdu>> {
        self.get(id)
    }
}

impl Events for HashMap<OwnedEventId, Arc<StoredEvent>> {
    fn event(&self, id: &EventId) -> Option<&Arc<Pdu>> {
        self.get(id).map(|event| &event.pdu)
    }

    fn age(&self, id: &EventId, _key: Option<&StateKey>) -> Option<i64> {
        // Events are numbered after those that authorize them.
        self.get(id).map(|event| event.nid.0)
    }
}

/// Why states could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("state resolution: {0}")]
pub struct ResolveError(String);

/// A state key as the maps hold it.
#[must_use]
pub fn state_key(kind: &str, key: &str) -> StateKey {
    (Arc::from(kind), Arc::from(key))
}

/// The keys under which two states differ.
pub fn differing<'a>(a: &'a StateIds, b: &'a StateIds) -> impl Iterator<Item = &'a StateKey> {
    a.diff(b).map(|change| match change {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    })
}

/// What states agree and disagree on.
pub(super) struct Split<'a> {
    /// Each once.
    states: Vec<&'a StateIds>,
    /// The keys that have not the same event in every state.
    pub(super) keys: BTreeSet<&'a StateKey>,
    /// The rest.
    pub(super) agreed: StateIds,
}

impl<'a> Split<'a> {
    pub(super) fn of(states: &'a [StateIds]) -> Self {
        let mut different: Vec<&StateIds> = Vec::with_capacity(states.len());
        for state in states {
            if different.iter().all(|other| *other != state) {
                different.push(state);
            }
        }
        let mut keys = BTreeSet::new();
        let mut agreed = StateIds::new();
        if let Some((first, others)) = different.split_first() {
            keys.extend(others.iter().flat_map(|other| differing(first, other)));
            agreed = (*first).clone();
            for key in &keys {
                agreed.remove(*key);
            }
        }
        Self {
            states: different,
            keys,
            agreed,
        }
    }

    fn is_settled(&self) -> bool {
        self.keys.is_empty()
    }

    /// For each state its events that are not agreed on.
    fn conflicted(&self) -> Vec<Vec<&'a OwnedEventId>> {
        let of = |state: &&'a StateIds| self.keys.iter().filter_map(|key| state.get(*key)).collect();
        self.states.iter().map(of).collect()
    }

    /// The events that states have under one key.
    pub(super) fn candidates(&self, key: &StateKey) -> BTreeSet<&'a OwnedEventId> {
        self.states.iter().filter_map(|state| state.get(key)).collect()
    }

    /// The states, with no more than what is not agreed on and what can authorize `events`.
    fn cut_down<'e, E: Events>(
        &self,
        rules: &RoomVersionRules,
        wanted: impl Iterator<Item = &'e EventId>,
        events: &E,
    ) -> Vec<StateMap<OwnedEventId>> {
        // Whatever is resolved, these are looked at.
        let always = ["m.room.create", "m.room.power_levels"].map(|kind| state_key(kind, ""));
        let mut keys: HashSet<StateKey> = HashSet::from(always);
        for event in wanted.filter_map(|id| events.event(id)) {
            keys.extend(auth_keys(event, rules));
        }
        let rest: Vec<_> = keys
            .iter()
            .filter_map(|key| Some((ruma_key(key), self.agreed.get(key)?.clone())))
            .collect();
        let map = |state: &&StateIds| {
            let own = self.keys.iter();
            let own = own.filter_map(|key| Some((ruma_key(key), state.get(*key)?.clone())));
            own.chain(rest.iter().cloned()).collect()
        };
        self.states.iter().map(map).collect()
    }
}

fn ruma_key((kind, key): &StateKey) -> (StateEventType, String) {
    (StateEventType::from(&**kind), key.to_string())
}

/// The state keys that authorize an event; none where its content does not even tell which.
fn auth_keys(event: &Pdu, rules: &RoomVersionRules) -> impl Iterator<Item = StateKey> + use<> {
    let keys = auth::auth_keys(
        &event.kind.to_string(),
        &event.sender,
        event.state_key.as_deref(),
        &event.content,
        rules,
    );
    let keys = keys.unwrap_or_default().into_iter();
    keys.map(|(kind, key)| state_key(&kind, &key))
}

/// The auth chains of `from`, without `from` itself (unless part of another's chain).
fn auth_chain<'a, E: Events>(from: &[&'a OwnedEventId], events: &'a E) -> HashSet<&'a EventId> {
    let mut chain: HashSet<&EventId> = HashSet::new();
    let mut open: Vec<&OwnedEventId> = from.to_vec();
    while let Some(event) = open.pop().map(|id| events.event(id)) {
        for id in event.into_iter().flat_map(|event| &event.auth_events) {
            if chain.insert(id) {
                open.push(id);
            }
        }
    }
    chain
}

/// Events in the auth chains of some states' conflicted events, but not of all.
fn disputed<'a, E: Events>(conflicted: &[Vec<&'a OwnedEventId>], events: &'a E) -> HashSet<&'a EventId> {
    let mut counts: HashMap<&EventId, usize> = HashMap::new();
    for ids in conflicted {
        for id in auth_chain(ids, events) {
            *counts.entry(id).or_default() += 1;
        }
    }
    let some = counts.into_iter().filter(|(_, count)| *count < conflicted.len());
    some.map(|(id, _)| id).collect()
}

/// The events in the auth chains of what all agree on, as far as they reach back to one of `disputed`: such an event is in
/// every state's auth chain. Tells `missing` of events that are not at hand.
fn undisputed<'a, E: Events>(
    agreed: &'a StateIds,
    disputed: &HashSet<&EventId>,
    events: &'a E,
    mut missing: impl FnMut(&OwnedEventId),
) -> HashSet<&'a EventId> {
    let mut seen: HashSet<&EventId> = HashSet::new();
    if disputed.is_empty() {
        return seen;
    }
    let ages: Option<Vec<i64>> = disputed.iter().map(|id| events.age(id, None)).collect();
    let oldest = ages.and_then(|ages| ages.into_iter().min());
    let reaches_back = |id: &EventId, key: Option<&StateKey>| match (events.age(id, key), oldest) {
        (Some(age), Some(oldest)) => age > oldest,
        _ => true,
    };
    let mut open: Vec<&OwnedEventId> = agreed
        .iter()
        .filter(|(key, id)| reaches_back(id, Some(key)))
        .map(|(_, id)| id)
        .collect();
    while let Some(id) = open.pop() {
        let Some(event) = events.event(id) else {
            missing(id);
            continue;
        };
        for id in &event.auth_events {
            if seen.insert(id) && reaches_back(id, None) {
                open.push(id);
            }
        }
    }
    seen
}

/// Resolves states of one room.
///
/// `events` must hold what [`needed_for_resolution`] asks for; events that nobody has are treated as if they failed.
///
/// # Errors
/// When an event that the algorithm depends on is missing, or a power-levels or create event of an auth chain is
/// malformed.
pub fn resolve_state<E: Events>(
    rules: &RoomVersionRules,
    states: &[StateIds],
    events: &E,
) -> Result<StateIds, ResolveError> {
    let split = Split::of(states);
    if split.is_settled() {
        return Ok(split.agreed);
    }
    let Some(v2) = rules.state_res.v2_rules() else {
        return Ok(resolve_v1::resolve(rules, &split, events));
    };
    let conflicted = split.conflicted();
    let disputed = disputed(&conflicted, events);
    let undisputed = undisputed(&split.agreed, &disputed, events, |_| {});
    let difference: EventIdSet<OwnedEventId> = disputed.difference(&undisputed).map(|id| (*id).to_owned()).collect();
    let ends: HashSet<&OwnedEventId> = conflicted.iter().flatten().copied().collect();
    let subgraph = if v2.consider_conflicted_state_subgraph {
        between(&ends, events)
    } else {
        HashSet::new()
    };
    let all = ends.iter().chain(&subgraph).map(|id| &***id);
    let all = all.chain(disputed.difference(&undisputed).copied());
    let maps = split.cut_down(rules, all, events);
    let resolved = ruma::state_res::resolve(
        &rules.authorization,
        v2,
        &maps,
        // What one has and the other has not.
        vec![difference, EventIdSet::new()],
        |id| events.event(id).cloned(),
        |_| Some(subgraph.iter().map(|id| (*id).clone()).collect()),
    )
    .map_err(|error| ResolveError(error.to_string()))?;
    let mut state = split.agreed;
    for ((kind, key), id) in resolved {
        let key = state_key(&kind.to_string(), &key);
        if !state.contains_key(&key) {
            state.insert(key, id);
        }
    }
    Ok(state)
}

/// Every event on a path of auth edges from one of `ends` to another, both included.
fn between<'a, E: Events>(ends: &HashSet<&'a OwnedEventId>, events: &'a E) -> HashSet<&'a OwnedEventId> {
    // Down from all ends, noting who was come from …
    let mut children: HashMap<&OwnedEventId, Vec<&OwnedEventId>> = HashMap::new();
    let mut seen: HashSet<&OwnedEventId> = ends.clone();
    let mut open: Vec<&OwnedEventId> = ends.iter().copied().collect();
    while let Some(id) = open.pop() {
        for parent in events.event(id).into_iter().flat_map(|event| &event.auth_events) {
            children.entry(parent).or_default().push(id);
            if seen.insert(parent) {
                open.push(parent);
            }
        }
    }
    // … and back up from the ends: what is met on this way lies between two.
    let mut between = ends.clone();
    open.extend(ends);
    while let Some(id) = open.pop() {
        for child in children.get(id).into_iter().flatten() {
            if between.insert(child) {
                open.push(child);
            }
        }
    }
    between
}

/// The ids that must still be fetched before [`resolve_state`]: call it, fetch, add to `events` (or to `absent` what
/// cannot be had) and repeat until nothing is asked for.
///
/// It asks for the conflicted events, their auth chains and the events of the states that authorize them, and for the
/// chains of all other state only where those decide whether an event belongs to the auth difference.
#[must_use]
pub fn needed_for_resolution<E: Events>(
    rules: &RoomVersionRules,
    states: &[StateIds],
    events: &E,
    absent: &HashSet<OwnedEventId>,
) -> Vec<OwnedEventId> {
    let split = Split::of(states);
    if split.is_settled() {
        return Vec::new();
    }
    let mut walk = Walk {
        rules,
        states: &split.states,
        events,
        absent,
        seen: HashSet::new(),
        missing: HashSet::new(),
    };
    let chains = rules.state_res.v2_rules().is_some();
    let conflicted = split.conflicted();
    walk.visit(conflicted.iter().flatten().map(|id| (*id).clone()).collect(), chains);
    let mut needed = walk.missing;
    if chains && needed.is_empty() {
        let disputed = disputed(&conflicted, events);
        undisputed(&split.agreed, &disputed, events, |id| {
            if !absent.contains(id) {
                needed.insert(id.clone());
            }
        });
    }
    needed.into_iter().collect()
}

struct Walk<'a, E> {
    rules: &'a RoomVersionRules,
    states: &'a [&'a StateIds],
    events: &'a E,
    absent: &'a HashSet<OwnedEventId>,
    seen: HashSet<OwnedEventId>,
    missing: HashSet<OwnedEventId>,
}

impl<E: Events> Walk<'_, E> {
    /// `chains`: whether auth events are wanted too, and not only what the states hold for the event's auth keys.
    fn visit(&mut self, mut open: Vec<OwnedEventId>, chains: bool) {
        while let Some(id) = open.pop() {
            if !self.seen.insert(id.clone()) || self.absent.contains(&id) {
                continue;
            }
            let Some(event) = self.events.event(&id) else {
                self.missing.insert(id);
                continue;
            };
            if chains {
                open.extend(event.auth_events.iter().cloned());
            }
            let create = state_key("m.room.create", "");
            for key in auth_keys(event, self.rules).chain([create]) {
                open.extend(self.states.iter().filter_map(|state| state.get(&key).cloned()));
            }
        }
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
