//! What the end-to-end tests share: the server as a child process, with the harness of the integration tests, and
//! people whose client is `matrix-sdk`.
//!
//! The tests need `SYNAPSE_RUST_BIN`, the path of the server's binary, and a PostgreSQL server for tests;
//! `scripts/test` sees to both.

// The client library's futures are nested deeply.
#![recursion_limit = "512"]

#[path = "../../common/mod.rs"]
pub mod common;
pub mod gauge;
pub mod person;
#[path = "../../federation/scenarios/mod.rs"]
pub mod scenarios;
pub mod synapse;
pub mod tally;
