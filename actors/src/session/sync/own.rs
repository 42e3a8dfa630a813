//! The user's own membership of a room, as of a position and over a range.

use std::sync::Arc;

use entities::ids::StreamPos;
use ruma::{OwnedUserId, UserId};

use super::{Context, state, tail_covers};
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;
use crate::room::visibility::membership_before;

/// A membership as of some position.
#[derive(Clone, Debug)]
pub struct Own {
    /// `leave` where there is none.
    pub membership: String,
    /// The member event's position, 0 without one.
    pub pos: StreamPos,
    /// Who sent it.
    pub sender: Option<OwnedUserId>,
}

impl Own {
    fn of(event: Option<&Arc<StoredEvent>>) -> Self {
        let membership = event.and_then(|event| event.pdu.membership());
        Self {
            membership: membership.unwrap_or_else(|| "leave".to_owned()),
            pos: event.and_then(|event| event.pos).unwrap_or_default(),
            sender: event.map(|event| event.pdu.sender.clone()),
        }
    }

    /// The user's membership after everything up to `upto`.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn upto(cx: &Context<'_>, room: &RoomSnapshot, upto: StreamPos) -> Outcome<Self> {
        let user: &UserId = &cx.args.user;
        let newest = room.state_event("m.room.member", user.as_str());
        if newest.is_none_or(|event| event.pos.is_none_or(|pos| pos <= upto)) {
            return Ok(Self::of(newest));
        }
        let group = state::group_upto(cx, room, upto).await?;
        let key = (Arc::from("m.room.member"), Arc::from(user.as_str()));
        let found = cx.env.rooms.state_events_at(group, &[key]).await?.pop().flatten();
        Ok(Self::of(found.as_ref()))
    }
}

/// How the user was joined over `(since, upto]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    /// Joined as of `since`.
    pub before: bool,
    /// Joined at some time of the range or before it.
    pub ever: bool,
    /// Not joined at some time of the range or before it.
    pub away: bool,
}

/// Follows the user's member events of the range. `newest`: the membership at its end.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn stay(cx: &Context<'_>, room: &RoomSnapshot, since: StreamPos, newest: &Own) -> Outcome<Stay> {
    let joined = newest.membership == "join";
    if newest.pos <= since {
        return Ok(Stay {
            before: joined,
            ever: joined,
            away: !joined,
        });
    }
    let events = changes(cx, room, since, newest.pos).await?;
    let before = match events.first() {
        Some(first) => membership_before(&cx.env.rooms, first).await?.as_deref() == Some("join"),
        // The membership changed without an event of its own: state resolution.
        None => Own::upto(cx, room, since).await?.membership == "join",
    };
    let joins = events.iter().filter(|event| event.pdu.has_membership("join")).count();
    Ok(Stay {
        before,
        ever: before || joins > 0 || joined,
        away: !before || joins < events.len() || !joined,
    })
}

/// The user's member events of a range, oldest first.
async fn changes(
    cx: &Context<'_>,
    room: &RoomSnapshot,
    since: StreamPos,
    upto: StreamPos,
) -> Outcome<Vec<Arc<StoredEvent>>> {
    let user = cx.args.user.as_str();
    let own = |event: &Arc<StoredEvent>| event.is_between(since, upto) && event.pdu.is_state("m.room.member", user);
    if tail_covers(room, since) {
        return Ok(room.timeline.iter().filter(|event| own(event)).cloned().collect());
    }
    let rows = cx.env.store.member_events(room.nid.0, user).await?;
    let mut events = cx.env.rooms.decode(rows).await?;
    events.retain(own);
    Ok(events)
}
