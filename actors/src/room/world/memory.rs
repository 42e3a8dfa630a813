//! A server's database in memory: the rows that rooms write, read back as the real one would.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use entities::ids::{EventNid, RoomNid, StateGroupId, StateKeyNid, StreamPos};
use entities::store::history::Ends;
use entities::store::import::Stored;
use entities::store::rows::Rows;
use entities::{backward_extremity, early_redaction, event, history_hole, membership, room, room_head, state_group};
use ruma::{OwnedEventId, OwnedServerName, RoomId};

use crate::cpu::Class;
use crate::error::{DomainError, Outcome};
use crate::room::cache::{Reset, StateMap};
use crate::room::event::{Status, StoredEvent};
use crate::room::fault::{Rule, is_broken};
use crate::room::library::{Found, Library, Numbers};
use crate::room::name::RoomName;
use crate::room::plan::Plan;
use crate::room::snapshot::{RoomSnapshot, StateKey, TIMELINE_TAIL};
use crate::room::state_group::{self as groups, ContentHash};
use crate::room::{load, parse};
use crate::stream::fact::Fact;

/// What becomes of the next commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    #[default]
    Lives,
    /// The process dies before anything is written.
    DiesBefore,
    /// The process dies before anybody hears of it.
    DiesAfter,
}

#[derive(Default)]
struct Tables {
    last_nid: i64,
    last_history: i64,
    last_pos: i64,
    room: Option<room::Model>,
    head: Option<room_head::Model>,
    events: BTreeMap<i64, event::Model>,
    by_id: HashMap<String, i64>,
    /// Numbers of state keys; those not stored are forgotten by a crash.
    keys: HashMap<StateKey, (StateKeyNid, bool)>,
    groups: BTreeMap<i64, state_group::Model>,
    current: BTreeMap<(String, String), i64>,
    memberships: BTreeMap<String, membership::Model>,
    gaps: BTreeMap<String, backward_extremity::Model>,
    holes: BTreeMap<i64, history_hole::Model>,
    early: Vec<early_redaction::Model>,
    /// What was committed and has not been passed on.
    facts: Vec<Fact>,
    fate: Fate,
    /// Whether the process died after it had answered.
    died: bool,
    // From here on caches.
    decoded: HashMap<i64, Arc<StoredEvent>>,
    maps: HashMap<i64, Arc<StateMap>>,
}

pub(super) struct Memory {
    server: OwnedServerName,
    clock: Arc<AtomicI64>,
    tables: Mutex<Tables>,
}

impl Tables {
    fn name(&self) -> Outcome<RoomName> {
        let none = || DomainError::internal("events without a room");
        RoomName::from_row(self.room.as_ref().ok_or_else(none)?)
    }

    fn decode(&mut self, nid: i64) -> Outcome<Option<Arc<StoredEvent>>> {
        if let Some(event) = self.decoded.get(&nid) {
            return Ok(Some(event.clone()));
        }
        let Some(row) = self.events.get(&nid) else {
            return Ok(None);
        };
        let name = self.name()?;
        let event = parse::from_row(row, &name.room_id, &name.rules);
        let event = Arc::new(event.map_err(|e| DomainError::internal(e.to_string()))?);
        self.decoded.insert(nid, event.clone());
        Ok(Some(event))
    }

