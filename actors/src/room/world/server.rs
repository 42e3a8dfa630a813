//! One server: the writer of the room over a database in memory, and what others can ask it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use futures_util::FutureExt as _;
use ruma::CanonicalJsonValue;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, RoomVersionId, UserId};

use super::memory::{Fate, Memory};
use crate::key::ServerKey;
use crate::rng::Rng;
use crate::room::commands::{Append, Backfill, Draft, Import, Incoming, Ingest, Verdict};
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::fault::{Rule, is_broken};
use crate::room::import::{self, Failed};
use crate::room::library::Library;
use crate::room::parse;
use crate::room::plan::{self, Input, Needs, Origin, Prefetched};
use crate::room::receive::{self, Received};
use crate::room::resolve::StateIds;
use crate::room::rules::rules_of;
use crate::room::snapshot::{Extremity, RoomSnapshot};

/// Memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing waits")
}

/// The process ended in the middle and begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Died;

/// An event that another server was told is taken.
#[derive(Clone)]
pub(super) struct Staged {
    pub from: usize,
    pub pdu: Arc<Pdu>,
}

fn ids_of(incoming: &[Incoming]) -> Vec<OwnedEventId> {
    incoming.iter().map(|incoming| incoming.event_id.clone()).collect()
}

pub(super) struct Server {
    pub name: OwnedServerName,
    pub memory: Memory,
    pub room: Option<Arc<RoomSnapshot>>,
    /// Survives crashes.
    pub staged: VecDeque<Staged>,
    /// What users and other servers were told is taken.
    pub acknowledged: Vec<OwnedEventId>,
    /// In which order events came after all others, where that is known.
    pub order: HashMap<OwnedEventId, usize>,
    origin: Origin,
}

impl Server {
    pub(super) fn new(name: &str, clock: Arc<AtomicI64>, rng: Rng) -> Self {
        let name = OwnedServerName::try_from(name).expect("a server name");
        let seed = rng.bytes::<32>();
        Self {
            memory: Memory::new(name.clone(), clock),
            room: None,
            staged: VecDeque::new(),
            acknowledged: Vec::new(),
            order: HashMap::new(),
            origin: Origin {
                server: name.clone(),
                key: Arc::new(ServerKey::new(&seed, "1")),
                rng,
            },
            name,
        }
    }

    /// The room, if users of this server are in it.
    pub(super) fn joined(&self) -> Option<&Arc<RoomSnapshot>> {
        self.room.as_ref().filter(|room| !room.local_joined.is_empty())
    }

    pub(super) fn state(&self) -> StateIds {
        let entries = self.room.iter().flat_map(|room| room.state.iter());
        entries
            .map(|(key, entry)| (key.clone(), entry.event.pdu.event_id.clone()))
            .collect()
    }

    pub(super) fn ends(&self) -> BTreeSet<OwnedEventId> {
        let ends = self.room.iter().flat_map(|room| room.extremities.iter());
        ends.map(|end| end.event_id.clone()).collect()
    }

    pub(super) fn restart(&mut self) {
        self.room = self.memory.rebuild();
    }

    /// The room as it is in memory is the one that the database holds.
    pub(super) fn check_rebuilt(&mut self) {
        let Some(before) = self.room.clone() else { return };
        self.restart();
        let after = self.room.clone().expect("a room");
        let timeline = |room: &RoomSnapshot| -> Vec<_> {
            let events = room.timeline.iter();
            events
                .map(|event| (event.nid, event.pos, event.redacted_by.clone(), event.unsigned.clone()))
                .collect()
        };
        assert_eq!(before.state_group, after.state_group);
        assert_eq!(
            before.state, after.state,
            "{}: the state after a restart differs",
            self.name
        );
        let standing = |room: &RoomSnapshot| -> Vec<_> {
            let events = room.state.values().map(|entry| &entry.event);
            events
                .map(|event| (event.nid, event.status, event.state_group, event.pos))
                .collect()
        };
        assert_eq!(
            standing(&before),
            standing(&after),
            "{}: the events of the state after a restart",
            self.name
        );
        assert_eq!(before.extremities, after.extremities);
        assert_eq!(
            timeline(&before),
            timeline(&after),
            "{}: the timeline after a restart",
            self.name
        );
        assert_eq!(
            (before.pos, &before.gaps, &before.holes),
            (after.pos, &after.gaps, &after.holes)
        );
        assert_eq!(before.local_joined, after.local_joined);
        assert_eq!(before.server_members, after.server_members);
        assert_eq!(
            (before.joined_count, before.invited_count),
            (after.joined_count, after.invited_count)
        );
        self.memory.check_tables(&after);
    }

