//! What a server is told about the room that one of its users has come into, or asks to.

use std::collections::HashSet;
use std::sync::Arc;

use entities::ids::EventNid;
use ruma::{OwnedUserId, UserId};

use super::Accepted;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::StoredEvent;
use crate::room::export::chain::auth_chain;
use crate::room::export::document::Document;
use crate::room::export::state;
use crate::room::snapshot::RoomSnapshot;
use crate::session::sync::invited::STRIPPED;
use crate::session::sync::summary;

/// The answer to a join: the state before it, its auth chain and the event itself. `omit_members`: without the members that
/// the server can do without for now (MSC3706).
///
/// # Errors
/// `Overloaded` when too many ask; `Unavailable`.
pub async fn join(env: &Env, accepted: &Accepted, omit_members: bool) -> Outcome<Document> {
    let _turn = env.exports.turn().await?;
    let Accepted { before: room, event } = accepted;
    let group = event
        .state_group
        .ok_or_else(|| DomainError::internal("an accepted event without a state"))?;
    let mut state = state::of_group(env, room, group).await?;
    let everything = state.len();
    if omit_members {
        let needed = needed_members(room, &event.pdu.sender);
        state.retain(|event| !is_member(event) || needed.iter().any(|user| is_member_of(event, user)));
    }
    let mut roots = state.clone();
    roots.push(event.clone());
    let mut chain = auth_chain(env, room, &roots).await?;
    if omit_members {
        let told: HashSet<EventNid> = state.iter().map(|event| event.nid).collect();
        chain.retain(|event| !told.contains(&event.nid));
    }
    let json = |events: Vec<Arc<StoredEvent>>| events.into_iter().map(|event| event.pdu.json.clone());
    let mut document = Document::new()
        .with_list("auth_chain", json(chain))
        .with_stored("event", event.pdu.json.clone());
    if omit_members {
        document = document.with("members_omitted", &(state.len() < everything))?;
    }
    document
        .with("origin", &env.server_name)?
        .with("room_version", &room.version)?
        .with("servers_in_room", &room.joined_servers)
        .map(|document| document.with_list("state", json(state)))
}

fn is_member(event: &StoredEvent) -> bool {
    event.pdu.state_key.is_some() && event.pdu.kind == ruma::events::TimelineEventType::RoomMember
}

fn is_member_of(event: &StoredEvent, user: &UserId) -> bool {
    event.pdu.is_state("m.room.member", user.as_str())
}

/// Whom the room is named after, where it has no name, and the user's own membership from before.
fn needed_members(room: &RoomSnapshot, user: &UserId) -> Vec<OwnedUserId> {
    let mut needed = if summary::is_named(room) {
        Vec::new()
    } else {
        summary::heroes(room, user)
    };
    needed.push(user.to_owned());
    needed
}

/// The answer to a knock: what tells the user which room it is.
#[must_use]
pub fn knock(accepted: &Accepted) -> Document {
    let events = STRIPPED.iter().filter_map(|kind| accepted.before.state_event(kind, ""));
    Document::new().with_list("knock_room_state", events.map(|event| event.pdu.json.clone()))
}
