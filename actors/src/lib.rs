//! The behaviour of the server: actors, the journal and the rules they keep.

pub mod env;
pub mod flows;
pub mod hub;
pub mod janitor;
pub mod mail;
pub mod media;
pub mod peer;
pub mod policy;
pub mod presence;
pub mod push;
pub mod rendezvous;
pub mod room;
pub mod security;
pub mod session;
pub mod settings;
pub mod stream;

pub use federation;

pub use base::{cache, clock, cpu, error, failpoint, key, rng, stats, supervisor};
