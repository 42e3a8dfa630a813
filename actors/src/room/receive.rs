//! Events from elsewhere, placed into their room one after the other and committed together.
//!
//! What they depend on is read here; where they stand is decided by [`super::ingest::place`], away from the io runtime.
//! Spec: server-server API, "Checks performed on receipt of a PDU".

mod apply;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ruma::events::TimelineEventType;
use ruma::{EventId, OwnedEventId};

use super::commands::{Incoming, Ingest, Verdict};
use super::event::{Pdu, Status, StoredEvent};
use super::ingest::{self, Placed, Scene};
use super::resolve::{EventMap, StateIds, needed_for_resolution, state_key};
use super::snapshot::RoomSnapshot;
use super::{auth, commit, parse};
use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use apply::Out;

/// Rounds of looking up what a resolution needs; each follows the auth chains one step further.
const MAX_ROUNDS: usize = 2_000;
/// Hidden events that are followed backwards from one event.
const MAX_HIDDEN: usize = 200;

/// How an [`Ingest`] ended.
pub(super) enum Received {
    /// The room now stands so.
    Settled(Arc<RoomSnapshot>, Outcome<Vec<Verdict>>),
    /// What is stored may differ from the snapshot.
    InDoubt(DomainError),
}

/// Takes events from elsewhere into the room.
pub(super) async fn receive(env: &Arc<Env>, room: &Arc<RoomSnapshot>, ingest: Ingest) -> Received {
    let mut receiver = Receiver::new(env, room);
    let verdicts = match receiver.all(ingest).await {
        Ok(verdicts) => verdicts,
        // Nothing was written.
        Err(error) => return Received::Settled(room.clone(), Err(error)),
    };
    let plan = receiver.finish();
    if plan.rows.is_empty() {
        return Received::Settled(room.clone(), Ok(verdicts));
    }
    // Rows that nobody sees take a position of their own: the journal moves on with every submission.
    let positions = i64::from(plan.positions).max(1);
    match commit::commit(env, plan, entities::store::rows::Rows::default(), Vec::new(), positions).await {
        Ok((_, newer)) => Received::Settled(newer.unwrap_or_else(|| room.clone()), Ok(verdicts)),
        Err(error @ DomainError::Overloaded { .. }) => Received::Settled(room.clone(), Err(error)),
        Err(error) => Received::InDoubt(error),
    }
}

/// What placing needs, owned, so that it can go to another thread and back.
#[derive(Default)]
struct Ground {
    events: EventMap,
    after: HashMap<OwnedEventId, StateIds>,
    hidden: HashMap<OwnedEventId, Vec<OwnedEventId>>,
    extremities: Vec<OwnedEventId>,
    current: StateIds,
}

/// The room while a command is worked on.
struct Receiver<'a> {
    env: &'a Arc<Env>,
    room: RoomSnapshot,
    /// Events that were read or have just been placed.
    stored: HashMap<OwnedEventId, Arc<StoredEvent>>,
    ground: Ground,
    out: Out,
}

impl<'a> Receiver<'a> {
    fn new(env: &'a Arc<Env>, room: &Arc<RoomSnapshot>) -> Self {
        let ground = Ground {
            extremities: room.extremities.iter().map(|e| e.event_id.clone()).collect(),
            current: room
                .state
                .iter()
                .map(|(key, e)| (key.clone(), e.event.pdu.event_id.clone()))
                .collect(),
            ..Ground::default()
        };
        Self {
            env,
            room: (**room).clone(),
            stored: HashMap::new(),
            ground,
            out: Out::default(),
        }
    }

    async fn all(&mut self, ingest: Ingest) -> Outcome<Vec<Verdict>> {
        for outlier in &ingest.outliers {
            self.outlier(outlier).await?;
        }
        let mut verdicts = Vec::with_capacity(ingest.pdus.len());
        for incoming in &ingest.pdus {
            verdicts.push(self.one(incoming).await?);
        }
        Ok(verdicts)
    }