    fn prefetch(&self, room: &RoomSnapshot, needs: &Needs) -> Prefetched {
        let events = now(self.memory.events_by_id(&needs.events)).expect("memory");
        let mut successors = Vec::new();
        for target in &needs.redacted {
            if let Some(target) = plan::find(room, target).or_else(|| events.get(target)) {
                successors.extend(now(self.memory.successors(target)).expect("memory"));
            }
        }
        Prefetched {
            state_keys: now(self.memory.intern(&needs.state_keys)).expect("memory"),
            events,
            successors,
            ..Prefetched::default()
        }
    }

    fn with_input<T>(&self, room: &RoomSnapshot, needs: &Needs, work: impl FnOnce(&Input<'_>) -> T) -> T {
        let prefetched = self.prefetch(room, needs);
        work(&Input {
            origin: &self.origin,
            now: self.memory.now_ms(),
            first_nid: now(self.memory.take_nids(needs.nids)).expect("memory"),
            prefetched: &prefetched,
        })
    }

    /// A process that has died after its answer begins anew.
    fn bury(&mut self) {
        if self.memory.has_died() {
            self.restart();
        }
    }

    fn commit(&mut self, plan: plan::Plan) -> Result<(), Died> {
        match now(self.memory.commit(plan)) {
            Ok((_, newer)) => {
                self.room = newer.or(self.room.take());
                self.bury();
                Ok(())
            }
            Err(_) => {
                self.restart();
                Err(Died)
            }
        }
    }

    /// Makes a room.
    pub(super) fn create(&mut self, version: &str, creators: &[OwnedUserId], drafts: Vec<Draft>) {
        let (creator, others) = creators.split_first().expect("a creator");
        let rules = rules_of(version).expect("supported");
        let mut content = serde_json::json!({ "room_version": version });
        if !rules.authorization.use_room_create_sender {
            content["creator"] = serde_json::json!(creator);
        }
        if !others.is_empty() {
            content["additional_creators"] = serde_json::json!(others);
        }
        let content = serde_json::from_value(content).expect("an object");
        let named = !rules.authorization.room_create_event_id_as_room_id;
        let room_id = ruma::RoomId::parse(format!("!room:{}", self.name)).expect("a room id");
        let create = plan::unsealed_create(
            creator.as_str(),
            content,
            named.then_some(&*room_id),
            self.memory.now_ms(),
        );
        let create = plan::seal(create, &rules, &self.origin).expect("a create event");
        let id = RoomVersionId::try_from(version).expect("a version");
        let nid = now(self.memory.take_nids(1)).expect("memory");
        let empty = plan::empty_room(entities::ids::RoomNid(nid), create.room_id.clone(), id, rules);
        let mut needs = Needs::of(&empty, &drafts);
        needs.state_keys.push((Arc::from("m.room.create"), Arc::from("")));
        needs.nids += 2;
        let row = entities::room::Model {
            nid,
            room_id: create.room_id.to_string(),
            version: version.to_owned(),
            creator: creator.to_string(),
            created_ts: 0,
        };
        let append = Append { drafts };
        let plan = self.with_input(&empty.clone(), &needs, |input| {
            plan::plan_new(empty, create, &append, input)
        });
        let mut plan = plan.expect("a good room");
        plan.rows.rooms.push(row);
        self.commit(plan).expect("nothing dies at the beginning");
    }

    /// A local user sends an event; `false` where it is refused.
    pub(super) fn append(&mut self, draft: Draft) -> Result<bool, Died> {
        let Some(room) = self.room.clone() else {
            return Ok(false);
        };
        let needs = Needs::of(&room, [&draft]);
        let append = [Append { drafts: vec![draft] }];
        let mut plan = self.with_input(&room, &needs, |input| plan::plan(&room, &append, input));
        let reply = plan.replies.pop().expect("one reply");
        let Ok(reply) = reply else { return Ok(false) };
        if plan.positions == 0 {
            return Ok(false);
        }
        self.commit(plan)?;
        for id in reply.event_ids {
            self.order.insert(id.clone(), self.order.len());
            self.acknowledged.push(id);
        }
        Ok(true)
    }

    /// An event that nobody checked, as the next one after `end`, or after everything; authorized by the state after `by`, or
    /// the current one.
    pub(super) fn forge(&self, draft: &Draft, end: Option<&StoredEvent>, by: Option<&StoredEvent>) -> Option<Pdu> {
        let mut room = (**self.room.as_ref()?).clone();
        if let Some(end) = end {
            room.extremities = Arc::from([Extremity {
                nid: end.nid,
                event_id: end.pdu.event_id.clone(),
                depth: end.pdu.depth,
            }]);
        }
        if let Some(by) = by {
            let state = self.state_after(by)?;
            room.state = imbl::OrdMap::new();
            for (key, event) in state {
                let key_nid = now(self.memory.intern(std::slice::from_ref(&key))).expect("memory")[&key].0;
                room.state
                    .insert(key, crate::room::snapshot::StateEntry { key_nid, event });
            }
        }
        let needs = Needs::of(&room, [draft]);
        self.with_input(&room, &needs, |input| plan::unchecked(&room, draft, input).ok())
    }

    /// The event with other auth events: one more, one less, or one in the place of another.
    pub(super) fn misquote(&self, pdu: &Pdu, other: &StoredEvent, number: usize) -> Option<Pdu> {
        let rules = self.room.as_ref()?.rules.clone();
        let mut event: ruma::CanonicalJsonObject = serde_json::from_str(&pdu.json).ok()?;
        for field in ["event_id", "hashes", "signatures"] {
            event.remove(field);
        }
        let Some(CanonicalJsonValue::Array(named)) = event.get_mut("auth_events") else {
            return None;
        };
        if !number.is_multiple_of(3) && !named.is_empty() {
            named.remove(number / 3 % named.len());
        }
        if number % 3 < 2 {
            named.push(parse::reference(&other.pdu.event_id, Some(&other.pdu), &rules).ok()?);
        }
        plan::seal(event, &rules, &self.origin).ok()
    }

    /// What this server offers to somebody who wants to join.
    pub(super) fn template(&self, draft: &Draft) -> Option<ruma::CanonicalJsonObject> {
        let room = self.joined()?;
        let needs = Needs::of(room, [draft]);
        self.with_input(room, &needs, |input| plan::template(room, draft, input).ok())
    }

    /// Signs an event that another server made the template of.
    pub(super) fn seal(&self, template: ruma::CanonicalJsonObject, version: &str) -> Pdu {
        let rules = rules_of(version).expect("supported");
        plan::seal(template, &rules, &self.origin).expect("a good template")
    }

    pub(super) fn ingest(&mut self, ingest: Ingest) -> Result<Vec<Verdict>, Died> {
        let room = self.governed();
        let ids = ids_of(&ingest.pdus);
        let received = now(receive::receive(&self.memory, &room, ingest));
        let verdicts = self.received(&ids, received)?;
        for (id, verdict) in ids.into_iter().zip(&verdicts) {
            if !matches!(verdict, Verdict::Duplicate | Verdict::Missing(_)) {
                self.order.insert(id, self.order.len());
            }
        }
        Ok(verdicts)
    }

    pub(super) fn backfill(&mut self, backfill: Backfill) -> Result<Vec<Verdict>, Died> {
        let room = self.governed();
        let ids = ids_of(&backfill.events);
        let received = now(receive::backfill(&self.memory, &room, backfill));
        self.received(&ids, received)
    }

    /// The room, with the rules that are to hold.
    fn governed(&self) -> Arc<RoomSnapshot> {
        let mut room = self.room.clone().expect("a room");
        if is_broken(Rule::Resolution) {
            let other = match room.rules.state_res.v2_rules() {
                Some(v2) if v2.consider_conflicted_state_subgraph => "11",
                _ => "1",
            };
            let state_res = rules_of(other).expect("supported").state_res;
            let mut rules = RoomVersionRules::clone(&room.rules);
            rules.state_res = state_res;
            Arc::make_mut(&mut room).rules = Arc::new(rules);
        }
        room
    }

    fn received(&mut self, ids: &[OwnedEventId], received: Received) -> Result<Vec<Verdict>, Died> {
        match received {
            Received::Settled(room, verdicts) => {
                self.room = Some(room);
                self.bury();
                let verdicts = verdicts.expect("nothing refuses events that can be read");
                let taken = |verdict: &Verdict| matches!(verdict, Verdict::Accepted | Verdict::SoftFailed);
                let taken = ids.iter().zip(&verdicts).filter(|(_, verdict)| taken(verdict));
                self.acknowledged.extend(taken.map(|(id, _)| id.clone()));
                Ok(verdicts)
            }
            Received::InDoubt(_) => {
                self.restart();
                Err(Died)
            }
        }
    }

    /// Takes the room over.
    pub(super) fn import(&mut self, import: Import, join: &Pdu) -> Result<(), Died> {
        let standing = self.room.clone().unwrap_or_else(|| {
            let version = RoomVersionId::try_from(import.version.as_str()).expect("a version");
            let rules = rules_of(&import.version).expect("supported");
            let nid = entities::ids::RoomNid(0);
            Arc::new(plan::empty_room(nid, join.room_id.clone(), version, rules))
        });
        match now(import::import(&self.memory, &standing, import)) {
            Ok(made) => {
                self.room = Some(made.room);
                self.bury();
                Ok(())
            }
            Err(Failed::InDoubt(_)) => {
                self.restart();
                Err(Died)
            }
            Err(Failed::Refused(error)) => panic!("{} cannot take the room over: {error}", self.name),
        }
    }

    /// Whether the event has a state here.
    pub(super) fn has_placed(&self, id: &ruma::EventId) -> bool {
        self.memory.event(id).is_some_and(|event| event.state_group.is_some())
    }

    /// The state before an event.
    pub(super) fn state_before(&self, event: &StoredEvent) -> Option<Vec<OwnedEventId>> {
        let state = self.memory.state_at(event.state_group?);
        Some(state.values().map(|event| event.pdu.event_id.clone()).collect())
    }

    fn state_after(&self, event: &StoredEvent) -> Option<BTreeMap<crate::room::snapshot::StateKey, Arc<StoredEvent>>> {
        let mut state = self.memory.state_at(event.state_group?);
        if let Some(key) = event.pdu.key().filter(|_| event.status != Status::Rejected) {
            state.insert(key, self.memory.event(&event.pdu.event_id)?);
        }
        Some(state)
    }

    /// These events and everything that authorizes them.
    pub(super) fn with_chains(&self, ids: impl IntoIterator<Item = OwnedEventId>) -> Vec<Arc<StoredEvent>> {
        let (mut seen, mut chain) = (HashSet::new(), Vec::new());
        let mut open: Vec<OwnedEventId> = ids.into_iter().collect();
        while let Some(id) = open.pop() {
            if let Some(event) = self.memory.event(&id).filter(|_| seen.insert(id)) {
                open.extend(event.pdu.auth_events.iter().cloned());
                chain.push(event);
            }
        }
        chain.sort_by_key(|event| event.nid);
        chain
    }

    /// Events between two sets, breadth first from the later one, as `get_missing_events` answers them.
    pub(super) fn missing_events(
        &self,
        earliest: &BTreeSet<OwnedEventId>,
        latest: &[OwnedEventId],
        limit: usize,
    ) -> Vec<Arc<StoredEvent>> {
        let mut seen: HashSet<OwnedEventId> = earliest.iter().chain(latest).cloned().collect();
        let mut open: VecDeque<OwnedEventId> = latest.iter().cloned().collect();
        let mut found = Vec::new();
        while let Some(id) = open.pop_front() {
            let Some(event) = self.memory.event(&id) else { continue };
            for id in &event.pdu.prev_events {
                let parent = self.memory.event(id).filter(|parent| parent.status != Status::Outlier);
                let Some(parent) = parent.filter(|_| seen.insert(id.clone())) else {
                    continue;
                };
                open.push_back(id.clone());
                if parent.status != Status::Rejected && found.len() < limit {
                    found.push(parent);
                }
            }
        }
        found
    }

    pub(super) fn set_fate(&self, fate: Fate) {
        self.memory.set_fate(fate);
    }

    pub(super) fn incoming(event: &StoredEvent) -> Incoming {
        Incoming::of(&event.pdu)
    }

    pub(super) fn users(&self, nth: usize) -> OwnedUserId {
        UserId::parse(format!("@u{nth}:{}", self.name)).expect("a user")
    }
}
