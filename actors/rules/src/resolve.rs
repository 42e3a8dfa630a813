//! State resolution: one state from several.
//!
//! Spec: "State resolution" of room versions 1, 2 and 12. Versions 2 and later are ruma's algorithm over events that the
//! caller has fetched before ([`needed_for_resolution`]); version 1 is [`super::resolve_v1`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ruma::events::StateEventType;
use ruma::room_version_rules::RoomVersionRules;
use ruma::state_res::StateMap;
use ruma::state_res::utils::event_id_set::EventIdSet;
use ruma::{EventId, OwnedEventId};

use super::event::Pdu;
use super::snapshot::StateKey;
use super::{auth, resolve_v1};

/// A state, by event id.
pub type StateIds = BTreeMap<StateKey, OwnedEventId>;

/// Events at hand.
pub type EventMap = HashMap<OwnedEventId, Arc<Pdu>>;

/// Why states could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("state resolution: {0}")]
pub struct ResolveError(String);

/// A state key as the maps hold it.
#[must_use]
pub fn state_key(kind: &str, key: &str) -> StateKey {
    (Arc::from(kind), Arc::from(key))
}

/// What states agree and disagree on.
struct Split<'a> {
    /// Keys with the same event in every state.
    agreed: StateMap<OwnedEventId>,
    /// For each state, the events that are not agreed on.
    conflicted: Vec<Vec<&'a OwnedEventId>>,
}

impl<'a> Split<'a> {
    fn of(states: &'a [StateIds]) -> Self {
        let mut agreed = StateMap::new();
        if let Some((first, others)) = states.split_first() {
            for (key, id) in first {
                if others.iter().all(|state| state.get(key) == Some(id)) {
                    agreed.insert(ruma_key(key), id.clone());
                }
            }
        }
        let conflicted = states
            .iter()
            .map(|state| {
                state
                    .iter()
                    .filter(|(key, _)| !states.iter().all(|s| s.get(*key) == state.get(*key)))
                    .map(|(_, id)| id)
            })
            .map(Iterator::collect)
            .collect();
        Self { agreed, conflicted }
    }

    fn is_settled(&self) -> bool {
        self.conflicted.iter().all(Vec::is_empty)
    }
}

fn ruma_key((kind, key): &StateKey) -> (StateEventType, String) {
    (StateEventType::from(&**kind), key.to_string())
}

/// The auth chains of `from`, without `from` itself (unless part of another's chain).
fn auth_chain<'a>(from: impl IntoIterator<Item = &'a OwnedEventId>, events: &'a EventMap) -> HashSet<&'a EventId> {
    let mut chain = HashSet::new();
    let mut open: Vec<&OwnedEventId> = from.into_iter().collect();
    while let Some(event) = open.pop().map(|id| events.get(id)) {
        for id in event.into_iter().flat_map(|event| &event.auth_events) {
            if chain.insert(&**id) {
                open.push(id);
            }
        }
    }
    chain
}

/// Resolves states of one room.
///
/// `events` must hold what [`needed_for_resolution`] asks for; events that nobody has are treated as if they failed.
///
/// # Errors
/// When an event that the algorithm depends on is missing, or a power-levels or create event of an auth chain is
/// malformed.
pub fn resolve_state(
    rules: &RoomVersionRules,
    states: &[StateIds],
    events: &EventMap,
) -> Result<StateIds, ResolveError> {
    let Some((first, others)) = states.split_first() else {
        return Ok(StateIds::new());
    };
    if others.iter().all(|state| state == first) {
        return Ok(first.clone());
    }
    let Some(v2) = rules.state_res.v2_rules() else {
        return Ok(resolve_v1::resolve(rules, states, events));
    };
    let split = Split::of(states);
    // Events in the chains of what all agree on are in every state's chain, so they never make a difference: they can be
    // left out everywhere, and the rest of each chain follows from its conflicted events alone.
    let common = auth_chain(split.agreed.values(), events);
    let chains = split.conflicted.iter().map(|ids| -> EventIdSet<OwnedEventId> {
        auth_chain(ids.iter().copied(), events)
            .difference(&common)
            .map(|id| (*id).to_owned())
            .collect()
    });
    let chains: Vec<_> = chains.collect();
    let maps: Vec<StateMap<OwnedEventId>> = states
        .iter()
        .map(|state| state.iter().map(|(key, id)| (ruma_key(key), id.clone())).collect())
        .collect();
    let resolved = ruma::state_res::resolve(
        &rules.authorization,
        v2,
        &maps,
        chains,
        |id| events.get(id).cloned(),
        |conflicted| Some(conflicted_subgraph(conflicted, events)),
    )
    .map_err(|error| ResolveError(error.to_string()))?;
    Ok(resolved
        .into_iter()
        .map(|((kind, key), id)| (state_key(&kind.to_string(), &key), id))
        .collect())
}