    /// Reads events that are not in memory yet. Unknown ones stay unknown.
    async fn look_up(&mut self, ids: impl IntoIterator<Item = OwnedEventId>) -> Outcome<()> {
        let mut seen = HashSet::new();
        let missing: Vec<_> = ids
            .into_iter()
            .filter(|id| !self.stored.contains_key(id) && seen.insert(id.clone()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let found = self.env.rooms.events_by_id(&missing).await?;
        let room = self.room.nid;
        for event in found.into_values().filter(|event| event.room_nid == room) {
            self.know(event);
        }
        Ok(())
    }

    fn know(&mut self, event: Arc<StoredEvent>) {
        self.ground.events.insert(event.pdu.event_id.clone(), event.pdu.clone());
        self.stored.insert(event.pdu.event_id.clone(), event);
    }

    fn parse(&self, incoming: &Incoming) -> Result<Arc<Pdu>, String> {
        let pdu = parse::parse_pdu(&incoming.json, &self.room.rules, Some(incoming.event_id.clone()))
            .map_err(|e| e.to_string())?;
        if pdu.room_id != self.room.room_id {
            return Err("it belongs to another room".to_owned());
        }
        Ok(Arc::new(pdu))
    }

    /// The create event, which version 12 does not name among the auth events.
    fn create_id(&self, pdu: &Pdu) -> Option<OwnedEventId> {
        ingest::create_event_id(pdu, &self.room.rules)
    }

    /// Stores an event that others need for their auth chains, unless it is known or its own auth events are not.
    async fn outlier(&mut self, incoming: &Incoming) -> Outcome<()> {
        let Ok(pdu) = self.parse(incoming) else { return Ok(()) };
        let create = self.create_id(&pdu);
        self.look_up(pdu.auth_events.iter().chain([&pdu.event_id]).chain(&create).cloned())
            .await?;
        let known = |id: &EventId| self.ground.events.get(id).cloned();
        if self.stored.contains_key(&pdu.event_id) || pdu.auth_events.iter().any(|id| known(id).is_none()) {
            return Ok(());
        }
        let status = match ingest::check_by_auth_events(&pdu, &self.room.rules, known) {
            Ok(()) => Status::Outlier,
            Err(reason) => {
                tracing::info!(event_id = %pdu.event_id, %reason, "an outlier was rejected");
                Status::Rejected
            }
        };
        self.store_hidden(&pdu, status, None).await.map(|_| ())
    }

    /// One timeline event.
    async fn one(&mut self, incoming: &Incoming) -> Outcome<Verdict> {
        let pdu = match self.parse(incoming) {
            Ok(pdu) => pdu,
            Err(reason) => return Ok(Verdict::Rejected(reason)),
        };
        let create = self.create_id(&pdu);
        let parents = pdu.prev_events.iter().chain(&pdu.auth_events);
        self.look_up(parents.chain([&pdu.event_id]).chain(&create).cloned())
            .await?;
        if self
            .stored
            .get(&pdu.event_id)
            .is_some_and(|event| event.status != Status::Outlier)
        {
            return Ok(Verdict::Duplicate);
        }
        if pdu.kind == TimelineEventType::RoomCreate {
            return Ok(Verdict::Rejected("a room has only one create event".to_owned()));
        }
        let missing = ingest::missing(&pdu, |id| self.is_usable(&pdu, id));
        if !missing.is_empty() {
            return Ok(Verdict::Missing(missing));
        }
        self.ground.events.insert(pdu.event_id.clone(), pdu.clone());
        self.prepare(&pdu).await?;
        let placed = self.place(&pdu).await?;
        self.apply(&pdu, placed).await
    }

    /// Parents must have a state of their own; auth events need only be there.
    fn is_usable(&self, pdu: &Pdu, id: &EventId) -> bool {
        let parent = pdu.prev_events.iter().any(|prev| prev == id);
        self.stored
            .get(id)
            .is_some_and(|event| !parent || event.state_group.is_some())
    }

    /// Reads everything that placing the event looks at.
    async fn prepare(&mut self, pdu: &Arc<Pdu>) -> Outcome<()> {
        self.read_hidden(pdu).await?;
        let wanted: Vec<_> = pdu
            .prev_events
            .iter()
            .chain(&self.ground.extremities)
            .cloned()
            .collect();
        self.look_up(wanted.iter().cloned()).await?;
        for id in &wanted {
            self.read_after(id).await?;
        }
        let ground = &self.ground;
        let mut states: Vec<StateIds> = wanted.iter().filter_map(|id| ground.after.get(id).cloned()).collect();
        let after: Vec<StateIds> = states.iter().map(|state| ingest::state_after(state, pdu)).collect();
        states.extend(after);
        let keys = auth::auth_keys(
            &pdu.kind.to_string(),
            &pdu.sender,
            pdu.state_key.as_deref(),
            &pdu.content,
            &self.room.rules,
        );
        let own = pdu
            .state_key
            .as_deref()
            .map(|key| (pdu.kind.to_string(), key.to_owned()));
        let create = ("m.room.create".to_owned(), String::new());
        let levels = ("m.room.power_levels".to_owned(), String::new());
        let keys: Vec<_> = keys
            .unwrap_or_default()
            .into_iter()
            .chain(own)
            .chain([create, levels])
            .collect();
        let keys: Vec<_> = keys.iter().map(|(kind, key)| state_key(kind, key)).collect();
        let all = states.iter().chain([&ground.current]);
        let needed: Vec<_> = all
            .flat_map(|state| keys.iter().filter_map(|key| state.get(key).cloned()))
            .collect();
        self.look_up(needed).await?;
        self.read_chains(&states).await
    }

    /// What resolving these states needs.
    async fn read_chains(&mut self, states: &[StateIds]) -> Outcome<()> {
        let mut absent = HashSet::new();
        for _ in 0..MAX_ROUNDS {
            let needed = needed_for_resolution(&self.room.rules, states, &self.ground.events, &absent);
            if needed.is_empty() {
                return Ok(());
            }
            self.look_up(needed.iter().cloned()).await?;
            absent.extend(needed.into_iter().filter(|id| !self.stored.contains_key(id)));
        }
        Err(DomainError::unavailable("an auth chain is too long to resolve"))
    }

    /// Soft-failed and rejected parents, and those behind them.
    async fn read_hidden(&mut self, pdu: &Pdu) -> Outcome<()> {
        let mut open: Vec<OwnedEventId> = pdu.prev_events.clone();
        while !open.is_empty() && self.ground.hidden.len() < MAX_HIDDEN {
            self.look_up(open.iter().cloned()).await?;
            let mut behind = Vec::new();
            for id in open {
                let Some(event) = self.stored.get(&id) else { continue };
                let hidden = matches!(event.status, Status::SoftFailed | Status::Rejected);
                if hidden && !self.ground.hidden.contains_key(&id) {
                    behind.extend(event.pdu.prev_events.iter().cloned());
                    self.ground.hidden.insert(id, event.pdu.prev_events.clone());
                }
            }
            open = behind;
        }
        Ok(())
    }

    /// The state after a stored event.
    async fn read_after(&mut self, id: &OwnedEventId) -> Outcome<()> {
        if self.ground.after.contains_key(id) {
            return Ok(());
        }
        if self.ground.extremities.as_slice() == std::slice::from_ref(id) {
            self.ground.after.insert(id.clone(), self.ground.current.clone());
            return Ok(());
        }
        let Some((event, group)) = self
            .stored
            .get(id)
            .and_then(|event| Some((event.clone(), event.state_group?)))
        else {
            return Ok(());
        };
        let mut state: StateIds = if group == self.room.state_group {
            self.ground.current.clone()
        } else {
            let events = self.env.rooms.state_at_group(group).await?;
            let ids = events
                .iter()
                .map(|(key, event)| (key.clone(), event.pdu.event_id.clone()))
                .collect();
            events.into_iter().for_each(|(_, event)| self.know(event));
            ids
        };
        if event.status != Status::Rejected {
            state = ingest::state_after(&state, &event.pdu);
        }
        self.ground.after.insert(id.clone(), state);
        Ok(())
    }

    /// Decides where the event stands, on the CPU pool.
    async fn place(&mut self, pdu: &Arc<Pdu>) -> Outcome<Placed> {
        let ground = std::mem::take(&mut self.ground);
        let (rules, event) = (self.room.rules.clone(), pdu.clone());
        let forked = ground.extremities.len() > 1 || event.prev_events.as_slice() != ground.extremities.as_slice();
        let job = move || {
            let scene = Scene {
                rules: &rules,
                events: &ground.events,
                after: &ground.after,
                hidden: &ground.hidden,
                extremities: &ground.extremities,
                current: &ground.current,
                // Nobody is accepted before its parents, so nothing can follow a new event.
                has_children: false,
            };
            let placed = ingest::place(&scene, &event);
            (ground, placed)
        };
        let class = if forked { Class::StateRes } else { Class::Plan };
        let (ground, placed) = self.env.cpu.run(class, job).await?;
        self.ground = ground;
        placed.map_err(|e| DomainError::internal(format!("{}: {e}", pdu.event_id)))
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
