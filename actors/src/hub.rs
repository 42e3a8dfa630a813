//! The only way in for everything outside this crate: the environment and the handles on the actors.

use std::sync::Arc;

use crate::env::Env;

/// Built once at start.
pub struct Hub {
    env: Arc<Env>,
}

impl Hub {
    /// What actors and readers share.
    #[must_use]
    pub fn env(&self) -> &Arc<Env> {
        &self.env
    }
}
