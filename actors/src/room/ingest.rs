//! Where an event from elsewhere stands in its room.
//!
//! Spec: server-server API, "Checks performed on receipt of a PDU" (steps 4 to 6), "Rejection", "Soft failure". The PDU
//! has passed [`super::parse::check_incoming`]; everything it depends on has been fetched.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ruma::room_version_rules::RoomVersionRules;
use ruma::{EventId, OwnedEventId};

use super::auth;
use super::commands::Verdict;
use super::event::Pdu;
use super::resolve::{EventMap, ResolveError, StateIds, resolve_state, state_key};

/// The most events that one event may follow.
pub const MAX_PREV_EVENTS: usize = 20;

/// The auth and prev events that are not known yet.
#[must_use]
pub fn missing(pdu: &Pdu, known: impl Fn(&EventId) -> bool) -> Vec<OwnedEventId> {
    let mut seen = HashSet::new();
    let parents = pdu.prev_events.iter().chain(&pdu.auth_events);
    parents
        .filter(|id| !known(id) && seen.insert((*id).clone()))
        .cloned()
        .collect()
}

/// The create event after which a room is named, in the versions that do so.
#[must_use]
pub fn create_event_id(pdu: &Pdu, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    if !rules.authorization.room_create_event_id_as_room_id {
        return None;
    }
    EventId::parse(format!("${}", pdu.room_id.strip_sigil())).ok()
}

/// The checks that depend on the event's past alone: by its auth events, then by the state before it.
///
/// `event` must know the auth events (and the create event).
///
/// # Errors
/// Why the event is rejected.
pub fn check_past(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    event: impl Fn(&EventId) -> Option<Arc<Pdu>>,
    before: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
) -> Result<(), String> {
    check_by_auth_events(pdu, rules, event)?;
    auth::check_against(pdu, rules, before).map_err(|reason| format!("by the state before it: {reason}"))
}

/// The first half of [`check_past`]; for outliers there is no other.
///
/// # Errors
/// Why the event is rejected.
pub fn check_by_auth_events(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    event: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), String> {
    auth::check_auth_events(pdu, rules, &event)?;
    let create = create_event_id(pdu, rules);
    let named: HashMap<(String, String), Arc<Pdu>> = pdu
        .auth_events
        .iter()
        .chain(&create)
        .filter_map(|id| event(id))
        .filter_map(|event| Some(((event.kind.to_string(), event.state_key.as_deref()?.to_owned()), event)))
        .collect();
    auth::check_against(pdu, rules, |kind, key| {
        named.get(&(kind.to_owned(), key.to_owned())).cloned()
    })
    .map_err(|reason| format!("by its auth events: {reason}"))
}

/// All checks, at the three points.
///
/// `current` is the room's state after its forward extremities.
#[must_use]
pub fn judge(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    event: impl Fn(&EventId) -> Option<Arc<Pdu>>,
    before: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
    current: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
) -> Verdict {
    match check_past(pdu, rules, event, before) {
        Err(reason) => Verdict::Rejected(reason),
        Ok(()) if auth::check_against(pdu, rules, current).is_err() => Verdict::SoftFailed,
        Ok(()) => Verdict::Accepted,
    }
}

/// The state after an event that is not rejected.
#[must_use]
pub fn state_after(before: &StateIds, pdu: &Pdu) -> StateIds {
    let mut after = before.clone();
    if let Some(key) = &pdu.state_key {
        after.insert(state_key(&pdu.kind.to_string(), key), pdu.event_id.clone());
    }
    after
}

/// The forward extremities once `pdu` is accepted.
///
/// `hidden` knows the prev events of soft-failed and rejected events: those are no extremities themselves, and what lies
/// behind them is followed by `pdu` too. `has_children` says that an accepted event follows `pdu` already.
#[must_use]
pub fn next_extremities(
    old: &[OwnedEventId],
    pdu: &Pdu,
    hidden: impl Fn(&EventId) -> Option<Vec<OwnedEventId>>,
    has_children: bool,
) -> Vec<OwnedEventId> {
    let mut followed: HashSet<OwnedEventId> = HashSet::new();
    let mut open = pdu.prev_events.clone();
    while let Some(id) = open.pop() {
        if followed.insert(id.clone()) {
            open.extend(hidden(&id).unwrap_or_default());
        }
    }
    let mut next: Vec<OwnedEventId> = old
        .iter()
        .filter(|id| !followed.contains(*id) && **id != pdu.event_id)
        .cloned()
        .collect();
    if !has_children {
        next.push(pdu.event_id.clone());
    }
    next
}

