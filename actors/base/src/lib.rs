//! What every part of the server stands on: time, randomness, errors, CPU work, figures and the generic actor.

pub mod cache;
pub mod clock;
pub mod cpu;
pub mod error;
pub mod failpoint;
pub mod key;
pub mod rng;
pub mod stats;
pub mod supervisor;
