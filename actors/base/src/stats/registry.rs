//! The figures of all actors of the process, and counters by kind and arbiter.

use std::cmp::Reverse;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use super::{ActorInfo, ActorStats, Phase};
use crate::clock::Millis;
use crate::error::DomainError;
use crate::supervisor::Kind;

/// Counters of one kind on one arbiter.
#[derive(Debug)]
pub struct LaneStats {
    /// The kind.
    pub kind: Kind,
    /// The arbiter's number.
    pub arbiter: usize,
    pub(crate) actors: AtomicU64,
    pub(crate) loading: AtomicU64,
    pub(crate) weight: AtomicU64,
    pub(crate) handled: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) started: AtomicU64,
    pub(crate) passivated: AtomicU64,
    pub(crate) recreated: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) quarantined: AtomicU64,
}

impl LaneStats {
    fn new(kind: Kind, arbiter: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            kind,
            arbiter,
            actors: zero(),
            loading: zero(),
            weight: zero(),
            handled: zero(),
            refused: zero(),
            expired: zero(),
            started: zero(),
            passivated: zero(),
            recreated: zero(),
            panics: zero(),
            quarantined: zero(),
        }
    }

    pub(crate) fn set_weight(&self, actor: &ActorStats, weight: u64) {
        let before = actor.set_weight(weight);
        // Only the actor's own arbiter changes its weight, so the sum never goes below zero.
        self.weight.fetch_add(weight, Relaxed);
        self.weight.fetch_sub(before, Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn info(&self) -> LaneInfo {
        LaneInfo {
            kind: self.kind,
            arbiter: self.arbiter,
            actors: self.actors.load(Relaxed),
            loading: self.loading.load(Relaxed),
            weight: self.weight.load(Relaxed),
            handled: self.handled.load(Relaxed),
            refused: self.refused.load(Relaxed),
            expired: self.expired.load(Relaxed),
            started: self.started.load(Relaxed),
            passivations: self.passivated.load(Relaxed),
            recreations: self.recreated.load(Relaxed),
            panics: self.panics.load(Relaxed),
            quarantines: self.quarantined.load(Relaxed),
        }
    }

    /// Hands the counters to the metrics recorder.
    pub(crate) fn publish(&self) {
        let info = self.info();
        let labels = [
            ("kind", self.kind.as_str().to_owned()),
            ("arbiter", self.arbiter.to_string()),
        ];
        for (name, value) in [
            ("synapse_actors", info.actors),
            ("synapse_actors_loading", info.loading),
            ("synapse_actors_weight", info.weight),
        ] {
            metrics::gauge!(name, &labels).set(value as f64);
        }
        for (name, value) in [
            ("synapse_actor_commands_total", info.handled),
            ("synapse_actor_refused_total", info.refused),
            ("synapse_actor_expired_total", info.expired),
            ("synapse_actor_starts_total", info.started),
            ("synapse_actor_passivations_total", info.passivations),
            ("synapse_actor_recreations_total", info.recreations),
            ("synapse_actor_panics_total", info.panics),
            ("synapse_actor_quarantines_total", info.quarantines),
        ] {
            metrics::counter!(name, &labels).absolute(value);
        }
    }
}

/// The counters of one kind on one arbiter at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneInfo {
    /// The kind.
    pub kind: Kind,
    /// The arbiter's number.
    pub arbiter: usize,
    /// Actors in any phase.
    pub actors: u64,
    /// Those that load or wait for it.
    pub loading: u64,
    /// Sum of the weights.
    pub weight: u64,
    /// Commands run.
    pub handled: u64,
    /// Commands turned away.
    pub refused: u64,
    /// Commands dropped because nobody waited any longer.
    pub expired: u64,
    /// Actors started.
    pub started: u64,
    /// Actors put out of memory.
    pub passivations: u64,
    /// Actors started that had been put out of memory not long before.
    pub recreations: u64,
    /// Panics.
    pub panics: u64,
    /// Actors put under quarantine.
    pub quarantines: u64,
}

