//! The HTTP edge: parse, authenticate, limit, hand to the actors, render. No logic, no SQL.

pub mod admin;
pub mod auth;
pub mod client;
pub mod context;
pub mod cors;
pub mod dispatch;
pub mod endpoint;
mod envelope;
pub mod error;
pub mod federation;
pub mod gate;
pub mod limits;
pub mod media;
pub mod previews;
mod process;
mod range;
mod render;
pub mod reply;
pub mod ruma;
pub mod server;
pub mod state;
pub mod trie;
mod work;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use self::endpoint::Table;

/// Every endpoint of the server.
#[must_use]
pub fn table(process: &process::Process) -> Table {
    let mut table = Table::default();
    process.routes(&mut table);
    client::routes(&mut table, process.config());
    media::routes(&mut table, process.config().media.max_upload_bytes);
    admin::routes(&mut table, process.logs());
    federation::routes(&mut table);
    table
}
