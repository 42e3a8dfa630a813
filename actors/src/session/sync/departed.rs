//! The block of a room the user left or was thrown out of: up to the departure.

use entities::ids::StreamPos;

use super::filter::{section_allows_room, timeline_limit};
use super::look::{Candidate, Look};
use super::response::{Events, Left, Timeline};
use super::state::{Known, delta};
use super::{Context, timeline};
use crate::error::Outcome;
use crate::room::render::{Extras, RoomIdField, client_event};

/// The block, or `None` where the user was never in the room (a rejected invite shows its own leave event).
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn block(cx: &Context<'_>, room: &Candidate, _look: &Look, upto: StreamPos) -> Outcome<Option<Left>> {
    let snapshot = &room.snapshot;
    let since = cx.args.since.unwrap_or_default();
    let until = room.member_pos.min(upto);
    let (membership, _) = super::membership_upto(cx, snapshot, &cx.args.user, since).await?;
    let was_joined = cx.args.since.is_some() && membership == "join";
    let filter = &cx.args.filter.room.timeline;
    let lower = if was_joined { since } else { StreamPos(i64::MIN) };
    let mut slice = if section_allows_room(filter, &snapshot.room_id) {
        timeline::slice(cx, snapshot, lower, until, filter, timeline_limit(filter)).await?
    } else {
        timeline::Slice::default()
    };
    slice.events = cx.visible(snapshot, slice.events).await?;
    let known = if was_joined && !cx.args.full_state {
        Known::Upto(since)
    } else {
        Known::Nothing
    };
    // Who was never a member sees no state.
    let sees_state = was_joined || slice.events.iter().any(|event| event.pos != Some(room.member_pos));
    let state = if sees_state {
        delta(cx, snapshot, &slice, known, until, cx.args.use_state_after).await?
    } else {
        Vec::new()
    };
    let viewer = cx.viewer();
    let render = |event: &_| client_event(event, &viewer, RoomIdField::Omitted, Extras::default());
    let state = Events {
        events: state.iter().map(|event| render(event)).collect(),
    };
    let (state, state_after) = if cx.args.use_state_after {
        (None, Some(state))
    } else {
        (Some(state), None)
    };
    Ok(Some(Left {
        timeline: Timeline {
            events: slice.events.iter().map(|event| render(event)).collect(),
            limited: slice.limited,
            prev_batch: Some(slice.prev_batch(since)),
        },
        state,
        state_after,
        account_data: Events::default(),
    }))
}