/// In which order actors are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// Longest queue first.
    #[default]
    Queue,
    /// Longest busy first.
    Busy,
    /// Most commands first.
    Handled,
    /// Most refusals first.
    Refused,
    /// Slowest newest batch first.
    LastBatch,
    /// Heaviest first.
    Weight,
    /// Most panics first.
    Panics,
    /// Newest activity first.
    Active,
    /// By key.
    Key,
}

impl FromStr for Sort {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        serde_json::from_value(text.into()).map_err(|_| DomainError::invalid_param("unknown sort order"))
    }
}

/// Which actors to list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only keys that contain this.
    pub contains: Option<String>,
    /// Only this phase.
    pub phase: Option<Phase>,
    /// The order.
    pub sort: Sort,
    /// At most this many.
    pub limit: usize,
}

/// The figures of all actors of the process.
#[derive(Debug, Default)]
pub struct Registry {
    actors: [DashMap<Arc<str>, Arc<ActorStats>>; 3],
    lanes: RwLock<Vec<Arc<LaneStats>>>,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn add_lane(&self, kind: Kind, arbiter: usize) -> Arc<LaneStats> {
        let lane = Arc::new(LaneStats::new(kind, arbiter));
        self.lanes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&lane));
        lane
    }

    pub(crate) fn insert(&self, stats: Arc<ActorStats>) {
        self.actors[stats.kind as usize].insert(Arc::clone(&stats.key), stats);
    }

    pub(crate) fn remove(&self, kind: Kind, key: &str) {
        self.actors[kind as usize].remove(key);
    }

    /// One actor's figures.
    #[must_use]
    pub fn get(&self, kind: Kind, key: &str) -> Option<Arc<ActorStats>> {
        self.actors[kind as usize].get(key).map(|entry| Arc::clone(&entry))
    }

    /// How many actors of a kind there are, in any phase.
    #[must_use]
    pub fn len(&self, kind: Kind) -> usize {
        self.actors[kind as usize].len()
    }

    /// Whether there are none of a kind.
    #[must_use]
    pub fn is_empty(&self, kind: Kind) -> bool {
        self.actors[kind as usize].is_empty()
    }

    pub(crate) fn each(&self, mut visit: impl FnMut(&ActorStats)) {
        self.actors.iter().flatten().for_each(|entry| visit(entry.value()));
    }

    /// The actors that match, in order.
    #[must_use]
    pub fn list(&self, query: &ListQuery) -> Vec<ActorInfo> {
        let mut found = Vec::new();
        self.each(|stats| {
            let matches = query.kind.is_none_or(|kind| kind == stats.kind)
                && query.phase.is_none_or(|phase| phase == stats.phase())
                && query.contains.as_deref().is_none_or(|part| stats.key.contains(part));
            if matches {
                found.push(stats.info());
            }
        });
        let busy = |a: &ActorInfo| a.busy_since_ms.unwrap_or(Millis::MAX);
        match query.sort {
            Sort::Queue => found.sort_by_key(|a| Reverse(a.queue)),
            Sort::Busy => found.sort_by_key(busy),
            Sort::Handled => found.sort_by_key(|a| Reverse(a.handled)),
            Sort::Refused => found.sort_by_key(|a| Reverse(a.refused)),
            Sort::LastBatch => found.sort_by_key(|a| Reverse(a.last_batch_us)),
            Sort::Weight => found.sort_by_key(|a| Reverse(a.weight)),
            Sort::Panics => found.sort_by_key(|a| Reverse(a.panics)),
            Sort::Active => found.sort_by_key(|a| Reverse(a.last_active_ms)),
            Sort::Key => found.sort_by(|a, b| a.key.cmp(&b.key)),
        }
        found.truncate(query.limit);
        found
    }

    /// The counters of every kind on every arbiter.
    #[must_use]
    pub fn totals(&self) -> Vec<LaneInfo> {
        self.lanes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|lane| lane.info())
            .collect()
    }
}
