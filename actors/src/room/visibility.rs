//! Which events of a room a user may see (client-server API, "Room history visibility").

use std::sync::Arc;

use entities::ids::StreamPos;
use ruma::UserId;
use serde::Deserialize;

use super::cache::RoomCache;
use super::event::StoredEvent;
use super::snapshot::RoomSnapshot;
use crate::error::Outcome;

/// `m.room.history_visibility`; anything unknown counts as the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HistoryVisibility {
    /// Members, from when they joined.
    Joined,
    /// Members, from when they were invited.
    Invited,
    /// Members, everything.
    Shared,
    /// Everybody.
    WorldReadable,
}

impl HistoryVisibility {
    /// From the event, `shared` where there is none.
    #[must_use]
    pub fn of(event: Option<&StoredEvent>) -> Self {
        #[derive(Deserialize)]
        struct Content {
            history_visibility: Option<String>,
        }
        let content = event.and_then(|event| event.pdu.content_as::<Content>().ok());
        match content.and_then(|content| content.history_visibility).as_deref() {
            Some("joined") => Self::Joined,
            Some("invited") => Self::Invited,
            Some("world_readable") => Self::WorldReadable,
            _ => Self::Shared,
        }
    }
}

/// What decides about one event: the room's state just before it.
#[derive(Clone, Debug)]
pub struct At {
    /// The visibility in force.
    pub visibility: HistoryVisibility,
    /// The user's membership.
    pub membership: String,
}

/// What is known of the user in the room as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The last position at which the user was joined (`i64::MAX` while it is), 0 if never.
    pub joined_until: StreamPos,
    /// Since when the user has been joined without a break; `None` if it is not.
    pub joined_since: Option<StreamPos>,
}

impl Standing {
    /// From the room's newest state. `user` may be anybody.
    #[must_use]
    pub fn of(room: &RoomSnapshot, user: &UserId) -> Self {
        #[derive(Deserialize)]
        struct Unsigned {
            prev_content: Option<Prev>,
        }
        #[derive(Deserialize)]
        struct Prev {
            membership: Option<String>,
        }
        let Some(member) = room.state_event("m.room.member", user.as_str()) else {
            return Self {
                joined_until: StreamPos(0),
                joined_since: None,
            };
        };
        let pos = member.pos.unwrap_or_default();
        let before = member
            .unsigned
            .as_deref()
            .and_then(|text| serde_json::from_str::<Unsigned>(text).ok());
        let was_joined = before
            .and_then(|unsigned| unsigned.prev_content)
            .and_then(|prev| prev.membership)
            .is_some_and(|membership| membership == "join");
        match member.pdu.membership().as_deref() {
            Some("join") => Self {
                joined_until: StreamPos(i64::MAX),
                joined_since: Some(pos),
            },
            _ if was_joined => Self {
                joined_until: pos,
                joined_since: None,
            },
            _ => Self {
                joined_until: StreamPos(0),
                joined_since: None,
            },
        }
    }

    /// Whether the answer is yes without looking at the state before the event.
    #[must_use]
    pub fn surely_sees(&self, event: &StoredEvent) -> bool {
        matches!((self.joined_since, event.pos), (Some(since), Some(pos)) if pos >= since)
    }
}

/// Whether the user sees the event, by the state before it.
#[must_use]
pub fn sees(user: &UserId, standing: Standing, event: &StoredEvent, at: &At) -> bool {
    if standing.surely_sees(event) || at.visibility == HistoryVisibility::WorldReadable || at.membership == "join" {
        return true;
    }
    // The user's own membership event shows itself by what it changes to.
    if event.pdu.is_state("m.room.member", user.as_str()) {
        let after = event.pdu.membership();
        if matches!(after.as_deref(), Some("join" | "invite" | "leave" | "ban" | "knock")) {
            return true;
        }
    }
    // A change of the visibility is shown to those who see either side of it.
    if event.pdu.is_state("m.room.history_visibility", "")
        && HistoryVisibility::of(Some(event)) == HistoryVisibility::WorldReadable
    {
        return true;
    }
    let pos = event.pos.unwrap_or_default();
    match at.visibility {
        HistoryVisibility::Shared => standing.joined_until > pos,
        HistoryVisibility::Invited => at.membership == "invite" && standing.joined_until > pos,
        HistoryVisibility::Joined | HistoryVisibility::WorldReadable => false,
    }
}

/// Keeps what the user sees.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn filter_visible(
    rooms: &RoomCache,
    user: &UserId,
    room: &RoomSnapshot,
    events: Vec<Arc<StoredEvent>>,
) -> Outcome<Vec<Arc<StoredEvent>>> {
    let standing = Standing::of(room, user);
    let mut kept = Vec::with_capacity(events.len());
    for event in events {
        let shown = |visibility| {
            visibility == HistoryVisibility::WorldReadable
                || visibility == HistoryVisibility::Shared && event.pos.is_some_and(|pos| pos < standing.joined_until)
        };
        let visible = standing.surely_sees(&event)
            || standing_visibility(room, &event).is_some_and(shown)
            || sees(user, standing, &event, &before(rooms, user, &event).await?);
        if visible {
            kept.push(event);
        }
    }
    Ok(kept)
}

async fn before(rooms: &RoomCache, user: &UserId, event: &StoredEvent) -> Outcome<At> {
    let keys = [
        (Arc::from("m.room.history_visibility"), Arc::from("")),
        (Arc::from("m.room.member"), Arc::from(user.as_str())),
    ];
    let found = match event.state_group {
        Some(group) => rooms.state_events_at(group, &keys).await?,
        None => vec![None, None],
    };
    let visibility = HistoryVisibility::of(found.first().and_then(|event| event.as_deref()));
    let membership = found.get(1).and_then(|event| event.as_ref()?.pdu.membership());
    Ok(At {
        visibility,
        membership: membership.unwrap_or_else(|| "leave".to_owned()),
    })
}

/// The visibility that was in force at `event`, where the newest state alone tells: it was set before the event, or
/// never.
fn standing_visibility(room: &RoomSnapshot, event: &StoredEvent) -> Option<HistoryVisibility> {
    let current = room.state_event("m.room.history_visibility", "");
    match current {
        Some(set) if set.pos? < event.pos? => Some(HistoryVisibility::of(Some(set))),
        _ => None,
    }
}
