//! The behaviour of the server: actors, the journal and the rules they keep.

pub mod clock;
pub mod cpu;
pub mod error;
pub mod rng;
pub mod room;
pub mod stream;
