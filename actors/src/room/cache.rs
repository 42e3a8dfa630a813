//! What readers share of rooms: snapshots, events, state maps, interned state keys.
//!
//! A snapshot is published by the room's writer before its positions become visible; whoever sampled the visible position
//! first therefore finds a snapshot at least as new. Events change only by redaction or when an outlier finds its place,
//! and are published then as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use entities::event;
use entities::ids::{EventNid, RoomNid, StateGroupId};
use entities::store::Store;
use moka::sync::Cache;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId};

pub use super::capacity::Capacity;
use super::capacity::weight;
use super::event::StoredEvent;
use super::keys::StateKeys;
use super::load;
pub use super::name::RoomName;
use super::name::decode;
use super::plan::Published;
use super::snapshot::{RoomSnapshot, StateKey};
use super::state_group::{self, Chain, FullMap};
use super::typing::Typing;
use crate::cache::{ViewCache, sweep};
use crate::cpu::{Class, Cpu};
use crate::error::{DomainError, Outcome};
use crate::stream::ids::Ids;

/// Rows above this number are decoded on the blocking pool.
const MANY_ROWS: usize = 200;
/// Rooms loaded with one query.
const ROOMS_AT_ONCE: usize = 100;
/// Rooms whose identity is kept in memory.
const ROOM_NAMES: u64 = 100_000;

/// Newer state events of one key that are looked at when an older one is pruned.
const SUCCESSORS: u32 = 100;

/// A decoded state group.
pub type StateMap = (FullMap, Chain);

/// An event that changed more of a room's current state than its own entry, by the resolution of branches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The event.
    pub event_id: OwnedEventId,
    /// How many other entries of the current state became others with it.
    pub keys: usize,
    /// When, Unix milliseconds.
    pub at_ms: i64,
}

/// The shared view of all rooms.
pub struct RoomCache {
    store: Store,
    server: OwnedServerName,
    cpu: Cpu,
    rooms: ViewCache<OwnedRoomId, RoomSnapshot>,
    names: Cache<RoomNid, Arc<RoomName>>,
    events: Cache<EventNid, Arc<StoredEvent>>,
    event_nids: Cache<OwnedEventId, EventNid>,
    groups: Cache<StateGroupId, Arc<StateMap>>,
    /// Raised whenever stored events change, so that a slow reader does not keep an older form.
    changes: AtomicU64,
    keys: StateKeys,
    typing: Typing,
    resets: Cache<RoomNid, Arc<Reset>>,
    /// When branches were last joined, Unix milliseconds.
    healed: Cache<RoomNid, i64>,
}

impl RoomCache {
    /// Empty caches over `store`.
    #[must_use]
    pub fn new(store: Store, ids: Ids, cpu: Cpu, server: OwnedServerName, capacity: Capacity) -> Self {
        Self {
            keys: StateKeys::new(store.clone(), ids),
            store,
            server,
            cpu,
            rooms: ViewCache::with_idle(capacity.rooms, capacity.idle, RoomSnapshot::weight),
            names: capacity.cache(ROOM_NAMES).build(),
            events: capacity
                .cache(capacity.events)
                .weigher(|_, event: &Arc<StoredEvent>| weight(400 + event.pdu.json.len() * 2))
                .build(),
            event_nids: capacity.cache(capacity.events / 1_024).build(),
            groups: capacity
                .cache(capacity.events / 4)
                .weigher(|_, map: &Arc<StateMap>| weight(100 + map.0.len() * 16))
                .build(),
            changes: AtomicU64::new(0),
            typing: Typing::default(),
            resets: Cache::new(ROOM_NAMES),
            healed: Cache::new(ROOM_NAMES),
        }
    }

    /// Lets go of what nobody has asked for lately. Not for async threads.
    pub(crate) fn sweep(&self) {
        let note = |what: &'static str, bytes: u64| metrics::gauge!("cache_bytes", "cache" => what).set(bytes as f64);
        note("rooms", self.rooms.sweep());
        note("events", sweep(&self.events));
        note("state_groups", sweep(&self.groups));
        sweep(&self.event_nids);
        sweep(&self.names);
    }

    /// The database behind the caches.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// This server's name.
    pub(super) fn server(&self) -> &OwnedServerName {
        &self.server
    }

    /// The interned state keys.
    pub(super) fn keys(&self) -> &StateKeys {
        &self.keys
    }

