//! Rooms: the actor that applies the rules, and how rooms are read.

pub mod acl;
pub mod actor;
mod agree;
pub mod bundle;
pub mod cache;
mod capacity;
pub mod commands;
pub mod commit;
pub mod create;
#[cfg(test)]
pub(crate) mod elsewhere;
pub mod export;
mod fault;
pub mod handle;
mod heal;
mod import;
pub mod ingest;
mod keys;
mod library;
mod load;
mod members;
pub mod membership;
mod name;
mod outside;
pub mod plan;
mod purge;
pub mod read;
mod receipts;
mod receive;
pub mod relations;
pub mod render;
#[cfg(test)]
mod simulation;
pub mod summary;
pub mod txns;
pub mod typing;
pub mod visibility;
#[cfg(test)]
mod world;

#[cfg(test)]
use ::rules::testing;
pub use ::rules::{auth, event, parse, redact, resolve, rules, snapshot, state_group};
