//! Numbers for rooms, events, state keys and state groups, and for history, reserved in blocks before use and never reused.

use std::sync::Arc;

use entities::store::Store;
use tokio::sync::Mutex;

use crate::error::Outcome;

/// How many numbers one reservation takes.
const BLOCK: i64 = 65_536;

#[derive(Debug)]
struct Range {
    next: i64,
    end: i64,
}

/// Hands out numbers; cheap to clone.
#[derive(Clone)]
pub struct Ids {
    store: Store,
    counter: &'static str,
    range: Arc<Mutex<Range>>,
}

impl Ids {
    /// Internal numbers. Reserves nothing yet.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self::of(store, "nid")
    }

    /// The numbers of another counter.
    #[must_use]
    pub fn of(store: Store, counter: &'static str) -> Self {
        Self {
            store,
            counter,
            range: Arc::new(Mutex::new(Range { next: 0, end: 0 })),
        }
    }

    /// The first of `count` consecutive numbers.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn take(&self, count: usize) -> Outcome<i64> {
        let count = i64::try_from(count).unwrap_or(BLOCK);
        let mut range = self.range.lock().await;
        if range.end - range.next < count {
            let (start, end) = self.store.reserve_block(self.counter, BLOCK.max(count)).await?;
            *range = Range { next: start, end };
        }
        let first = range.next;
        range.next += count;
        Ok(first)
    }
}
