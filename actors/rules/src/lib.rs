//! The rules of rooms, pure: what an event is, who may send it, how states are resolved and stored. Nothing here waits,
//! reads or writes.

pub mod auth;
pub mod event;
pub mod parse;
pub mod policy;
pub mod redact;
pub mod resolve;
mod resolve_v1;
pub mod rules;
pub mod snapshot;
pub mod state_group;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
