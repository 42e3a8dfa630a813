//! State resolution of room version 1.
//!
//! Spec: room version 1, "State resolution". Known to bring back old state; kept for the rooms that still have it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::room_version_rules::RoomVersionRules;
use sha1::{Digest as _, Sha1};

use super::auth;
use super::event::Pdu;
use super::resolve::{Events, Split, StateIds, state_key};
use super::snapshot::StateKey;

/// The types whose conflicts are settled first, in this order, since they decide about the others.
const DECISIVE: [&str; 3] = ["m.room.power_levels", "m.room.join_rules", "m.room.member"];

/// Resolves states of one room. Events that are not in `events` cannot be checked and are passed over.
pub(super) fn resolve<E: Events>(rules: &RoomVersionRules, split: &Split<'_>, events: &E) -> StateIds {
    let mut resolved = split.agreed.clone();
    let mut conflicts: BTreeMap<&StateKey, Vec<&Arc<Pdu>>> = BTreeMap::new();
    for key in &split.keys {
        let ids = split.candidates(key);
        // A key that only some states have is no conflict in this version.
        if let (1, Some(id)) = (ids.len(), ids.first()) {
            resolved.insert((*key).clone(), (*id).clone());
        } else {
            let mut candidates: Vec<&Arc<Pdu>> = ids.iter().filter_map(|id| events.event(id)).collect();
            candidates.sort_by(|a, b| order(a, b));
            conflicts.insert(key, candidates);
        }
    }
    for kind in DECISIVE {
        // The conflicts of one type do not see each other's outcome, so their order does not matter.
        let base = resolved.clone();
        for (key, candidates) in conflicts.iter().filter(|(key, _)| *key.0 == *kind) {
            if let Some(event) = last_of_the_allowed(rules, &base, key, candidates, events) {
                resolved.insert((*key).clone(), event.event_id.clone());
            }
        }
    }
    let base = resolved.clone();
    for (key, candidates) in conflicts.iter().filter(|(key, _)| !DECISIVE.contains(&&*key.0)) {
        let allowed = candidates
            .iter()
            .rev()
            .find(|event| is_allowed(rules, event, &base, None, events));
        // Where none is allowed the spec says nothing; other servers then take the first.
        if let Some(event) = allowed.or(candidates.first()) {
            resolved.insert((*key).clone(), event.event_id.clone());
        }
    }
    resolved
}

/// Ascending depth, then descending SHA-1 of the event id.
fn order(a: &Pdu, b: &Pdu) -> Ordering {
    let hash = |pdu: &Pdu| Sha1::digest(pdu.event_id.as_bytes());
    a.depth.cmp(&b.depth).then_with(|| hash(b).cmp(&hash(a)))
}

/// Starting with the first candidate, each next one while it is allowed by the one before it.
fn last_of_the_allowed<'a, E: Events>(
    rules: &RoomVersionRules,
    base: &StateIds,
    key: &StateKey,
    candidates: &[&'a Arc<Pdu>],
    events: &E,
) -> Option<&'a Arc<Pdu>> {
    let (first, rest) = candidates.split_first()?;
    let mut standing = *first;
    for event in rest {
        if !is_allowed(rules, event, base, Some((key, standing)), events) {
            break;
        }
        standing = event;
    }
    Some(standing)
}

/// Whether the event passes the authorization rules in `base`, with one entry replaced.
fn is_allowed<E: Events>(
    rules: &RoomVersionRules,
    event: &Pdu,
    base: &StateIds,
    replaced: Option<(&StateKey, &Arc<Pdu>)>,
    events: &E,
) -> bool {
    auth::check_against(event, rules, |kind, key| {
        if let Some((at, standing)) = replaced
            && *at.0 == *kind
            && *at.1 == *key
        {
            return Some(standing.clone());
        }
        base.get(&state_key(kind, key)).and_then(|id| events.event(id)).cloned()
    })
    .is_ok()
}

#[cfg(test)]
#[path = "resolve_v1_tests.rs"]
mod tests;