/// Which of the forward extremities (with their depths) a new event follows: all, or where there are too many the
/// deepest and the shallowest, so that their number falls with each event.
#[must_use]
pub fn choose_prev_events<T>(extremities: &[T], depth: impl Fn(&T) -> i64) -> Vec<&T> {
    let mut chosen: Vec<&T> = extremities.iter().collect();
    if chosen.len() > MAX_PREV_EVENTS {
        chosen.sort_by_key(|extremity| depth(extremity));
        chosen.drain(MAX_PREV_EVENTS / 2..chosen.len() - MAX_PREV_EVENTS / 2);
    }
    chosen
}

/// A room as one event meets it.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The room version's rules.
    pub rules: &'a RoomVersionRules,
    /// The event itself, its auth events, the create event, the events of `current` that authorize it, and what
    /// [`super::resolve::needed_for_resolution`] asks for.
    pub events: &'a EventMap,
    /// The state after each prev event and each forward extremity.
    pub after: &'a HashMap<OwnedEventId, StateIds>,
    /// The prev events of soft-failed and rejected events among the prev events, and of those behind them.
    pub hidden: &'a HashMap<OwnedEventId, Vec<OwnedEventId>>,
    /// The forward extremities.
    pub extremities: &'a [OwnedEventId],
    /// The room's current state.
    pub current: &'a StateIds,
    /// Whether an accepted event follows it already.
    pub has_children: bool,
}

/// An event's place, and the room with it.
#[derive(Clone, Debug)]
pub struct Placed {
    /// How it stands.
    pub verdict: Verdict,
    /// The state before it.
    pub before: StateIds,
    /// The state after it; that before it if it is rejected.
    pub after: StateIds,
    /// The room's forward extremities.
    pub extremities: Vec<OwnedEventId>,
    /// The room's current state.
    pub current: StateIds,
}

/// Puts an event into its room. [`Verdict::Missing`] names the parents whose state is not in `scene`; nothing else is
/// then known.
///
/// # Errors
/// When states cannot be resolved.
pub fn place(scene: &Scene<'_>, pdu: &Pdu) -> Result<Placed, ResolveError> {
    let event = |id: &EventId| scene.events.get(id).cloned();
    let unknown: Vec<OwnedEventId> = pdu
        .prev_events
        .iter()
        .filter(|id| !scene.after.contains_key(*id))
        .chain(pdu.auth_events.iter().filter(|id| !scene.events.contains_key(*id)))
        .cloned()
        .collect();
    let unchanged = |verdict, before: StateIds| Placed {
        verdict,
        after: before.clone(),
        before,
        extremities: scene.extremities.to_vec(),
        current: scene.current.clone(),
    };
    if !unknown.is_empty() {
        return Ok(unchanged(Verdict::Missing(unknown), StateIds::new()));
    }
    let parents: Vec<StateIds> = pdu
        .prev_events
        .iter()
        .filter_map(|id| scene.after.get(id).cloned())
        .collect();
    let before = resolve_state(scene.rules, &parents, scene.events)?;
    let look = |state: &StateIds, kind: &str, key: &str| state.get(&state_key(kind, key)).and_then(|id| event(id));
    let verdict = judge(
        pdu,
        scene.rules,
        event,
        |kind, key| look(&before, kind, key),
        |kind, key| look(scene.current, kind, key),
    );
    if matches!(verdict, Verdict::Rejected(_)) {
        return Ok(unchanged(verdict, before));
    }
    let after = state_after(&before, pdu);
    if verdict != Verdict::Accepted {
        return Ok(Placed {
            after,
            ..unchanged(verdict, before)
        });
    }
    let hidden = |id: &EventId| scene.hidden.get(id).cloned();
    let extremities = next_extremities(scene.extremities, pdu, hidden, scene.has_children);
    let ends: Vec<StateIds> = extremities
        .iter()
        .filter_map(|id| {
            if *id == pdu.event_id {
                Some(&after)
            } else {
                scene.after.get(id)
            }
        })
        .cloned()
        .collect();
    let current = resolve_state(scene.rules, &ends, scene.events)?;
    Ok(Placed {
        verdict,
        before,
        after,
        extremities,
        current,
    })
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
