//! What local users do in rooms that other servers are in and this one is not, and what takes the signature of another server.
//!
//! Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Inviting to a room", "Leaving Rooms (Rejecting
//! Invites)".

mod answer;
pub(super) mod ask;
mod attempts;
pub(super) mod candidates;
mod cosign;
mod entries;
pub mod invite;
pub mod join;
pub mod knock;
pub mod leave;
mod pending;
mod stripped;
mod template;
pub mod unfinished;

pub use entries::Entries;
pub use pending::{Pending, is_here, pending};

#[cfg(test)]
mod invite_tests;
#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod leave_tests;
#[cfg(test)]
pub(super) mod testing;
