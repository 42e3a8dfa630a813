//! What of a room that another server gives is to be believed. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ruma::events::TimelineEventType;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId};

use super::{Stored, bad_state};
use crate::error::{DomainError, Outcome};
use crate::room::commands::Incoming;
use crate::room::event::{Pdu, Status};
use crate::room::resolve::state_key;
use crate::room::snapshot::StateKey;
use crate::room::{ingest, parse, rules};

/// What was given, and what of it is stored.
pub(super) struct Given {
    pub room_id: OwnedRoomId,
    pub version: RoomVersionId,
    pub rules: Arc<RoomVersionRules>,
    /// This server.
    pub server: OwnedServerName,
    /// See [`super::Import`].
    pub state: Vec<OwnedEventId>,
    pub events: Vec<Incoming>,
    pub join: Incoming,
    /// Events of this room that are stored.
    pub stored: Stored,
    /// Ids that events of other rooms have.
    pub elsewhere: HashSet<OwnedEventId>,
}

/// What is left of it.
pub(super) struct Checked {
    /// Events that are not stored, each behind those that authorize it; those that do not pass are marked as rejected.
    pub new: Vec<Arc<Pdu>>,
    /// As given.
    pub stored: Stored,
    /// The state before the join.
    pub state: BTreeMap<StateKey, OwnedEventId>,
    /// How many of the given state events are no part of it.
    pub left_out: usize,
    pub join: Arc<Pdu>,
    create: Arc<Pdu>,
}

impl Checked {
    pub(super) fn creator(&self) -> String {
        self.create.sender.to_string()
    }
}

/// Checks everything.
///
/// # Errors
/// `M_BAD_STATE` when what is left is no state; `M_FORBIDDEN` when it does not authorize the join.
pub(super) fn check(given: Given) -> Outcome<Checked> {
    let parse = |incoming: &Incoming| {
        let pdu = parse::pdu_from_checked(&incoming.json, &given.rules, incoming.event_id.clone()).ok()?;
        (pdu.room_id == given.room_id).then(|| Arc::new(pdu))
    };
    let mut seen: HashSet<&OwnedEventId> = HashSet::new();
    let unknown = given.events.iter().filter(|event| {
        let id = &event.event_id;
        !given.stored.contains_key(id) && !given.elsewhere.contains(id) && seen.insert(id)
    });
    let parsed: Vec<Arc<Pdu>> = unknown.filter_map(parse).collect();
    let mut events: HashMap<OwnedEventId, Arc<Pdu>> = given
        .stored
        .iter()
        .map(|(id, event)| (id.clone(), event.pdu.clone()))
        .collect();
    let mut new = Vec::with_capacity(parsed.len());
    for pdu in ingest::after_their_auth_events(parsed) {
        if pdu.event_id == given.join.event_id || pdu.auth_events.iter().any(|id| !events.contains_key(id)) {
            continue;
        }
        let known = |id: &EventId| events.get(id).cloned();
        let pdu = match ingest::check_by_auth_events(&pdu, &given.rules, known) {
            Ok(()) => pdu,
            Err(reason) => {
                tracing::info!(event_id = %pdu.event_id, %reason, "an event of the state of a room is rejected");
                let rejected = true;
                Arc::new(Pdu {
                    rejected,
                    ..(*pdu).clone()
                })
            }
        };
        events.insert(pdu.event_id.clone(), pdu.clone());
        new.push(pdu);
    }
    let mut state = BTreeMap::new();
    let ids: HashSet<&OwnedEventId> = given.state.iter().collect();
    for id in &given.state {
        let event = events.get(id).filter(|event| !event.rejected);
        if let Some(key) = event.and_then(|event| event.key()) {
            state.insert(key, id.clone());
        }
    }
    let left_out = ids.len() - state.len();
    let create = create(&given, &state, &events)?;
    let join = parse(&given.join).ok_or_else(|| bad_state("the join is not of this room"))?;
    check_join(&given, &join, &state, &events)?;
    Ok(Checked {
        new,
        stored: given.stored,
        state,
        left_out,
        join,
        create,
    })
}

/// The create event, which must be of the version that the room is said to have.
fn create(
    given: &Given,
    state: &BTreeMap<StateKey, OwnedEventId>,
    events: &HashMap<OwnedEventId, Arc<Pdu>>,
) -> Outcome<Arc<Pdu>> {
    let id = state.get(&state_key("m.room.create", ""));
    let create = id.and_then(|id| events.get(id));
    let create = create.ok_or_else(|| bad_state("the given state has no create event"))?;
    if rules::version_of_create(&create.content).ok().as_ref() != Some(&given.version) {
        return Err(bad_state("the create event is of another room version"));
    }
    Ok(create.clone())
}

fn check_join(
    given: &Given,
    join: &Pdu,
    state: &BTreeMap<StateKey, OwnedEventId>,
    events: &HashMap<OwnedEventId, Arc<Pdu>>,
) -> Outcome<()> {
    let own = join.kind == TimelineEventType::RoomMember
        && join.has_membership("join")
        && join.state_key.as_deref() == Some(join.sender.as_str())
        && join.sender.server_name() == given.server;
    if !own {
        return Err(bad_state("the event is not the join of a user of this server"));
    }
    let hidden = |status: Status| matches!(status, Status::Outlier);
    let known = given.stored.get(&join.event_id);
    if known.is_some_and(|event| !hidden(event.status)) || given.elsewhere.contains(&join.event_id) {
        return Err(bad_state("the join is not new"));
    }
    let event = |id: &EventId| events.get(id).cloned();
    if let Some(id) = join.auth_events.iter().find(|id| event(id).is_none()) {
        return Err(bad_state(format!("the join's auth event {id} was not given")));
    }
    let before = |kind: &str, key: &str| state.get(&state_key(kind, key)).and_then(|id| event(id));
    ingest::check_past(join, &given.rules, event, before).map_err(DomainError::forbidden)
}
