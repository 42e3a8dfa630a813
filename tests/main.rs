//! The integration tests: one binary, so that they are linked once.
//!
//! Every test gets a server process and a database of its own (`common::server`) and speaks to it over HTTP
//! (`common::client`). `both_databases!` makes a test run on SQLite and on PostgreSQL.

#[macro_use]
mod common;

mod admin;
mod client;
mod federation;
mod hostile;
mod process;
mod recovery;
mod reference;
mod strangers;
mod tidy;
