//! The process around the server.

pub mod reload;
