//! Other servers: one actor each, how it goes with them, and what is on its way to them.
//!
//! Requests do not run inside the actor, which does one thing at a time: two servers that ask each other would wait for
//! each other. What all tasks of one server share is its [`view`].

mod catchup;
pub mod durable;
pub mod edu;
mod entitled;
mod ephemeral;
pub mod handle;
pub mod health;
pub mod kind;
mod outbound;
pub mod outbox;
mod sender;
pub mod stage;
pub mod transport;
pub mod typed;
pub mod view;
pub mod views;

use std::sync::Arc;

use ruma::{OwnedServerName, UserId};

use crate::env::Env;
use crate::error::Outcome;

/// The other servers that share a joined room with a user.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn sharing(env: &Env, user: &UserId) -> Outcome<Arc<[OwnedServerName]>> {
    let servers = env.store.servers_sharing_rooms(user.as_str()).await?;
    let servers = servers
        .iter()
        .filter_map(|name| OwnedServerName::try_from(name.as_str()).ok());
    Ok(servers.filter(|name| *name != env.server_name).collect())
}

#[cfg(test)]
mod durable_tests;
#[cfg(test)]
mod handle_tests;
#[cfg(test)]
mod outbound_tests;
#[cfg(test)]
mod scale_tests;
#[cfg(test)]
pub(crate) mod testing;
