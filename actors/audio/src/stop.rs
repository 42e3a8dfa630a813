//! How somebody outside ends a job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{AudioError, Outcome};

/// A flag that a job looks at between blocks. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks the job to end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`AudioError::Stopped`] once it was asked to end.
    pub fn check(&self) -> Outcome<()> {
        if self.is_set() {
            Err(AudioError::Stopped)
        } else {
            Ok(())
        }
    }
}
