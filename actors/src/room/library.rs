//! What a room's writer reads, and where it writes: the database with its caches, or memory in tests.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{EventNid, RoomNid, StateGroupId, StateKeyNid, StreamPos};
use entities::store::import::Stored;
use entities::store::rows::Rows;
use entities::{early_redaction, membership, room, state_group};
use ruma::{OwnedEventId, OwnedServerName, RoomId, UserId};

use super::cache::{Reset, StateMap};
use super::commit;
use super::event::StoredEvent;
use super::plan::Plan;
use super::snapshot::{RoomSnapshot, StateKey};
use super::state_group::ContentHash;
use crate::cpu::Class;
use crate::env::Env;
use crate::error::Outcome;

/// Events by id.
pub(super) type Found = HashMap<OwnedEventId, Arc<StoredEvent>>;
/// The numbers of state keys; `true` where the number is stored.
pub(super) type Numbers = HashMap<StateKey, (StateKeyNid, bool)>;

/// Reading and writing for whoever places events into rooms.
///
/// Every answer may be an error: `Unavailable` when the database does not answer, `Internal` when it contradicts itself.
pub(super) trait Library: Send + Sync {
    /// This server.
    fn server(&self) -> &OwnedServerName;
    /// Unix milliseconds.
    fn now_ms(&self) -> i64;
    /// Runs a job that takes its time.
    fn compute<T: Send + 'static>(
        &self,
        class: Class,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Outcome<T>> + Send;
    /// The first of `count` internal numbers.
    fn take_nids(&self, count: usize) -> impl Future<Output = Outcome<i64>> + Send;
    /// The first of `count` numbers of history; its positions are their negatives.
    fn take_history(&self, count: usize) -> impl Future<Output = Outcome<i64>> + Send;
    /// Events of any status; unknown ones are left out.
    fn events_by_id(&self, ids: &[OwnedEventId]) -> impl Future<Output = Outcome<Found>> + Send;
    /// Events of any status; unknown ones are left out.
    fn events(&self, nids: &[EventNid]) -> impl Future<Output = Outcome<HashMap<EventNid, Arc<StoredEvent>>>> + Send;
    /// Events and about `limit` of what lies in their auth chains.
    fn chains(&self, ids: &[OwnedEventId], limit: u32) -> impl Future<Output = Outcome<Vec<Arc<StoredEvent>>>> + Send;
    /// State events that may tell what this one said.
    fn successors(&self, event: &StoredEvent) -> impl Future<Output = Outcome<Vec<Arc<StoredEvent>>>> + Send;
    /// Redactions that wait for one of these events.
    fn early_redactions(
        &self,
        room: RoomNid,
        ids: &[&str],
    ) -> impl Future<Output = Outcome<Vec<early_redaction::Model>>> + Send;
    /// A state group's content.
    fn state_map(&self, group: StateGroupId) -> impl Future<Output = Outcome<Arc<StateMap>>> + Send;
    /// Single entries of a group's state, in the order asked for.
    fn state_events_at(
        &self,
        group: StateGroupId,
        keys: &[StateKey],
    ) -> impl Future<Output = Outcome<Vec<Option<Arc<StoredEvent>>>>> + Send;
    /// The room's groups whose content has this hash.
    fn groups_by_hash(
        &self,
        room: RoomNid,
        hash: ContentHash,
    ) -> impl Future<Output = Outcome<Vec<state_group::Model>>> + Send;
    /// The numbers of state keys, new ones where there were none.
    fn intern(&self, keys: &[StateKey]) -> impl Future<Output = Outcome<Numbers>> + Send;
    /// These numbers are stored.
    fn confirm(&self, keys: &[StateKey]);
    /// The room's row.
    fn room_row(&self, room_id: &RoomId) -> impl Future<Output = Outcome<Option<room::Model>>> + Send;
    /// Which of these events are stored.
    fn stored(&self, ids: &[&str]) -> impl Future<Output = Outcome<Vec<Stored>>> + Send;
    /// The memberships of a room, also of those who are not in it any more.
    fn memberships(&self, room: RoomNid) -> impl Future<Output = Outcome<Vec<membership::Model>>> + Send;
    /// Prepares for the rows of a room that has no head.
    fn begin_import(&self, row: &room::Model) -> impl Future<Output = Outcome<()>> + Send;
    /// Writes rows that no reader sees.
    fn import(&self, rows: Rows) -> impl Future<Output = Outcome<()>> + Send;
    /// Commits and publishes a plan. Answers the position of offset 0, and the room if there is something new.
    fn commit(&self, plan: Plan) -> impl Future<Output = Outcome<(StreamPos, Option<Arc<RoomSnapshot>>)>> + Send;
    /// An event changed more of the room's state than its own entry.
    fn note_reset(&self, room: &RoomSnapshot, reset: Reset);

