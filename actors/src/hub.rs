//! The only way in for everything outside this crate: the environment and the handles on the actors.

use std::sync::Arc;
use std::time::Duration;

use crate::env::{Env, Parts};
use crate::error::Outcome;

/// Built once at start.
pub struct Hub {
    env: Arc<Env>,
}

impl Hub {
    /// Takes the database over from any former process and starts everything that works by itself.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn open(parts: Parts) -> Outcome<Arc<Self>> {
        let env = Env::open(parts).await?;
        Ok(Arc::new(Self { env }))
    }

    /// What actors and readers share.
    #[must_use]
    pub fn env(&self) -> &Arc<Env> {
        &self.env
    }

    /// The server is about to stop: whoever waits for news gets an answer now. Requests still work.
    pub fn begin_drain(&self) {
        self.env.feeds.close();
    }

    /// Whether the server is about to stop: whoever waits answers at once.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.env.feeds.is_closed()
    }

    /// Finishes what has been accepted, for at most `patience`. Call when nothing new comes in any more.
    pub async fn drain(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.env.journal.idle()).await.is_err() {
            tracing::warn!("the journal was not done in time");
        }
    }
}
