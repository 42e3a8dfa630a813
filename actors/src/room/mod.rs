//! Rooms: the rules (pure) and the actor that applies them.

pub mod commands;
pub mod event;
pub mod render;
pub mod snapshot;
