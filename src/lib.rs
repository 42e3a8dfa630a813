//! synapse-rust: a Matrix homeserver built as an actor system. This crate is its HTTP edge and its process.

pub mod boot;
pub mod cli;
pub mod config;
pub mod http;
pub mod log_ring;
pub mod signing_key;
pub mod telemetry;
pub mod tls;
