//! How much the room cache may hold, and for how long.

use std::hash::Hash;
use std::time::Duration;

use moka::sync::{Cache, CacheBuilder};

use crate::settings::Settings;

/// How much a room cache may hold, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Of snapshots.
    pub rooms: u64,
    /// Of single events; a quarter of it again for state maps.
    pub events: u64,
    /// What nobody has asked for in this time is let go.
    pub idle: Duration,
}

impl Capacity {
    /// As the operator wants it.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            rooms: settings.room_cache_bytes,
            events: settings.event_cache_bytes,
            idle: settings.cache_idle(),
        }
    }

    /// A cache of `most`, to be given a weigher where that is no number of entries.
    pub(super) fn cache<K, V>(&self, most: u64) -> CacheBuilder<K, V, Cache<K, V>>
    where
        K: Hash + Eq + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
    {
        Cache::builder().max_capacity(most).time_to_idle(self.idle)
    }
}

/// Bytes as a weigher answers them.
pub(super) fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
