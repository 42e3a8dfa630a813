//! What a server may see of a room's history: what one of its users may (client-server API, "Room history visibility").

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{EventNid, StateGroupId};
use ruma::{ServerName, UserId};

use super::access;
use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::StoredEvent;
use crate::room::redact::prune;
use crate::room::snapshot::{RoomSnapshot, StateEntry, StateKey};
use crate::room::visibility::{HistoryVisibility, standing_visibility};

/// The texts of events as `server` gets them: redacted what it may not see.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn texts(
    env: &Env,
    room: &RoomSnapshot,
    server: &ServerName,
    events: Vec<Arc<StoredEvent>>,
) -> Outcome<Vec<Arc<str>>> {
    let seen = seen(env, room, server, &events).await?;
    if seen.iter().all(|seen| *seen) {
        return Ok(events.iter().map(|event| event.pdu.json.clone()).collect());
    }
    let rules = room.rules.clone();
    let text = move |event: &StoredEvent, seen: bool| {
        if seen {
            Ok(event.pdu.json.clone())
        } else {
            prune(&event.pdu.json, &rules).map(Arc::from)
        }
    };
    let job = move || events.iter().zip(seen).map(|(event, seen)| text(event, seen)).collect();
    let texts: Result<Vec<Arc<str>>, _> = env.cpu.run(Class::Plan, job).await?;
    texts.map_err(|e| DomainError::internal(format!("a stored event cannot be redacted: {e}")))
}

/// Which of the events `server` may see.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn seen(
    env: &Env,
    room: &RoomSnapshot,
    server: &ServerName,
    events: &[Arc<StoredEvent>],
) -> Outcome<Vec<bool>> {
    let inside = access::is_in(room, server);
    let mut members = None;
    let mut groups: HashMap<StateGroupId, Before> = HashMap::new();
    let mut seen = Vec::with_capacity(events.len());
    for event in events {
        if let Some(sure) = surely(room, server, inside, event) {
            seen.push(sure);
            continue;
        }
        // Events without a state are known as state of others alone; that is told to everybody in the room.
        let Some(group) = event.state_group else {
            seen.push(inside);
            continue;
        };
        let members = members.get_or_insert_with(|| members_of(room, server));
        let before = match groups.get(&group) {
            Some(before) => *before,
            None => *groups.entry(group).or_insert(read_before(env, group, members).await?),
        };
        // A change of the visibility is shown to those who see either side of it.
        let change = event.pdu.is_state("m.room.history_visibility", "");
        let after = change.then(|| HistoryVisibility::of(Some(event)));
        let sides = [Some(before.visibility), after];
        seen.push(
            sides
                .into_iter()
                .flatten()
                .any(|visibility| before.sees(visibility, inside)),
        );
    }
    Ok(seen)
}

/// Where there is no need to look at the state before the event.
fn surely(room: &RoomSnapshot, server: &ServerName, inside: bool, event: &StoredEvent) -> Option<bool> {
    let pdu = &event.pdu;
    if pdu.sender.server_name() == server {
        return Some(true);
    }
    if let Some(state_key) = pdu.state_key.as_deref() {
        let kind = pdu.kind.to_string();
        let target = <&UserId>::try_from(state_key).ok().filter(|_| kind == "m.room.member");
        if target.is_some_and(|target| target.server_name() == server) {
            return Some(true);
        }
        // Whoever is in the room is told its state anyway.
        let current = room.state_event(&kind, state_key);
        if inside && current.is_some_and(|current| current.nid == event.nid) {
            return Some(true);
        }
    }
    match standing_visibility(room, event)? {
        HistoryVisibility::WorldReadable => Some(true),
        HistoryVisibility::Shared if inside => Some(true),
        _ => None,
    }
}

/// A room as the server's users stood in it before an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Before {
    visibility: HistoryVisibility,
    joined: bool,
    invited: bool,
}

impl Before {
    fn sees(self, visibility: HistoryVisibility, inside: bool) -> bool {
        match visibility {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Shared => inside || self.joined,
            HistoryVisibility::Invited => self.joined || self.invited,
            HistoryVisibility::Joined => self.joined,
        }
    }
}

/// The member events of the server's users. Whoever ever was in the room has one.
fn members_of<'a>(room: &'a RoomSnapshot, server: &ServerName) -> Vec<&'a StateEntry> {
    let first: StateKey = (Arc::from("m.room.member"), Arc::from(""));
    room.state
        .range(first..)
        .take_while(|((kind, _), _)| &**kind == "m.room.member")
        .filter(|((_, user), _)| user.split_once(':').is_some_and(|(_, name)| name == server.as_str()))
        .map(|(_, entry)| entry)
        .collect()
}

async fn read_before(env: &Env, group: StateGroupId, members: &[&StateEntry]) -> Outcome<Before> {
    let key = (Arc::from("m.room.history_visibility"), Arc::from(""));
    let visibility = env.rooms.state_events_at(group, &[key]).await?.pop().flatten();
    let mut before = Before {
        visibility: HistoryVisibility::of(visibility.as_deref()),
        joined: false,
        invited: false,
    };
    let map = env.rooms.state_map(group).await?;
    let mut changed: Vec<EventNid> = Vec::new();
    for entry in members {
        match map.0.get(entry.key_nid) {
            Some(nid) if nid == entry.event.nid => before.note(&entry.event),
            Some(nid) => changed.push(nid),
            None => {}
        }
    }
    // Members who stand as they stood then are at hand; the others matter only while none of those was joined.
    if !before.joined {
        env.rooms
            .events(&changed)
            .await?
            .values()
            .for_each(|event| before.note(event));
    }
    Ok(before)
}

impl Before {
    fn note(&mut self, member: &StoredEvent) {
        self.joined |= member.pdu.has_membership("join");
        self.invited |= member.pdu.has_membership("invite");
    }
}
