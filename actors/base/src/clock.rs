//! Time as an argument: nothing else in this crate asks the operating system what time it is.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// Unix time in milliseconds.
pub type Millis = i64;

/// Where time comes from.
pub trait TimeSource: Send + Sync + 'static {
    /// Wall clock, Unix milliseconds.
    fn now_ms(&self) -> Millis;
    /// Monotonic clock, for durations.
    fn instant(&self) -> Instant;
}

struct System;

impl TimeSource for System {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system")]
    fn now_ms(&self) -> Millis {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| Millis::try_from(d.as_millis()).unwrap_or(Millis::MAX))
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// A shared handle on the time source.
#[derive(Clone)]
pub struct Clock(Arc<dyn TimeSource>);

impl Clock {
    /// The operating system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(System))
    }

    /// Any other source, for tests.
    pub fn from_source(source: impl TimeSource) -> Self {
        Self(Arc::new(source))
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> Millis {
        self.0.now_ms()
    }

    /// Monotonic time.
    #[must_use]
    pub fn instant(&self) -> Instant {
        self.0.instant()
    }

    /// Unix milliseconds as Matrix writes them.
    #[must_use]
    pub fn now_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(u64::try_from(self.now_ms()).unwrap_or(0)))
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