    fn decode_all(&mut self, nids: impl IntoIterator<Item = i64>) -> Outcome<Vec<Arc<StoredEvent>>> {
        let events = nids.into_iter().map(|nid| self.decode(nid));
        Ok(events.collect::<Outcome<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn map(&mut self, group: i64) -> Outcome<Arc<StateMap>> {
        if let Some(map) = self.maps.get(&group) {
            return Ok(map.clone());
        }
        if group == 0 {
            return Ok(Arc::default());
        }
        let mut chain = Vec::new();
        let mut next = Some(group);
        while let Some(id) = next {
            let row = self.groups.get(&id);
            let row = row.ok_or_else(|| DomainError::internal(format!("no state group {id}")))?;
            chain.push(&*row.delta);
            next = row.parent;
        }
        let map = groups::assemble(chain.into_iter().rev());
        let map = Arc::new(map.map_err(|e| DomainError::internal(e.to_string()))?);
        self.maps.insert(group, map.clone());
        Ok(map)
    }

    /// As the journal writes them.
    fn write(&mut self, rows: Rows) {
        for (_, kind, key) in rows.current_state_removed {
            self.current.remove(&(kind, key));
        }
        for (_, id) in rows.backward_extremities_removed {
            self.gaps.remove(&id);
        }
        for id in &rows.history_holes_removed {
            self.holes.remove(id);
        }
        let gone: HashSet<String> = rows.early_redactions_removed.into_iter().map(|(_, id)| id).collect();
        self.early.retain(|row| !gone.contains(&row.target_event_id));
        for row in rows.state_keys {
            let key: StateKey = (row.r#type.into(), row.state_key.into());
            let before = self.keys.insert(key, (StateKeyNid(row.nid), true));
            assert!(
                before.is_none_or(|(nid, _)| nid.0 == row.nid),
                "a state key has two numbers"
            );
        }
        for row in rows.state_groups {
            assert!(self.groups.insert(row.id, row).is_none(), "two groups of one number");
        }
        for row in rows.events.into_iter().chain(rows.history) {
            let id = self.by_id.insert(row.event_id.clone(), row.nid);
            assert!(id.is_none(), "{} is stored twice", row.event_id);
            assert!(self.events.insert(row.nid, row).is_none(), "two events of one number");
        }
        self.update(rows.event_updates.into_iter().chain(rows.history_updates));
        for (nid, unsigned) in rows.unsigned_updates {
            self.row(nid).unsigned = Some(unsigned);
        }
        for redacted in rows.redactions {
            let row = self.row(redacted.nid);
            row.redacted_by = Some(redacted.redacted_by);
            row.json = redacted.json;
            row.unsigned = Some(redacted.unsigned);
        }
        self.head = rows.room_heads.into_iter().last().or(self.head.take());
        for row in rows.current_state {
            self.current.insert((row.r#type, row.state_key), row.event_nid);
        }
        let members = rows.memberships.into_iter();
        self.memberships.extend(members.map(|row| (row.user_id.clone(), row)));
        let gaps = rows.backward_extremities.into_iter();
        self.gaps.extend(gaps.map(|row| (row.event_id.clone(), row)));
        self.holes
            .extend(rows.history_holes.into_iter().map(|row| (row.id, row)));
        for (id, next) in rows.history_holes_left {
            self.holes.get_mut(&id).expect("a hole that shrinks is there").next = next;
        }
        if !is_broken(Rule::EarlyRedactions) {
            self.early.extend(rows.early_redactions);
        }
    }

    fn row(&mut self, nid: i64) -> &mut event::Model {
        self.decoded.remove(&nid);
        self.events.get_mut(&nid).expect("what is updated is stored")
    }

    fn update(&mut self, updates: impl Iterator<Item = entities::store::rows::EventUpdate>) {
        for update in updates {
            let row = self.row(update.nid);
            row.pos = update.pos.or(row.pos);
            row.state_group = update.state_group.or(row.state_group);
            row.status = update.status;
        }
    }
}

impl Memory {
    pub(super) fn new(server: OwnedServerName, clock: Arc<AtomicI64>) -> Self {
        Self {
            server,
            clock,
            tables: Mutex::default(),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_fate(&self, fate: Fate) {
        self.tables().fate = fate;
    }

    /// Whether the process has died after its last answer.
    pub(super) fn has_died(&self) -> bool {
        self.tables().died
    }

    /// What was committed since it was asked last.
    pub(super) fn take_facts(&self) -> Vec<Fact> {
        std::mem::take(&mut self.tables().facts)
    }

    /// All stored events.
    pub(super) fn everything(&self) -> Vec<Arc<StoredEvent>> {
        let mut tables = self.tables();
        let nids: Vec<i64> = tables.events.keys().copied().collect();
        tables.decode_all(nids).expect("readable rows")
    }

    pub(super) fn event(&self, id: &ruma::EventId) -> Option<Arc<StoredEvent>> {
        let mut tables = self.tables();
        let nid = *tables.by_id.get(id.as_str())?;
        tables.decode(nid).expect("readable rows")
    }

    /// The state of a group.
    pub(super) fn state_at(&self, group: StateGroupId) -> BTreeMap<StateKey, Arc<StoredEvent>> {
        let mut tables = self.tables();
        let map = tables.map(group.0).expect("a stored group");
        let nids: Vec<i64> = map.0.entries().iter().map(|(_, event)| event.0).collect();
        let events = tables.decode_all(nids).expect("readable rows");
        let keyed = events.into_iter().map(|event| (event.pdu.key().expect("state"), event));
        keyed.collect()
    }

    /// The current state and the memberships by their tables say what the room says.
    pub(super) fn check_tables(&self, room: &RoomSnapshot) {
        let tables = self.tables();
        let state: BTreeMap<(String, String), i64> = room
            .state
            .iter()
            .map(|(key, entry)| ((key.0.to_string(), key.1.to_string()), entry.event.nid.0))
            .collect();
        assert_eq!(tables.current, state, "the table of the current state differs");
        for (user, row) in &tables.memberships {
            let user = <&ruma::UserId>::try_from(user.as_str()).expect("a user");
            assert_eq!(row.membership, room.membership(user), "the membership of {user}");
        }
    }

    /// The process begins anew: what it had in memory is gone.
    pub(super) fn rebuild(&self) -> Option<Arc<RoomSnapshot>> {
        let mut tables = self.tables();
        tables.fate = Fate::Lives;
        tables.died = false;
        tables.decoded.clear();
        tables.maps.clear();
        tables.keys.retain(|_, (_, stored)| *stored);
        let head = tables.head.clone()?;
        let name = tables.name().expect("a room");
        let map = tables.map(head.state_group).expect("a stored group");
        let nids: Vec<i64> = map.0.entries().iter().map(|(_, event)| event.0).collect();
        let state = tables.decode_all(nids).expect("readable rows");
        let shown =
            |row: &&event::Model| row.pos.is_some_and(|pos| pos <= head.pos) && row.status == Status::Accepted.code();
        let mut timeline: Vec<(i64, i64)> = tables
            .events
            .values()
            .filter(shown)
            .map(|row| (row.pos.unwrap_or_default(), row.nid))
            .collect();
        timeline.sort_unstable();
        let first = timeline.len().saturating_sub(TIMELINE_TAIL + 1);
        let nids: Vec<i64> = timeline[first..].iter().map(|(_, nid)| *nid).collect();
        let timeline = tables.decode_all(nids).expect("readable rows");
        let nid = name.nid.0;
        let parts = load::Parts {
            name,
            head,
            map,
            timeline,
        };
        let state = state.into_iter().map(|event| (event.nid, event)).collect();
        let mut room = parts.build(&state, &self.server).expect("a whole room");
        let ends = Ends {
            gaps: tables.gaps.values().cloned().collect(),
            holes: tables.holes.values().cloned().collect(),
            early: if tables.early.is_empty() { Vec::new() } else { vec![nid] },
        };
        load::set_ends(&mut room, &ends).expect("readable rows");
        Some(Arc::new(room))
    }
}

impl Library for Memory {
    fn server(&self) -> &OwnedServerName {
        &self.server
    }

    fn now_ms(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    async fn compute<T: Send + 'static>(&self, _class: Class, job: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
        Ok(job())
    }

    async fn take_nids(&self, count: usize) -> Outcome<i64> {
        let mut tables = self.tables();
        let first = tables.last_nid + 1;
        tables.last_nid += i64::try_from(count).expect("few");
        Ok(first)
    }

    async fn take_history(&self, count: usize) -> Outcome<i64> {
        let mut tables = self.tables();
        let first = tables.last_history + 1;
        tables.last_history += i64::try_from(count).expect("few");
        Ok(first)
    }

    async fn events_by_id(&self, ids: &[OwnedEventId]) -> Outcome<Found> {
        let mut tables = self.tables();
        let nids: Vec<i64> = ids
            .iter()
            .filter_map(|id| tables.by_id.get(id.as_str()).copied())
            .collect();
        let events = tables.decode_all(nids)?;
        Ok(events
            .into_iter()
            .map(|event| (event.pdu.event_id.clone(), event))
            .collect())
    }

    async fn events(&self, nids: &[EventNid]) -> Outcome<HashMap<EventNid, Arc<StoredEvent>>> {
        let events = self.tables().decode_all(nids.iter().map(|nid| nid.0))?;
        Ok(events.into_iter().map(|event| (event.nid, event)).collect())
    }

    async fn chains(&self, ids: &[OwnedEventId], limit: u32) -> Outcome<Vec<Arc<StoredEvent>>> {
        let mut tables = self.tables();
        let mut seen = HashSet::new();
        let mut open: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let mut chain = Vec::new();
        while let Some(id) = open.pop().filter(|_| chain.len() < limit as usize) {
            let Some(nid) = tables.by_id.get(&id).copied().filter(|nid| seen.insert(*nid)) else {
                continue;
            };
            let event = tables.decode(nid)?.expect("stored");
            open.extend(event.pdu.auth_events.iter().map(ToString::to_string));
            chain.push(event);
        }
        Ok(chain)
    }

    async fn successors(&self, event: &StoredEvent) -> Outcome<Vec<Arc<StoredEvent>>> {
        let (Some(key), Some(pos)) = (event.pdu.state_key.as_deref(), event.pos) else {
            return Ok(Vec::new());
        };
        let kind = event.pdu.kind.to_string();
        let mut tables = self.tables();
        let newer = |row: &&event::Model| {
            row.r#type == kind && row.state_key.as_deref() == Some(key) && row.pos.is_some_and(|at| at > pos.0)
        };
        let nids: Vec<i64> = tables.events.values().filter(newer).map(|row| row.nid).collect();
        tables.decode_all(nids)
    }

    async fn early_redactions(&self, _room: RoomNid, ids: &[&str]) -> Outcome<Vec<early_redaction::Model>> {
        let tables = self.tables();
        let rows = tables
            .early
            .iter()
            .filter(|row| ids.contains(&row.target_event_id.as_str()));
        Ok(rows.cloned().collect())
    }

    async fn state_map(&self, group: StateGroupId) -> Outcome<Arc<StateMap>> {
        self.tables().map(group.0)
    }

    async fn state_events_at(&self, group: StateGroupId, keys: &[StateKey]) -> Outcome<Vec<Option<Arc<StoredEvent>>>> {
        let mut tables = self.tables();
        let map = tables.map(group.0)?;
        let one = |key: &StateKey| {
            let nid = map.0.get(tables.keys.get(key)?.0)?;
            tables.decode(nid.0).transpose()
        };
        keys.iter().map(one).map(Option::transpose).collect()
    }

    async fn groups_by_hash(&self, _room: RoomNid, hash: ContentHash) -> Outcome<Vec<state_group::Model>> {
        let tables = self.tables();
        let rows = tables.groups.values().filter(|row| row.hash == hash.bytes());
        Ok(rows.cloned().collect())
    }

    async fn intern(&self, keys: &[StateKey]) -> Outcome<Numbers> {
        let mut tables = self.tables();
        let mut numbers = Numbers::new();
        for key in keys {
            let next = StateKeyNid(tables.last_nid + 1);
            let number = *tables.keys.entry(key.clone()).or_insert((next, false));
            tables.last_nid += i64::from(number.0 == next);
            numbers.insert(key.clone(), number);
        }
        Ok(numbers)
    }

    fn confirm(&self, _keys: &[StateKey]) {}

    async fn room_row(&self, _room_id: &RoomId) -> Outcome<Option<room::Model>> {
        Ok(self.tables().room.clone())
    }

    async fn stored(&self, ids: &[&str]) -> Outcome<Vec<Stored>> {
        let tables = self.tables();
        let rows = ids.iter().filter_map(|id| tables.events.get(tables.by_id.get(*id)?));
        let stored = rows.map(|row| Stored {
            event_id: row.event_id.clone(),
            nid: row.nid,
            room_nid: row.room_nid,
            status: row.status,
        });
        Ok(stored.collect())
    }

    async fn memberships(&self, _room: RoomNid) -> Outcome<Vec<membership::Model>> {
        Ok(self.tables().memberships.values().cloned().collect())
    }

    async fn begin_import(&self, row: &room::Model) -> Outcome<()> {
        let mut tables = self.tables();
        tables.room = Some(row.clone());
        tables.current.clear();
        Ok(())
    }

    async fn import(&self, rows: Rows) -> Outcome<()> {
        self.tables().write(rows);
        Ok(())
    }

    async fn commit(&self, mut plan: Plan) -> Outcome<(StreamPos, Option<Arc<RoomSnapshot>>)> {
        let mut tables = self.tables();
        let dead = || DomainError::unavailable("the process died");
        let fate = std::mem::take(&mut tables.fate);
        if fate == Fate::DiesBefore {
            if is_broken(Rule::CommitFirst) {
                tables.died = true;
                return Ok((StreamPos(tables.last_pos + 1), None));
            }
            return Err(dead());
        }
        let base = StreamPos(tables.last_pos + 1);
        tables.last_pos += i64::from(plan.positions).max(1);
        let mut rows = std::mem::take(&mut plan.rows);
        rows.shift(base.0);
        if let Some(room) = rows.rooms.pop() {
            tables.room = Some(room);
        }
        tables.write(rows);
        let mut newer = None;
        if plan.is_news() {
            let published = plan.publish(base);
            for event in published.pruned.iter().chain(&published.events) {
                tables.decoded.insert(event.nid.0, event.clone());
            }
            tables.facts.extend(published.facts);
            newer = Some(published.snapshot);
        }
        if fate == Fate::DiesAfter {
            Err(dead())
        } else {
            Ok((base, newer))
        }
    }

    fn note_reset(&self, _room: &RoomSnapshot, _reset: Reset) {}
}
