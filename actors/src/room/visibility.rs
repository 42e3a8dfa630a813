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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The position at which the user last ceased to be joined (`i64::MAX` while it is joined), 0 if it never was.
    pub joined_until: StreamPos,
    /// Since when, at the latest, the user has been joined without a break; `None` if it is not.
    pub joined_since: Option<StreamPos>,
}

impl Standing {
    /// Of somebody who never was joined.
    const STRANGER: Self = Self {
        joined_until: StreamPos(0),
        joined_since: None,
    };

    /// From the room's newest state; only for users who went on after they had left, the database is asked as well.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn find(rooms: &RoomCache, room: &RoomSnapshot, user: &UserId) -> Outcome<Self> {
        let Some(member) = room.state_event("m.room.member", user.as_str()) else {
            return Ok(Self::STRANGER);
        };
        let pos = member.pos.unwrap_or_default();
        if member.pdu.has_membership("join") {
            return Ok(Self {
                joined_until: StreamPos(i64::MAX),
                joined_since: Some(joined_since(room, user, member)),
            });
        }
        let left_at = |joined_until| Self {
            joined_until,
            joined_since: None,
        };
        match membership_before(rooms, member).await?.as_deref() {
            None => Ok(Self::STRANGER),
            Some("join") => Ok(left_at(pos)),
            Some(_) => Ok(left_at(last_departure(rooms, room, user).await?)),
        }
    }

    /// Whether the user is or was joined.
    #[must_use]
    pub fn was_ever_joined(&self) -> bool {
        self.joined_until > StreamPos(0)
    }

    /// Whether the answer is yes without looking at the state before the event.
    #[must_use]
    pub fn surely_sees(&self, event: &StoredEvent) -> bool {
        matches!((self.joined_since, event.pos), (Some(since), Some(pos)) if pos >= since)
    }

    /// Whether what happened at `pos` is shown to somebody of this membership then.
    fn is_shown(&self, visibility: HistoryVisibility, membership: &str, pos: StreamPos) -> bool {
        match visibility {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Shared => self.joined_until > pos,
            HistoryVisibility::Invited => membership == "invite",
            HistoryVisibility::Joined => false,
        }
    }
}

/// The membership that a member event replaced, as it tells itself; redacted ones do not.
fn told_before(member: &StoredEvent) -> Option<String> {
    #[derive(Deserialize)]
    struct Unsigned {
        prev_content: Option<Prev>,
    }
    #[derive(Deserialize)]
    struct Prev {
        membership: Option<String>,
    }
    let unsigned: Unsigned = serde_json::from_str(member.unsigned.as_deref()?).ok()?;
    Some(unsigned.prev_content?.membership.unwrap_or_else(|| "leave".to_owned()))
}

/// The membership that a member event replaced; `None` where there was none.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn membership_before(rooms: &RoomCache, member: &StoredEvent) -> Outcome<Option<String>> {
    let told = told_before(member);
    if told.is_some() {
        return Ok(told);
    }
    // A redaction takes the place of what was told.
    let (Some(group), Some(user), true) = (
        member.state_group,
        member.pdu.state_key.as_deref(),
        member.redacted_by.is_some(),
    ) else {
        return Ok(None);
    };
    let key = (Arc::from("m.room.member"), Arc::from(user));
    let before = rooms.state_events_at(group, &[key]).await?.pop().flatten();
    Ok(before.map(|event| event.pdu.membership().unwrap_or_else(|| "leave".to_owned())))
}

/// Where the user last ceased to be joined; 0 if it never was joined.
async fn last_departure(rooms: &RoomCache, room: &RoomSnapshot, user: &UserId) -> Outcome<StreamPos> {
    let rows = rooms.store().member_events(room.nid.0, user.as_str()).await?;
    let events = rooms.decode(rows).await?;
    let last = events.iter().rposition(|event| event.pdu.has_membership("join"));
    let departure = last.and_then(|at| events.get(at + 1)?.pos);
    Ok(departure.unwrap_or_default())
}

/// Whether the user sees the room as it was at a position, by the state there.
#[must_use]
pub fn sees_at(standing: Standing, pos: StreamPos, at: &At) -> bool {
    at.membership == "join" || standing.is_shown(at.visibility, &at.membership, pos)
}

