//! The behaviour of the server: actors, the journal and the rules they keep.

pub mod cache;
pub mod clock;
pub mod cpu;
pub mod env;
pub mod error;
pub mod failpoint;
pub mod flows;
pub mod hub;
pub mod janitor;
pub mod key;
pub mod media;
pub mod presence;
pub mod push;
pub mod rng;
pub mod room;
pub mod session;
pub mod settings;
pub mod stats;
pub mod stream;
pub mod supervisor;
