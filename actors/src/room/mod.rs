//! Rooms: the rules (pure) and the actor that applies them.

pub mod actor;
pub mod auth;
pub mod bundle;
pub mod cache;
pub mod commands;
pub mod commit;
pub mod create;
pub mod event;
pub mod handle;
pub mod ingest;
mod keys;
mod load;
mod members;
pub mod membership;
pub mod parse;
pub mod plan;
pub mod read;
mod receipts;
mod receive;
pub mod redact;
pub mod relations;
pub mod render;
pub mod resolve;
mod resolve_v1;
pub mod rules;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod state_group;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod txns;
pub mod typing;
pub mod visibility;