/// Whether the user sees the event, by the state before it.
#[must_use]
pub fn sees(user: &UserId, standing: Standing, event: &StoredEvent, at: &At) -> bool {
    if standing.surely_sees(event) || at.membership == "join" {
        return true;
    }
    // The user's own membership event shows itself: it says nothing about others.
    if event.pdu.is_state("m.room.member", user.as_str()) {
        return true;
    }
    // A change of the visibility is shown to those who see either side of it.
    let is_change = event.pdu.is_state("m.room.history_visibility", "");
    let after = is_change.then(|| HistoryVisibility::of(Some(event)));
    let pos = event.pos.unwrap_or_default();
    [Some(at.visibility), after]
        .into_iter()
        .flatten()
        .any(|visibility| standing.is_shown(visibility, &at.membership, pos))
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
    let standing = Standing::find(rooms, room, user).await?;
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
/// never before it.
pub(in crate::room) fn standing_visibility(room: &RoomSnapshot, event: &StoredEvent) -> Option<HistoryVisibility> {
    let Some(set) = room.state_event("m.room.history_visibility", "") else {
        return Some(HistoryVisibility::Shared);
    };
    if set.pos? < event.pos? {
        return Some(HistoryVisibility::of(Some(set)));
    }
    // Nothing is known of what it replaced only where it replaced nothing, or where it was redacted.
    (set.unsigned.is_none() && set.redacted_by.is_none()).then_some(HistoryVisibility::Shared)
}

/// Since when, at the latest, a joined user has been joined, as far as the newest events tell. `member`: its member event.
fn joined_since(room: &RoomSnapshot, user: &UserId, member: &StoredEvent) -> StreamPos {
    let mut since = member.pos.unwrap_or_default();
    let own = |event: &&Arc<StoredEvent>| event.pdu.is_state("m.room.member", user.as_str());
    let mut changes = room.timeline.iter().rev().filter(own);
    let continued = |event: &StoredEvent| told_before(event).is_some_and(|before| before == "join");
    // A change of the profile goes on from where the user was.
    let mut oldest = member;
    if changes.next().is_some_and(|newest| newest.nid != member.nid) {
        return since;
    }
    while continued(oldest) {
        match changes.next() {
            Some(event) => (oldest, since) = (event, event.pos.unwrap_or(since)),
            None => {
                let front = room.timeline.front().and_then(|event| event.pos);
                return front.map_or(since, |front| front.min(since));
            }
        }
    }
    since
}

#[cfg(test)]
mod tests {
    use entities::ids::{EventNid, RoomNid};
    use ruma::{event_id, room_id, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::room::event::{Pdu, Status, ts};

    fn event(pos: i64, kind: &str, state_key: Option<&str>, content: &Value) -> StoredEvent {
        StoredEvent {
            nid: EventNid(pos),
            room_nid: RoomNid(1),
            pos: Some(StreamPos(pos)),
            state_group: None,
            status: Status::Accepted,
            redacted_by: None,
            txn: None,
            unsigned: None,
            pdu: Arc::new(Pdu {
                event_id: event_id!("$e").to_owned(),
                room_id: room_id!("!r:x").to_owned(),
                sender: user_id!("@a:x").to_owned(),
                kind: kind.into(),
                state_key: state_key.map(Into::into),
                origin_server_ts: ts(1),
                depth: 1,
                prev_events: vec![],
                auth_events: vec![],
                redacts: None,
                content: to_raw_value(content).expect("serializes"),
                json: Arc::from("{}"),
                rejected: false,
            }),
        }
    }

    fn at(visibility: HistoryVisibility, membership: &str) -> At {
        At {
            visibility,
            membership: membership.to_owned(),
        }
    }

    #[test]
    fn the_rules_of_the_specification() {
        use HistoryVisibility::{Invited, Joined, Shared, WorldReadable};
        let user = user_id!("@b:x");
        let message = event(5, "m.room.message", None, &json!({}));
        let later = Standing {
            joined_until: StreamPos(i64::MAX),
            joined_since: Some(StreamPos(9)),
        };
        let left = Standing {
            joined_until: StreamPos(4),
            joined_since: None,
        };
        for (standing, visibility, membership, expected) in [
            (Standing::STRANGER, WorldReadable, "leave", true),
            (Standing::STRANGER, Shared, "leave", false),
            (Standing::STRANGER, Invited, "invite", true),
            (Standing::STRANGER, Joined, "invite", false),
            (later, Shared, "leave", true),
            (later, Shared, "invite", true),
            (later, Invited, "leave", false),
            (later, Invited, "invite", true),
            (later, Joined, "invite", false),
            (left, Joined, "join", true),
            (left, Shared, "leave", false),
        ] {
            let seen = sees(user, standing, &message, &at(visibility, membership));
            assert_eq!(seen, expected, "{standing:?} {visibility:?} {membership}");
        }
    }

    #[test]
    fn either_side_of_a_change_of_visibility_shows_it() {
        let kind = "m.room.history_visibility";
        let user = user_id!("@b:x");
        let opening = event(5, kind, Some(""), &json!({ "history_visibility": "world_readable" }));
        let closing = event(5, kind, Some(""), &json!({ "history_visibility": "joined" }));
        let stranger = Standing::STRANGER;
        assert!(sees(user, stranger, &opening, &at(HistoryVisibility::Joined, "leave")));
        assert!(sees(
            user,
            stranger,
            &closing,
            &at(HistoryVisibility::WorldReadable, "leave")
        ));
        assert!(!sees(user, stranger, &closing, &at(HistoryVisibility::Shared, "leave")));
    }

    #[test]
    fn own_memberships_are_seen_and_those_of_others_not() {
        let leave = event(5, "m.room.member", Some("@b:x"), &json!({ "membership": "leave" }));
        let hidden = at(HistoryVisibility::Joined, "invite");
        assert!(sees(user_id!("@b:x"), Standing::STRANGER, &leave, &hidden));
        assert!(!sees(user_id!("@c:x"), Standing::STRANGER, &leave, &hidden));
    }
}