    /// Who is typing.
    #[must_use]
    pub fn typing(&self) -> &Typing {
        &self.typing
    }

    /// The room as of its newest committed event; `None` for rooms this server is not and never was in.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn view(&self, room_id: &RoomId) -> Outcome<Option<Arc<RoomSnapshot>>> {
        self.rooms
            .get_or_load(&room_id.to_owned(), || load::load_room(self, room_id))
            .await
    }

    /// The room by its number.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn view_nid(&self, nid: RoomNid) -> Outcome<Option<Arc<RoomSnapshot>>> {
        match self.name(nid).await? {
            Some(name) => self.view(&name.room_id).await,
            None => Ok(None),
        }
    }

    /// Several rooms, with a bounded number of queries; those this server is not and never was in are left out.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn views(&self, room_ids: &[OwnedRoomId]) -> Outcome<HashMap<OwnedRoomId, Arc<RoomSnapshot>>> {
        let mut found = HashMap::with_capacity(room_ids.len());
        for chunk in room_ids.chunks(ROOMS_AT_ONCE) {
            let load = |missing| load::load_rooms(self, missing);
            found.extend(self.rooms.get_or_load_many(chunk, load).await?);
            for room_id in chunk {
                if !found.contains_key(room_id)
                    && let Some(room) = self.view(room_id).await?
                {
                    found.insert(room_id.clone(), room);
                }
            }
        }
        Ok(found)
    }

    /// The snapshot if it is in memory.
    #[must_use]
    pub fn peek(&self, room_id: &RoomId) -> Option<Arc<RoomSnapshot>> {
        self.rooms.get(&room_id.to_owned())
    }

    pub(super) fn note_reset(&self, room: RoomNid, reset: Reset) {
        self.resets.insert(room, Arc::new(reset));
    }

    /// The last event since the start that changed more of the room's state than its own entry.
    #[must_use]
    pub fn last_reset(&self, room: RoomNid) -> Option<Arc<Reset>> {
        self.resets.get(&room)
    }

    /// When this process last joined branches of the room, Unix milliseconds.
    pub(super) fn last_healed(&self, room: RoomNid) -> Option<i64> {
        self.healed.get(&room)
    }

    pub(super) fn note_healed(&self, room: RoomNid, now: i64) {
        self.healed.insert(room, now);
    }

    /// Makes a committed plan visible to readers. Only the room's writer calls this, in the order of its commits.
    pub(super) fn publish(&self, published: &Published) {
        if published.updates || !published.pruned.is_empty() {
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
        for event in published.pruned.iter().chain(&published.events) {
            self.keep(event);
        }
        self.keys.confirm(&published.interned);
        let room = &published.snapshot;
        self.names.insert(room.nid, Arc::new(RoomName::of(room)));
        self.rooms.publish(room.room_id.clone(), room.clone());
    }

    pub(super) fn remember(&self, name: &RoomName) {
        if !self.names.contains_key(&name.nid) {
            self.names.insert(name.nid, Arc::new(name.clone()));
        }
    }

    /// The room's identity as it is now known; it may change as long as there is no room.
    pub(super) fn remember_anew(&self, name: &RoomName) {
        self.names.insert(name.nid, Arc::new(name.clone()));
    }

    /// A stored event has another standing.
    pub(super) fn keep_changed(&self, event: &Arc<StoredEvent>) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.keep(event);
    }

    fn keep(&self, event: &Arc<StoredEvent>) {
        self.event_nids.insert(event.pdu.event_id.clone(), event.nid);
        self.events.insert(event.nid, event.clone());
    }

    /// Forgets a room, for purges and for writers in doubt.
    pub(super) fn invalidate(&self, room_id: &RoomId) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.rooms.invalidate(&room_id.to_owned());
    }

    /// Forgets a room that is deleted, or whose past is: also its events, wherever they were kept.
    pub(super) fn forget(&self, room_id: &RoomId, nid: RoomNid, whole: bool) {
        self.invalidate(room_id);
        // Rare enough that everybody's may go.
        self.events.invalidate_all();
        self.event_nids.invalidate_all();
        if whole {
            self.names.invalidate(&nid);
            self.groups.invalidate_all();
            self.resets.invalidate(&nid);
        }
    }

    /// A room's identity by number.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn name(&self, nid: RoomNid) -> Outcome<Option<Arc<RoomName>>> {
        if let Some(name) = self.names.get(&nid) {
            return Ok(Some(name));
        }
        let Some(row) = self.store.rooms_by_nid(&[nid.0]).await?.pop() else {
            return Ok(None);
        };
        let name = Arc::new(RoomName::from_row(&row)?);
        self.names.insert(nid, name.clone());
        Ok(Some(name))
    }

    /// Rooms' identities by number; unknown ones are left out.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn names(&self, nids: &[RoomNid]) -> Outcome<HashMap<RoomNid, Arc<RoomName>>> {
        let mut found: HashMap<_, _> = nids
            .iter()
            .filter_map(|nid| Some((*nid, self.names.get(nid)?)))
            .collect();
        let missing: Vec<i64> = nids
            .iter()
            .filter(|nid| !found.contains_key(nid))
            .map(|nid| nid.0)
            .collect();
        if !missing.is_empty() {
            for row in self.store.rooms_by_nid(&missing).await? {
                let name = Arc::new(RoomName::from_row(&row)?);
                self.names.insert(name.nid, name.clone());
                found.insert(name.nid, name);
            }
        }
        Ok(found)
    }

    /// Rows as events, in the order of the rows. Rows of unknown rooms are an inconsistency.
    ///
    /// # Errors
    /// `Internal` when a row cannot be read.
    pub async fn decode(&self, rows: Vec<event::Model>) -> Outcome<Vec<Arc<StoredEvent>>> {
        let mut nids: Vec<_> = rows.iter().map(|row| RoomNid(row.room_nid)).collect();
        nids.sort_unstable();
        nids.dedup();
        let names = self.names(&nids).await?;
        if rows.len() <= MANY_ROWS {
            return decode(&rows, &names);
        }
        self.cpu.run(Class::Plan, move || decode(&rows, &names)).await?
    }

    /// Rows as events that later readers find in memory. `before` was [`Self::generation`] before the rows were read.
    pub(super) async fn decode_and_keep(&self, rows: Vec<event::Model>, before: u64) -> Outcome<Vec<Arc<StoredEvent>>> {
        let events = self.decode(rows).await?;
        for event in &events {
            if self.generation() != before {
                break;
            }
            self.keep(event);
            // A newer form may have come in between the look and the entry.
            if self.generation() != before {
                self.events.invalidate(&event.nid);
            }
        }
        Ok(events)
    }

    /// For [`Self::decode_and_keep`].
    pub(super) fn generation(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Events by number, of any status; unknown ones are left out.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn events(&self, nids: &[EventNid]) -> Outcome<HashMap<EventNid, Arc<StoredEvent>>> {
        let mut found: HashMap<_, _> = nids
            .iter()
            .filter_map(|nid| Some((*nid, self.events.get(nid)?)))
            .collect();
        let missing: Vec<i64> = nids
            .iter()
            .filter(|nid| !found.contains_key(nid))
            .map(|nid| nid.0)
            .collect();
        if !missing.is_empty() {
            let before = self.generation();
            let rows = self.store.events_by_nid(&missing).await?;
            found.extend(
                self.decode_and_keep(rows, before)
                    .await?
                    .into_iter()
                    .map(|event| (event.nid, event)),
            );
        }
        Ok(found)
    }

    /// An event of any status.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn event_by_id(&self, event_id: &EventId) -> Outcome<Option<Arc<StoredEvent>>> {
        Ok(self.events_by_id(&[event_id.to_owned()]).await?.into_values().next())
    }

    /// Events of any status; unknown ones are left out.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn events_by_id(&self, ids: &[OwnedEventId]) -> Outcome<HashMap<OwnedEventId, Arc<StoredEvent>>> {
        let known = |id: &OwnedEventId| self.events.get(&self.event_nids.get(id)?);
        let mut found: HashMap<_, _> = ids.iter().filter_map(|id| Some((id.clone(), known(id)?))).collect();
        let missing: Vec<&str> = ids
            .iter()
            .filter(|id| !found.contains_key(*id))
            .map(|id| id.as_str())
            .collect();
        if !missing.is_empty() {
            let before = self.generation();
            let rows = self.store.events_by_id(&missing).await?;
            let events = self.decode_and_keep(rows, before).await?;
            found.extend(events.into_iter().map(|event| (event.pdu.event_id.clone(), event)));
        }
        Ok(found)
    }

    /// The state events that may tell, in their unsigned data, what `event` said.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub(super) async fn successors(&self, event: &StoredEvent) -> Outcome<Vec<Arc<StoredEvent>>> {
        let (Some(state_key), Some(pos)) = (event.pdu.state_key.as_deref(), event.pos) else {
            return Ok(Vec::new());
        };
        let kind = event.pdu.kind.to_string();
        let rows = self
            .store
            .state_events_after(event.room_nid.0, &kind, state_key, pos.0, SUCCESSORS)
            .await?;
        self.decode(rows).await
    }

    /// A page of a room's timeline: accepted events. Backwards `to < position <= from`, newest first; forwards
    /// `from < position <= to`, oldest first. Bound the newer end by the visible position.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn timeline_range(
        &self,
        room: RoomNid,
        from: Option<i64>,
        to: Option<i64>,
        limit: u32,
        backwards: bool,
    ) -> Outcome<Vec<Arc<StoredEvent>>> {
        let rows = self.store.timeline_page(room.0, from, to, backwards, limit).await?;
        self.decode(rows).await
    }

    /// A state group as a map of numbers. Group 0 is the empty state.
    ///
    /// # Errors
    /// As [`Self::view`]; `Internal` when there is no such group.
    pub async fn state_map(&self, group: StateGroupId) -> Outcome<Arc<StateMap>> {
        if let Some(map) = self.groups.get(&group) {
            return Ok(map);
        }
        if group.0 == 0 {
            return Ok(Arc::default());
        }
        let chain = self.store.state_group_chain(group.0).await?;
        self.assembled(group, &chain)
    }

    /// Several state groups; unknown ones are an error.
    ///
    /// # Errors
    /// As [`Self::state_map`].
    pub async fn state_maps(&self, groups: &[StateGroupId]) -> Outcome<HashMap<StateGroupId, Arc<StateMap>>> {
        let mut found: HashMap<_, _> = groups
            .iter()
            .filter_map(|group| Some((*group, self.groups.get(group)?)))
            .collect();
        let missing = |group: &&StateGroupId| group.0 != 0 && !found.contains_key(*group);
        let missing: Vec<i64> = groups.iter().filter(missing).map(|group| group.0).collect();
        if !missing.is_empty() {
            let chains = self.store.state_group_chains(&missing).await?;
            for group in missing {
                let chain = chains.get(&group).map_or(&[][..], Vec::as_slice);
                let group = StateGroupId(group);
                found.insert(group, self.assembled(group, chain)?);
            }
        }
        Ok(found)
    }

    fn assembled(&self, group: StateGroupId, chain: &[entities::state_group::Model]) -> Outcome<Arc<StateMap>> {
        let broken = |e: &dyn std::fmt::Display| DomainError::internal(format!("state group {group}: {e}"));
        // The full copy comes last.
        let map = state_group::assemble(chain.iter().rev().map(|row| row.delta.as_slice())).map_err(|e| broken(&e))?;
        let map = Arc::new(map);
        self.groups.insert(group, map.clone());
        Ok(map)
    }

    /// The whole state of a group.
    ///
    /// # Errors
    /// As [`Self::state_map`].
    pub async fn state_at_group(&self, group: StateGroupId) -> Outcome<imbl::OrdMap<StateKey, Arc<StoredEvent>>> {
        let map = self.state_map(group).await?;
        let nids: Vec<_> = map.0.entries().iter().map(|(_, event)| *event).collect();
        let events = self.events(&nids).await?;
        Ok(events
            .into_values()
            .filter_map(|event| Some((event.pdu.key()?, event)))
            .collect())
    }

    /// Single entries of a group's state, in the order asked for.
    ///
    /// # Errors
    /// As [`Self::state_map`].
    pub async fn state_events_at(
        &self,
        group: StateGroupId,
        keys: &[StateKey],
    ) -> Outcome<Vec<Option<Arc<StoredEvent>>>> {
        let map = self.state_map(group).await?;
        let numbers = self.keys.known(keys).await?;
        let wanted: Vec<Option<EventNid>> = keys
            .iter()
            .map(|key| numbers.get(key).and_then(|nid| map.0.get(*nid)))
            .collect();
        let nids: Vec<EventNid> = wanted.iter().flatten().copied().collect();
        let events = self.events(&nids).await?;
        Ok(wanted.into_iter().map(|nid| events.get(&nid?).cloned()).collect())
    }
}
