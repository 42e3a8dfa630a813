//! CPU-bound work leaves the arbiters: a bounded number of jobs of each class runs on the blocking pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::error::{DomainError, Outcome};

/// What kind of work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Planning a room's batch: hashes, signatures, auth.
    Plan,
    /// Signatures of others.
    Verify,
    /// State resolution.
    StateRes,
    /// argon2id; at most 64 wait.
    Password,
    /// Decoding and scaling images.
    Image,
    /// Decoding and encoding audio.
    Audio,
}

struct Lane {
    permits: Semaphore,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// Handle on the CPU classes.
#[derive(Clone)]
pub struct Cpu {
    io: Handle,
    lanes: Arc<[Lane; 6]>,
}

impl Cpu {
    /// `cores`: how many the machine has.
    #[must_use]
    pub fn new(io: Handle, cores: usize) -> Self {
        let cores = cores.max(1);
        let half = (cores / 2).max(1);
        let lane = |n, max_waiting| Lane {
            permits: Semaphore::new(n),
            waiting: AtomicUsize::new(0),
            max_waiting,
        };
        Self {
            io,
            lanes: Arc::new([
                lane(cores, 4_096),
                lane(cores, 1_024),
                lane(half, 256),
                lane(half, 64),
                lane(half, 64),
                lane(half, 64),
            ]),
        }
    }

    /// Runs `job` on the blocking pool once its class has room.
    ///
    /// # Errors
    /// `Overloaded` when too many wait already; `Internal` when the job panics.
    pub async fn run<T: Send + 'static>(&self, class: Class, job: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
        let lane = &self.lanes[class as usize];
        let waiting = Waiting::enter(lane)?;
        let _permit = lane
            .permits
            .acquire()
            .await
            .map_err(|_| DomainError::unavailable("shutting down"))?;
        drop(waiting);
        self.io
            .spawn_blocking(job)
            .await
            .map_err(|e| DomainError::internal(format!("{class:?} job: {e}")))
    }
}

/// Counts a waiter for as long as it lives, also when the waiting future is dropped.
struct Waiting<'a>(&'a Lane);

impl<'a> Waiting<'a> {
    fn enter(lane: &'a Lane) -> Outcome<Self> {
        if lane.waiting.fetch_add(1, Ordering::Relaxed) >= lane.max_waiting {
            lane.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(DomainError::Overloaded { retry_after_ms: 1_000 });
        }
        Ok(Self(lane))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
