//! Invites and knocks: stripped state.

use std::sync::Arc;

use entities::ids::RoomNid;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::value::RawValue;

use super::Context;
use super::filter::room_allowed;
use super::look::{Look, Pending};
use super::response::{Events, Invited, Knocked, SyncResponse};
use crate::error::Outcome;
use crate::flows::invite_filter::{InviteFilter, Verdict};
use crate::room::render::stripped_event;
use crate::room::snapshot::RoomSnapshot;

/// What an invited user may know of a room (client-server API, "Stripped state").
pub(crate) const STRIPPED: [&str; 8] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.history_visibility",
];

/// Fills in the invites and knocks.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn blocks(cx: &Context<'_>, look: &Look, response: &mut SyncResponse) -> Outcome<()> {
    let invited = look.pending.iter().any(|pending| pending.membership == "invite");
    let filter = match invited {
        true => InviteFilter::of(cx.env, &cx.args.user).await?,
        false => InviteFilter::default(),
    };
    for pending in &look.pending {
        let Ok(room_id) = OwnedRoomId::try_from(pending.room_id.as_str()) else {
            continue;
        };
        let unwanted = OwnedUserId::try_from(pending.sender.as_str()).is_ok_and(|sender| {
            let filtered = pending.membership == "invite" && filter.judge(&sender) != Verdict::Allow;
            filtered || cx.view.ignored.contains(&sender)
        });
        if unwanted || !room_allowed(&cx.args.filter, &room_id) {
            continue;
        }
        let events = Events {
            events: stripped(cx, pending).await?,
        };
        if pending.membership == "knock" {
            response.rooms.knock.insert(room_id, Knocked { knock_state: events });
        } else {
            response.rooms.invite.insert(room_id, Invited { invite_state: events });
        }
    }
    Ok(())
}

async fn stripped(cx: &Context<'_>, pending: &Pending) -> Outcome<Vec<Box<RawValue>>> {
    if let Some(stored) = stored(cx, pending.nid).await? {
        return Ok(stored);
    }
    let room = cx.env.rooms.view_nid(pending.nid).await?;
    Ok(room
        .map(|room| stripped_state(&room, &cx.args.user))
        .unwrap_or_default())
}

/// What came with an invite over federation.
async fn stored(cx: &Context<'_>, nid: RoomNid) -> Outcome<Option<Vec<Box<RawValue>>>> {
    let row = cx.env.store.stripped_state(nid.0, cx.args.user.as_str()).await?;
    Ok(row.and_then(|row| serde_json::from_str(&row.events).ok()))
}

/// The stripped state of a room of this server for one user: what names the room, the user's own member event and that
/// of who invited it.
#[must_use]
pub fn stripped_state(room: &RoomSnapshot, user: &ruma::UserId) -> Vec<Box<RawValue>> {
    let mut events: Vec<Arc<_>> = STRIPPED
        .iter()
        .filter_map(|kind| room.state_event(kind, "").cloned())
        .collect();
    if let Some(own) = room.state_event("m.room.member", user.as_str()) {
        if own.pdu.sender != user {
            events.extend(room.state_event("m.room.member", own.pdu.sender.as_str()).cloned());
        }
        events.push(own.clone());
    }
    events.iter().map(|event| stripped_event(&event.pdu)).collect()
}