/// Every event on a path of auth edges from one conflicted event to another, both ends included.
fn conflicted_subgraph(conflicted: &StateMap<Vec<OwnedEventId>>, events: &EventMap) -> EventIdSet<OwnedEventId> {
    let ends: HashSet<&OwnedEventId> = conflicted.values().flatten().collect();
    // Down from all ends, noting who was come from …
    let mut children: HashMap<&OwnedEventId, Vec<&OwnedEventId>> = HashMap::new();
    let mut seen: HashSet<&OwnedEventId> = ends.clone();
    let mut open: Vec<&OwnedEventId> = ends.iter().copied().collect();
    while let Some(id) = open.pop() {
        for parent in events.get(id).into_iter().flat_map(|event| &event.auth_events) {
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
    between.into_iter().cloned().collect()
}

/// The ids that must still be fetched before [`resolve_state`]: call it, fetch, add to `events` (or to `absent` what
/// cannot be had) and repeat until nothing is asked for.
///
/// It asks for the conflicted events, their auth chains and the events of the states that authorize them, and for the
/// chains of all other state only where those decide whether an event belongs to the auth difference.
#[must_use]
pub fn needed_for_resolution(
    rules: &RoomVersionRules,
    states: &[StateIds],
    events: &EventMap,
    absent: &HashSet<OwnedEventId>,
) -> Vec<OwnedEventId> {
    let split = Split::of(states);
    if split.is_settled() {
        return Vec::new();
    }
    let mut walk = Walk {
        rules,
        states,
        events,
        absent,
        seen: HashSet::new(),
        missing: HashSet::new(),
    };
    let chains = rules.state_res.v2_rules().is_some();
    walk.visit(
        split.conflicted.iter().flatten().map(|id| (*id).clone()).collect(),
        chains,
    );
    if chains && walk.missing.is_empty() {
        let chains: Vec<_> = split
            .conflicted
            .iter()
            .map(|ids| auth_chain(ids.iter().copied(), events))
            .collect();
        let differ = chains
            .iter()
            .flatten()
            .any(|id| !chains.iter().all(|chain| chain.contains(id)));
        if differ {
            walk.visit(split.agreed.values().cloned().collect(), true);
        }
    }
    walk.missing.into_iter().collect()
}

struct Walk<'a> {
    rules: &'a RoomVersionRules,
    states: &'a [StateIds],
    events: &'a EventMap,
    absent: &'a HashSet<OwnedEventId>,
    seen: HashSet<OwnedEventId>,
    missing: HashSet<OwnedEventId>,
}

impl Walk<'_> {
    /// `chains`: whether auth events are wanted too, and not only what the states hold for the event's auth keys.
    fn visit(&mut self, mut open: Vec<OwnedEventId>, chains: bool) {
        while let Some(id) = open.pop() {
            if !self.seen.insert(id.clone()) || self.absent.contains(&id) {
                continue;
            }
            let Some(event) = self.events.get(&id) else {
                self.missing.insert(id);
                continue;
            };
            if chains {
                open.extend(event.auth_events.iter().cloned());
            }
            let keys = auth::auth_keys(
                &event.kind.to_string(),
                &event.sender,
                event.state_key.as_deref(),
                &event.content,
                self.rules,
            );
            let create = ("m.room.create".to_owned(), String::new());
            for (kind, key) in keys.unwrap_or_default().into_iter().chain([create]) {
                let key = state_key(&kind, &key);
                open.extend(self.states.iter().filter_map(|state| state.get(&key).cloned()));
            }
        }
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
