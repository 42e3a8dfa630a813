//! Which servers are asked about a room, in which order.

use ruma::{OwnedServerName, RoomId};

use super::pending::Pending;
use crate::hub::Hub;
use crate::room::snapshot::RoomSnapshot;

/// Servers that are asked about one thing at most.
const MAX_SERVERS: usize = 16;

/// What may tell which servers are in a room.
#[derive(Debug, Default)]
pub struct Hints<'a> {
    /// Whom the user, or an alias, named.
    pub named: &'a [OwnedServerName],
    /// The user's invite or knock.
    pub pending: Option<&'a Pending>,
    /// The room as it was when this server was in it last.
    pub known: Option<&'a RoomSnapshot>,
}

/// The servers to ask, best first: each once, without this one; those that do not answer at present come last.
#[must_use]
pub fn servers(hub: &Hub, room_id: &RoomId, hints: &Hints<'_>) -> Vec<OwnedServerName> {
    let now = hub.env().clock.now_ms();
    let mut servers = in_order(room_id, hints);
    servers.retain(|server| *server != hub.env().server_name);
    servers.truncate(MAX_SERVERS);
    let waits = |server: &OwnedServerName| hub.peers().view(server).is_some_and(|view| view.health().wait(now) > 0);
    servers.sort_by_cached_key(waits);
    servers
}

fn in_order(room_id: &RoomId, hints: &Hints<'_>) -> Vec<OwnedServerName> {
    let inviter = hints.pending.iter().flat_map(|pending| pending.servers.iter());
    let known = hints.known.iter().flat_map(|room| room.joined_servers.iter());
    // Since version 12 ids name no server.
    let maker = room_id.server_name().map(ToOwned::to_owned);
    let all = hints
        .named
        .iter()
        .chain(inviter)
        .cloned()
        .chain(maker)
        .chain(known.cloned());
    let mut servers = Vec::new();
    for server in all {
        if !servers.contains(&server) {
            servers.push(server);
        }
        // One of them may be this server.
        if servers.len() > MAX_SERVERS {
            break;
        }
    }
    servers
}

/// Servers with users who may let somebody in, for restricted rooms where nobody of this server may.
#[must_use]
pub fn inviting(room: &RoomSnapshot) -> Vec<OwnedServerName> {
    let state = |kind: &str, key: &str| room.state_event(kind, key).map(|event| event.pdu.clone());
    let Ok(power) = crate::room::auth::Power::of(&room.rules, state) else {
        return Vec::new();
    };
    let mut servers: Vec<OwnedServerName> = Vec::new();
    for member in room.state_of_kind("m.room.member") {
        let Some(user) = member.pdu.state_user() else { continue };
        let is_new = !servers.iter().any(|server| server == user.server_name());
        if is_new && power.may_invite(user) && member.pdu.has_membership("join") {
            servers.push(user.server_name().to_owned());
        }
        if servers.len() > MAX_SERVERS {
            break;
        }
    }
    servers
}