    /// Whether the user is one of this server.
    fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server()
    }
}

impl Library for Arc<Env> {
    fn server(&self) -> &OwnedServerName {
        &self.server_name
    }

    fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    async fn compute<T: Send + 'static>(&self, class: Class, job: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
        self.cpu.run(class, job).await
    }

    async fn take_nids(&self, count: usize) -> Outcome<i64> {
        self.ids.take(count).await
    }

    async fn take_history(&self, count: usize) -> Outcome<i64> {
        self.history.take(count).await
    }

    async fn events_by_id(&self, ids: &[OwnedEventId]) -> Outcome<Found> {
        self.rooms.events_by_id(ids).await
    }

    async fn events(&self, nids: &[EventNid]) -> Outcome<HashMap<EventNid, Arc<StoredEvent>>> {
        self.rooms.events(nids).await
    }

    async fn chains(&self, ids: &[OwnedEventId], limit: u32) -> Outcome<Vec<Arc<StoredEvent>>> {
        let rows = self.store.auth_ancestors(ids, limit).await?;
        self.rooms.decode(rows).await
    }

    async fn successors(&self, event: &StoredEvent) -> Outcome<Vec<Arc<StoredEvent>>> {
        self.rooms.successors(event).await
    }

    async fn early_redactions(&self, room: RoomNid, ids: &[&str]) -> Outcome<Vec<early_redaction::Model>> {
        Ok(self.store.early_redactions(room.0, ids).await?)
    }

    async fn state_map(&self, group: StateGroupId) -> Outcome<Arc<StateMap>> {
        self.rooms.state_map(group).await
    }

    async fn state_events_at(&self, group: StateGroupId, keys: &[StateKey]) -> Outcome<Vec<Option<Arc<StoredEvent>>>> {
        self.rooms.state_events_at(group, keys).await
    }

    async fn groups_by_hash(&self, room: RoomNid, hash: ContentHash) -> Outcome<Vec<state_group::Model>> {
        Ok(self.store.state_group_by_hash(room.0, &hash.bytes()).await?)
    }

    async fn intern(&self, keys: &[StateKey]) -> Outcome<Numbers> {
        self.rooms.keys().intern(keys).await
    }

    fn confirm(&self, keys: &[StateKey]) {
        self.rooms.keys().confirm(keys);
    }

    async fn room_row(&self, room_id: &RoomId) -> Outcome<Option<room::Model>> {
        Ok(self.store.room_by_id(room_id.as_str()).await?)
    }

    async fn stored(&self, ids: &[&str]) -> Outcome<Vec<Stored>> {
        Ok(self.store.stored_events(ids).await?)
    }

    async fn memberships(&self, room: RoomNid) -> Outcome<Vec<membership::Model>> {
        Ok(self.store.memberships_of_room(room.0).await?)
    }

    async fn begin_import(&self, row: &room::Model) -> Outcome<()> {
        Ok(self.store.begin_import(row).await?)
    }

    async fn import(&self, rows: Rows) -> Outcome<()> {
        Ok(self.store.import(&rows).await?)
    }

    async fn commit(&self, plan: Plan) -> Outcome<(StreamPos, Option<Arc<RoomSnapshot>>)> {
        // Rows that nobody sees take a position of their own: the journal moves on with every submission.
        let positions = i64::from(plan.positions).max(1);
        commit::commit(self, plan, Rows::default(), Vec::new(), positions).await
    }

    fn note_reset(&self, room: &RoomSnapshot, reset: Reset) {
        let (event_id, keys) = (&reset.event_id, reset.keys);
        tracing::info!(room_id = %room.room_id, %event_id, keys, "state reset");
        self.rooms.note_reset(room.nid, reset);
    }
}
