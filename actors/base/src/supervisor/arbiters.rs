//! The threads that actors live on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle};
use tokio::runtime::Runtime;

/// The process's arbiters, all on one shared runtime.
#[derive(Clone)]
pub struct Arbiters {
    lanes: Arc<[Lane]>,
    threads: Arc<Mutex<Vec<Arbiter>>>,
}

struct Lane {
    handle: ArbiterHandle,
    /// How late its newest probe was, microseconds.
    lag_us: AtomicU64,
}

impl Arbiters {
    /// Starts `count` (at least one) arbiters on `runtime`, a multi-thread one. Must be called where an actix `System` is
    /// current.
    #[must_use]
    pub fn start(runtime: &Arc<Runtime>, count: usize) -> Self {
        let threads: Vec<Arbiter> = (0..count.max(1))
            .map(|_| {
                let runtime = Arc::clone(runtime);
                Arbiter::with_tokio_rt(move || runtime)
            })
            .collect();
        let lanes = threads
            .iter()
            .map(|arbiter| Lane {
                handle: arbiter.handle(),
                lag_us: AtomicU64::new(0),
            })
            .collect();
        Self {
            lanes,
            threads: Arc::new(Mutex::new(threads)),
        }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Never: there is at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// How late the newest no-op task of each ran.
    #[must_use]
    pub fn lags(&self) -> Vec<Duration> {
        self.lanes
            .iter()
            .map(|lane| Duration::from_micros(lane.lag_us.load(Relaxed)))
            .collect()
    }

    /// Ends the threads, with whatever still lives on them. Blocks until they are gone; not to be called on one of them.
    pub fn stop(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for arbiter in threads {
            arbiter.stop();
            if arbiter.join().is_err() {
                tracing::error!("an arbiter thread panicked");
            }
        }
    }

    pub(super) fn handle(&self, index: usize) -> &ArbiterHandle {
        &self.lanes[index].handle
    }

    pub(super) fn set_lag(&self, index: usize, lag: Duration) {
        self.lanes[index]
            .lag_us
            .store(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}
