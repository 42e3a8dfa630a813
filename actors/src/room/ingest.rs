//! Where an event from elsewhere stands in its room.
//!
//! Spec: server-server API, "Checks performed on receipt of a PDU" (steps 4 to 6), "Rejection", "Soft failure". The PDU
//! has passed [`super::parse::check_incoming`]; everything it depends on has been fetched.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ruma::room_version_rules::RoomVersionRules;
use ruma::{EventId, OwnedEventId};

use super::auth;
use super::commands::Verdict;
use super::event::Pdu;
use super::fault::{Rule, is_broken};
use super::resolve::{EventMap, Events, ResolveError, StateIds, resolve_state, state_key};

/// The most events that an event may follow (room versions, "Event format"). Those of this server follow all ends of the room's
/// branches up to that number: the state before them is the room's, which all of the ends make together.
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
    if is_broken(Rule::StateBefore) {
        return Ok(());
    }
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
    if !is_broken(Rule::AuthEvents) {
        auth::check_auth_events(pdu, rules, &event)?;
    }
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
        Ok(()) if is_broken(Rule::SoftFailure) => Verdict::Accepted,
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
        if followed.insert(id.clone()) && !is_broken(Rule::HiddenParents) {
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
pub struct Scene<'a, E = EventMap> {
    /// The room version's rules.
    pub rules: &'a RoomVersionRules,
    /// The event itself, its auth events, the create event, the events of `current` that authorize it, and what
    /// [`super::resolve::needed_for_resolution`] asks for.
    pub events: &'a E,
    /// The state before the event as somebody else tells it. It is resolved with the states after the prev events that are
    /// known; those that are not are then no obstacle.
    pub given: Option<&'a StateIds>,
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

/// The state before an event: that after its parents, and the one given.
///
/// # Errors
/// When the states cannot be resolved.
pub fn state_before<E: Events>(scene: &Scene<'_, E>, pdu: &Pdu) -> Result<StateIds, ResolveError> {
    let parents = pdu.prev_events.iter().filter_map(|id| scene.after.get(id));
    let states: Vec<StateIds> = scene.given.into_iter().chain(parents).cloned().collect();
    resolve_state(scene.rules, &states, scene.events)
}

/// Events, each behind those among them that it names as auth events; of a cycle none is left.
#[must_use]
pub fn after_their_auth_events(pdus: Vec<Arc<Pdu>>) -> Vec<Arc<Pdu>> {
    let places: HashMap<OwnedEventId, usize> = pdus
        .iter()
        .enumerate()
        .map(|(at, pdu)| (pdu.event_id.clone(), at))
        .collect();
    let mut waits_for = vec![0_usize; pdus.len()];
    let mut followed_by = vec![Vec::new(); pdus.len()];
    for (at, pdu) in pdus.iter().enumerate() {
        let named: HashSet<usize> = pdu
            .auth_events
            .iter()
            .filter_map(|id| places.get(id).copied())
            .collect();
        waits_for[at] = named.len();
        named.into_iter().for_each(|before| followed_by[before].push(at));
    }
    let mut ready: VecDeque<usize> = (0..pdus.len()).filter(|at| waits_for[*at] == 0).collect();
    let mut sorted = Vec::with_capacity(pdus.len());
    while let Some(at) = ready.pop_front() {
        sorted.push(pdus[at].clone());
        for next in &followed_by[at] {
            waits_for[*next] -= 1;
            if waits_for[*next] == 0 {
                ready.push_back(*next);
            }
        }
    }
    sorted
}

/// What follows from the state before an event, but for the room's new state.
#[derive(Clone, Debug)]
pub struct Judged {
    /// How it stands.
    pub verdict: Verdict,
    /// The state after it; that before it if it is rejected.
    pub after: StateIds,
    /// The room's forward extremities.
    pub extremities: Vec<OwnedEventId>,
    /// What the room's new state is resolved from; empty where it stays as it is.
    pub ends: Vec<StateIds>,
}

impl Judged {
    /// The room's policy server does not recommend the event: it is soft-failed if nothing worse is wrong with it, and the room
    /// keeps its `extremities`.
    pub fn withhold(&mut self, extremities: &[OwnedEventId]) {
        if self.verdict == Verdict::Accepted {
            self.verdict = Verdict::SoftFailed;
            self.extremities = extremities.to_vec();
            self.ends.clear();
        }
    }
}

/// Judges an event by the state before it and by the room as it is.
#[must_use]
pub fn weigh<E: Events>(scene: &Scene<'_, E>, pdu: &Pdu, before: &StateIds) -> Judged {
    let event = |id: &EventId| scene.events.event(id).cloned();
    let look = |state: &StateIds, kind: &str, key: &str| state.get(&state_key(kind, key)).and_then(|id| event(id));
    let verdict = judge(
        pdu,
        scene.rules,
        event,
        |kind, key| look(before, kind, key),
        |kind, key| look(scene.current, kind, key),
    );
    let mut judged = Judged {
        after: before.clone(),
        extremities: scene.extremities.to_vec(),
        ends: Vec::new(),
        verdict,
    };
    if !matches!(judged.verdict, Verdict::Rejected(_)) || is_broken(Rule::RejectedState) {
        judged.after = state_after(before, pdu);
    }
    if judged.verdict == Verdict::Accepted {
        let hidden = |id: &EventId| scene.hidden.get(id).cloned();
        judged.extremities = next_extremities(scene.extremities, pdu, hidden, scene.has_children);
        let after = |id: &OwnedEventId| {
            if *id == pdu.event_id {
                Some(&judged.after)
            } else {
                scene.after.get(id)
            }
        };
        judged.ends = judged.extremities.iter().filter_map(after).cloned().collect();
    }
    judged
}

/// Puts an event into its room. [`Verdict::Missing`] names the parents whose state is not in `scene`; nothing else is
/// then known.
///
/// # Errors
/// When states cannot be resolved.
pub fn place<E: Events>(scene: &Scene<'_, E>, pdu: &Pdu) -> Result<Placed, ResolveError> {
    let prev = pdu.prev_events.iter();
    let unknown: Vec<OwnedEventId> = prev
        .filter(|id| scene.given.is_none() && !scene.after.contains_key(*id))
        .chain(pdu.auth_events.iter().filter(|id| scene.events.event(id).is_none()))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Ok(Placed {
            verdict: Verdict::Missing(unknown),
            before: StateIds::new(),
            after: StateIds::new(),
            extremities: scene.extremities.to_vec(),
            current: scene.current.clone(),
        });
    }
    let before = state_before(scene, pdu)?;
    let judged = weigh(scene, pdu, &before);
    let current = if judged.ends.is_empty() {
        scene.current.clone()
    } else {
        resolve_state(scene.rules, &judged.ends, scene.events)?
    };
    Ok(Placed {
        verdict: judged.verdict,
        before,
        after: judged.after,
        extremities: judged.extremities,
        current,
    })
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
