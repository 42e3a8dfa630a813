//! Invites and knocks of local users in rooms that this server is not in.

use entities::ids::EventNid;
use ruma::{OwnedServerName, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::env::Env;
use crate::error::Outcome;
use crate::room::cache::RoomName;
use crate::room::snapshot::RoomSnapshot;

/// An invite or a knock.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The room.
    pub room: RoomName,
    /// `invite` or `knock`.
    pub membership: String,
    /// Its event.
    pub event: EventNid,
    /// Servers that are likely to be in the room, the best first.
    pub servers: Vec<OwnedServerName>,
}

/// The user's invite or knock, if that is how it stands and the room cannot tell itself. `room` is the room as this server
/// has it.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn pending(
    env: &Env,
    user: &UserId,
    room_id: &RoomId,
    room: Option<&RoomSnapshot>,
) -> Outcome<Option<Pending>> {
    if room.is_some_and(|room| is_here(room, &env.server_name)) {
        return Ok(None);
    }
    let Some(row) = env.store.room_by_id(room_id.as_str()).await? else {
        return Ok(None);
    };
    let member = env.store.membership(row.nid, user.as_str()).await?;
    let Some(member) = member.filter(|member| matches!(member.membership.as_str(), "invite" | "knock")) else {
        return Ok(None);
    };
    let mut servers = Vec::new();
    let mut add = |user: &str| {
        let server = <&UserId>::try_from(user).ok().map(UserId::server_name);
        if let Some(server) = server.filter(|server| **server != *env.server_name)
            && !servers.iter().any(|known: &OwnedServerName| known == server)
        {
            servers.push(server.to_owned());
        }
    };
    add(&member.sender);
    // A knock is the user's own: whoever told about the room then is in it.
    let stripped = env.store.stripped_state(row.nid, user.as_str()).await?;
    for sender in stripped.iter().flat_map(|row| senders(&row.events)) {
        add(&sender);
    }
    Ok(Some(Pending {
        room: RoomName::from_row(&row)?,
        membership: member.membership,
        event: EventNid(member.event_nid),
        servers,
    }))
}

fn senders(stripped: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Event {
        sender: String,
    }
    let events: Vec<Box<RawValue>> = serde_json::from_str(stripped).unwrap_or_default();
    let sender = |event: Box<RawValue>| Some(serde_json::from_str::<Event>(event.get()).ok()?.sender);
    events.into_iter().filter_map(sender).collect()
}

/// Whether this server has a say in the room: a user of its own is in it, or nobody is left anywhere, so that what it knows
/// is all there is.
#[must_use]
pub fn is_here(room: &RoomSnapshot, server: &ServerName) -> bool {
    room.joined_servers.is_empty() || room.joined_servers.iter().any(|joined| joined == server)
}
