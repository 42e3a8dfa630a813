//! One at a time for whatever has the same name: a room's upgrade, a user's scheduling.

use std::hash::{BuildHasher as _, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// Names that can have their turn at the same time, if they do not collide.
const TURNS: usize = 64;

/// A lock for each name, some of which share one.
pub struct Turns {
    turns: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Turns {
    /// Waits for the turn of whatever the name stands for.
    pub(super) async fn take(&self, name: &str) -> MutexGuard<'_, ()> {
        let turn = self.hasher.hash_one(name) % TURNS as u64;
        self.turns[turn as usize].lock().await
    }
}
