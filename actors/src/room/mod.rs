//! Rooms: the rules (pure) and the actor that applies them.

pub mod auth;
pub mod commands;
pub mod event;
pub mod parse;
pub mod render;
pub mod rules;
pub mod snapshot;
pub mod state_group;
#[cfg(test)]
mod testing;
