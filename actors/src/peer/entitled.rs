//! Which of our events a server has to get: those of rooms it was in, and changes of its users' memberships.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{EventNid, StateGroupId};
use ruma::{ServerName, UserId};

use crate::error::Outcome;
use crate::room::cache::RoomCache;
use crate::room::event::StoredEvent;
use crate::room::snapshot::{RoomSnapshot, StateEntry, StateKey};

/// What has been found out about one server in one room.
pub struct Entitled<'a> {
    rooms: &'a RoomCache,
    /// The member events of the server's users. Whoever ever was in the room has one.
    members: Vec<StateEntry>,
    server: &'a ServerName,
    joined: HashMap<StateGroupId, bool>,
}

impl<'a> Entitled<'a> {
    /// For events of `room`, which is as it is now.
    #[must_use]
    pub fn new(rooms: &'a RoomCache, room: &RoomSnapshot, server: &'a ServerName) -> Self {
        let first: StateKey = (Arc::from("m.room.member"), Arc::from(""));
        let members = (room.state.range(first..))
            .take_while(|((kind, _), _)| &**kind == "m.room.member")
            .filter(|((_, user), _)| user.split_once(':').is_some_and(|(_, name)| name == server.as_str()))
            .map(|(_, entry)| entry.clone());
        Self {
            rooms,
            members: members.collect(),
            server,
            joined: HashMap::new(),
        }
    }

    /// Whether the server has to get the event.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn to(&mut self, event: &StoredEvent) -> Outcome<bool> {
        if event.pdu.sender.server_name() == self.server {
            return Ok(false);
        }
        if target(event).is_some_and(|target| target.server_name() == self.server) {
            return Ok(true);
        }
        let Some(group) = event.state_group else {
            return Ok(false);
        };
        if let Some(joined) = self.joined.get(&group) {
            return Ok(*joined);
        }
        let joined = self.was_in(group).await?;
        self.joined.insert(group, joined);
        Ok(joined)
    }

    async fn was_in(&self, group: StateGroupId) -> Outcome<bool> {
        let map = self.rooms.state_map(group).await?;
        let mut others: Vec<EventNid> = Vec::new();
        for entry in &self.members {
            let joined = || entry.event.pdu.has_membership("join");
            match map.0.get(entry.key_nid) {
                Some(nid) if nid == entry.event.nid && joined() => return Ok(true),
                Some(nid) => others.push(nid),
                None => {}
            }
        }
        let events = self.rooms.events(&others).await?;
        Ok(events.values().any(|event| event.pdu.has_membership("join")))
    }
}

/// Whose membership a member event changes.
#[must_use]
pub fn target(event: &StoredEvent) -> Option<&UserId> {
    event.pdu.membership()?;
    <&UserId>::try_from(event.pdu.state_key.as_deref()?).ok()
}
