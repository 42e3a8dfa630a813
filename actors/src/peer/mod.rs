//! Other servers: one actor each, how it goes with them, and what is on its way to them.
//!
//! Requests do not run inside the actor, which does one thing at a time: two servers that ask each other would wait for
//! each other. What all tasks of one server share is its [`view`].

pub mod edu;
pub mod handle;
pub mod health;
pub mod kind;
mod ledger;
pub mod stage;
pub mod transport;
pub mod typed;
pub mod view;

#[cfg(test)]
mod handle_tests;
#[cfg(test)]
pub(crate) mod testing;
