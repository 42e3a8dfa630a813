//! A room's summary: who to name it after, how many are in it (client-server API, "Calculating the display name").

use std::borrow::Cow;

use ruma::{OwnedUserId, UserId};
use serde::Deserialize;

use super::response::Summary;
use crate::room::snapshot::RoomSnapshot;

const MAX_HEROES: usize = 5;

/// The summary for `user`. Heroes are named where the room has neither name nor canonical alias.
#[must_use]
pub fn summarise(room: &RoomSnapshot, user: &UserId) -> Summary {
    Summary {
        heroes: if is_named(room) { None } else { Some(heroes(room, user)) },
        joined: Some(room.joined_count),
        invited: Some(room.invited_count),
    }
}

/// Whether the room has a name or a canonical alias.
pub(crate) fn is_named(room: &RoomSnapshot) -> bool {
    #[derive(Default, Deserialize)]
    struct Content<'a> {
        #[serde(borrow, default)]
        name: Cow<'a, str>,
        #[serde(borrow, default)]
        alias: Cow<'a, str>,
    }
    let content = |kind| {
        let event = room.state_event(kind, "");
        let content = event.and_then(|event| event.pdu.content_as::<Content<'_>>().ok());
        content.unwrap_or_default()
    };
    !content("m.room.name").name.is_empty() || !content("m.room.canonical_alias").alias.is_empty()
}

/// The first five joined or invited members by the position of their member events, else those who left.
pub(crate) fn heroes(room: &RoomSnapshot, user: &UserId) -> Vec<OwnedUserId> {
    let mut present = Vec::new();
    let mut gone = Vec::new();
    for event in room.state_of_kind("m.room.member") {
        let Some(member) = event.pdu.state_user() else {
            continue;
        };
        if member == user {
            continue;
        }
        let entry = (event.pos.unwrap_or_default(), member.to_owned());
        if ["join", "invite"].iter().any(|kind| event.pdu.has_membership(kind)) {
            present.push(entry);
        } else if ["leave", "ban"].iter().any(|kind| event.pdu.has_membership(kind)) {
            gone.push(entry);
        }
    }
    let mut chosen = if present.is_empty() { gone } else { present };
    if chosen.len() > MAX_HEROES {
        chosen.select_nth_unstable(MAX_HEROES);
        chosen.truncate(MAX_HEROES);
    }
    chosen.sort_unstable();
    chosen.into_iter().map(|(_, user)| user).collect()
}
