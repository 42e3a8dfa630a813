//! What every actor is doing, readable without sending a message, so that a stuck actor can be seen.

mod registry;

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use self::registry::{LaneInfo, LaneStats, ListQuery, Registry, Sort};
use crate::clock::Millis;
use crate::supervisor::Kind;

/// Where an actor is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Phase {
    /// Its state is being read.
    Loading,
    /// It takes commands.
    Live,
    /// It was asked to end; commands wait.
    Passivating,
    /// It panicked and pauses.
    Backoff,
    /// It panicked too often; commands are refused.
    Quarantined,
}

impl Phase {
    const ALL: [Self; 5] = [
        Self::Loading,
        Self::Live,
        Self::Passivating,
        Self::Backoff,
        Self::Quarantined,
    ];
}

/// The figures of one actor. They live from its first command until it is passivated.
#[derive(Debug)]
pub struct ActorStats {
    key: Arc<str>,
    kind: Kind,
    arbiter: usize,
    capacity: usize,
    permits: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    phase: AtomicU8,
    handled: AtomicU64,
    refused: AtomicU64,
    expired: AtomicU64,
    batches: AtomicU64,
    last_batch_us: AtomicU64,
    busy_since: AtomicI64,
    warned: AtomicI64,
    last_active: AtomicI64,
    restarts: AtomicU32,
    panics: AtomicU32,
    weight: AtomicU64,
    last_panic: Mutex<Option<String>>,
}

impl ActorStats {
    /// A loading actor that lets `capacity` commands in.
    #[must_use]
    pub fn new(kind: Kind, key: Arc<str>, arbiter: usize, capacity: usize, now: Millis) -> Self {
        Self {
            key,
            kind,
            arbiter,
            capacity,
            permits: Arc::new(Semaphore::new(capacity)),
            turn: Arc::new(Semaphore::new(1)),
            phase: AtomicU8::new(Phase::Loading as u8),
            handled: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            last_batch_us: AtomicU64::new(0),
            busy_since: AtomicI64::new(0),
            warned: AtomicI64::new(0),
            last_active: AtomicI64::new(now),
            restarts: AtomicU32::new(0),
            panics: AtomicU32::new(0),
            weight: AtomicU64::new(0),
            last_panic: Mutex::new(None),
        }
    }

    /// A seat for one command; `None` when all are taken.
    pub(crate) fn admit(&self, now: Millis) -> Option<OwnedSemaphorePermit> {
        self.last_active.store(now, Relaxed);
        let seat = Arc::clone(&self.permits).try_acquire_owned().ok();
        if seat.is_none() {
            self.refused.fetch_add(1, Relaxed);
        }
        seat
    }

    /// The right to touch the actor's data: loads and batches of one key exclude each other even across a crash.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    /// The same at once, if nobody has it.
    pub(crate) fn try_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).try_acquire_owned().ok()
    }

    /// Shares the turn of a forgotten actor with the same key.
    pub(crate) fn succeeding(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            self.turn = Arc::clone(&before.turn);
        }
        self
    }

    /// Whether a load or a batch holds the turn.
    pub(crate) fn is_running(&self) -> bool {
        self.turn.available_permits() == 0
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Its phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::ALL
            .into_iter()
            .find(|p| *p as u8 == self.phase.load(Relaxed))
            .unwrap_or(Phase::Loading)
    }

    /// Commands that wait or run.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.capacity.saturating_sub(self.permits.available_permits())
    }

    /// How long a caller should wait when the queue is full: about as long as the queue takes, 0.1 to 5 s.
    #[must_use]
    pub fn retry_after_ms(&self) -> u64 {
        let per_command = self.last_batch_us.load(Relaxed) / 1_000;
        (per_command * self.capacity as u64 / 8).clamp(100, 5_000)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(crate) fn batch_begins(&self, now: Millis) {
        self.busy_since.store(now.max(1), Relaxed);
    }

    pub(crate) fn batch_ends(&self, commands: usize, took: Duration, now: Millis) {
        self.busy_since.store(0, Relaxed);
        self.last_active.store(now, Relaxed);
        self.handled.fetch_add(commands as u64, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.last_batch_us
            .store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn count_expired(&self, commands: u64) {
        self.expired.fetch_add(commands, Relaxed);
    }

    pub(crate) fn count_restart(&self) {
        self.restarts.fetch_add(1, Relaxed);
    }

    pub(crate) fn note_panic(&self, total: u32, text: String) {
        self.panics.store(total, Relaxed);
        *self.last_panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    pub(crate) fn set_panics(&self, total: u32) {
        self.panics.store(total, Relaxed);
    }

    /// The text of its newest panic.
    #[must_use]
    pub fn last_panic(&self) -> Option<String> {
        self.last_panic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the weight, answers the one before.
    pub(crate) fn set_weight(&self, weight: u64) -> u64 {
        self.weight.swap(weight, Relaxed)
    }

    pub(crate) fn weight(&self) -> u64 {
        self.weight.load(Relaxed)
    }

    /// Since when the running batch runs, if it runs for longer than `limit` and nobody was told yet.
    pub(crate) fn stuck_since(&self, now: Millis, limit: Duration) -> Option<Millis> {
        let since = self.busy_since.load(Relaxed);
        let limit = Millis::try_from(limit.as_millis()).unwrap_or(Millis::MAX);
        (since != 0 && now.saturating_sub(since) > limit && self.warned.swap(since, Relaxed) != since).then_some(since)
    }

    /// The figures now.
    #[must_use]
    pub fn info(&self) -> ActorInfo {
        let busy_since = self.busy_since.load(Relaxed);
        ActorInfo {
            kind: self.kind,
            key: Arc::clone(&self.key),
            arbiter: self.arbiter,
            phase: self.phase(),
            queue: self.queued(),
            handled: self.handled.load(Relaxed),
            refused: self.refused.load(Relaxed),
            expired: self.expired.load(Relaxed),
            batches: self.batches.load(Relaxed),
            last_batch_us: self.last_batch_us.load(Relaxed),
            busy_since_ms: (busy_since != 0).then_some(busy_since),
            last_active_ms: self.last_active.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            panics: self.panics.load(Relaxed),
            weight: self.weight(),
        }
    }
}

/// The figures of an actor at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActorInfo {
    /// Its kind.
    pub kind: Kind,
    /// Room id, user id or server name.
    pub key: Arc<str>,
    /// The number of its arbiter.
    pub arbiter: usize,
    /// Where it is in its life.
    pub phase: Phase,
    /// Commands that wait or run.
    pub queue: usize,
    /// Commands run.
    pub handled: u64,
    /// Commands turned away because the queue was full.
    pub refused: u64,
    /// Commands dropped because nobody waited for them any longer.
    pub expired: u64,
    /// Batches run, each at most one commit.
    pub batches: u64,
    /// How long the newest batch took.
    pub last_batch_us: u64,
    /// When the running batch began, Unix milliseconds.
    pub busy_since_ms: Option<Millis>,
    /// When the newest command came or ended, Unix milliseconds.
    pub last_active_ms: Millis,
    /// How often it was rebuilt from the store.
    pub restarts: u32,
    /// How often it panicked.
    pub panics: u32,
    /// Its share of the memory budget.
    pub weight: u64,
}
