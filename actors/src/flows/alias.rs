//! Where room aliases lead, of this server and of others (server-server API, "Querying for information").

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use ruma::api::federation::query::get_room_information::v1::Request;
use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId};

use super::directory::servers;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::handle::Pace;

/// Aliases of other servers that are kept in mind.
const KEPT: u64 = 10_000;
/// For how long, and how long it is kept in mind that there is none: enough for those who come at once, and too short for
/// anybody to miss that an alias was deleted.
const FRESH: Duration = Duration::from_secs(5);
/// Servers that are kept of one alias.
const MAX_SERVERS: usize = 50;

/// Where an alias leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Servers that are likely to be in it.
    pub servers: Vec<OwnedServerName>,
}

/// What other servers told of their aliases lately.
#[derive(Debug)]
pub struct Aliases {
    found: Cache<OwnedRoomAliasId, Arc<Target>>,
    absent: Cache<OwnedRoomAliasId, ()>,
}

impl Default for Aliases {
    fn default() -> Self {
        Self {
            found: Cache::builder().max_capacity(KEPT).time_to_live(FRESH).build(),
            absent: Cache::builder().max_capacity(KEPT).time_to_live(FRESH).build(),
        }
    }
}

/// The room of an alias, and servers that are in it.
///
/// # Errors
/// `M_NOT_FOUND` for unknown aliases; 502 `M_UNKNOWN` when the alias's server does not answer.
pub async fn resolve(hub: &Hub, alias: &RoomAliasId) -> Outcome<Target> {
    let env = hub.env();
    if alias.server_name() != env.server_name {
        return elsewhere(hub, alias).await.map(|target| (*target).clone());
    }
    let row = env.store.alias(alias.as_str()).await?.ok_or_else(|| absent(alias))?;
    let room_id = RoomId::parse(row.room_id).map_err(|e| DomainError::internal(format!("{alias}: {e}")))?;
    let room = hub.rooms().view(&room_id).await?;
    Ok(Target {
        servers: servers(env, room.as_deref()),
        room_id,
    })
}

fn absent(alias: &RoomAliasId) -> DomainError {
    DomainError::not_found(format!("there is no room alias {alias}"))
}

async fn elsewhere(hub: &Hub, alias: &RoomAliasId) -> Outcome<Arc<Target>> {
    let aliases = &hub.env().aliases;
    if let Some(target) = aliases.found.get(alias) {
        return Ok(target);
    }
    if aliases.absent.contains_key(alias) {
        return Err(absent(alias));
    }
    let server = alias.server_name();
    match hub
        .peers()
        .call(server, Request::new(alias.to_owned()), Pace::Now)
        .await
    {
        Ok(mut told) => {
            told.servers.truncate(MAX_SERVERS - 1);
            // Whoever keeps the alias is likely to be in the room, and may not say so.
            if !told.servers.iter().any(|other| other == server) {
                told.servers.push(server.to_owned());
            }
            let target = Arc::new(Target {
                room_id: told.room_id,
                servers: told.servers,
            });
            aliases.found.insert(alias.to_owned(), target.clone());
            Ok(target)
        }
        Err(DomainError::Matrix { status: 404, .. }) => {
            aliases.absent.insert(alias.to_owned(), ());
            Err(absent(alias))
        }
        Err(error @ (DomainError::Internal(_) | DomainError::Overloaded { .. })) => Err(error),
        Err(error) => {
            tracing::info!(%alias, %error, "an alias cannot be looked up");
            let message = format!("Failed to look up {alias}: its server does not answer");
            Err(DomainError::matrix(502, "M_UNKNOWN", message))
        }
    }
}
