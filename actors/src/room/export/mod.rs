//! What other servers read of rooms (server-server API: "Retrieving events", "Backfilling and retrieving missing events",
//! "Retrieving event authorization information"). Nothing here starts a room's actor.
//!
//! Servers get stored text as it stands; what the history visibility hides from them, they get redacted, so that the event
//! graph has no holes.

pub mod access;
pub mod answers;
pub mod chain;
pub mod document;
pub mod history;
pub mod sight;
pub mod state;
pub mod template;

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{DomainError, Outcome};

/// Answers of the size of a room's state that are worked on at a time: each holds the whole state in memory.
const LARGE_ANSWERS: usize = 4;
/// How many may wait for their turn.
const WAITING: usize = 64;

/// Bounds the large answers.
#[derive(Clone, Debug)]
pub struct Exports {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Default for Exports {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(LARGE_ANSWERS)),
            places: Arc::new(Semaphore::new(LARGE_ANSWERS + WAITING)),
        }
    }
}

/// The right to work on a large answer, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    _turn: SemaphorePermit<'a>,
    _place: SemaphorePermit<'a>,
}

impl Exports {
    /// Waits for a turn.
    ///
    /// # Errors
    /// `Overloaded` when too many wait already.
    pub async fn turn(&self) -> Outcome<Turn<'_>> {
        let full = |_| DomainError::Overloaded { retry_after_ms: 1_000 };
        let place = self.places.try_acquire().map_err(full)?;
        let closed = |_| DomainError::unavailable("shutting down");
        let turn = self.turns.acquire().await.map_err(closed)?;
        Ok(Turn {
            _turn: turn,
            _place: place,
        })
    }
}

#[cfg(test)]
mod tests;
