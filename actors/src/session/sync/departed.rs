//! The block of a room the user left or was thrown out of: up to the departure.

use entities::ids::StreamPos;
use ruma::OwnedRoomId;

use super::filter::room_allowed;
use super::look::{Candidate, Look};
use super::render::Renderer;
use super::response::{Events, Left, SyncResponse, Timeline};
use super::state::{Delta, Known, delta};
use super::{Context, joined, timeline};
use crate::error::Outcome;
use crate::room::event::Status;
use crate::room::visibility::Standing;

/// The blocks of rooms that this server is not in: the event that ended an invite or a knock.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn elsewhere(cx: &Context<'_>, look: &Look, response: &mut SyncResponse) -> Outcome<()> {
    if look.ended.is_empty() {
        return Ok(());
    }
    let nids: Vec<_> = look.ended.iter().map(|ended| ended.event).collect();
    let events = cx.env.rooms.events(&nids).await?;
    let renderer = Renderer::of(cx);
    for ended in &look.ended {
        let Ok(room_id) = OwnedRoomId::try_from(ended.room_id.as_str()) else {
            continue;
        };
        if !room_allowed(&cx.args.filter, &room_id) {
            continue;
        }
        let event: Vec<_> = events.get(&ended.event).cloned().into_iter().collect();
        let timeline = Timeline {
            events: renderer.state(&event),
            ..Timeline::default()
        };
        let left = Left {
            timeline,
            ..Left::default()
        };
        response.rooms.leave.insert(room_id, left);
    }
    Ok(())
}

/// The block, or `None` where the filter leaves the room out. Whoever never was in the room (a rejected invite, a ban)
/// learns of its own membership, and otherwise what is for everybody's eyes.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn block(cx: &Context<'_>, room: &Candidate, look: &Look) -> Outcome<Option<Left>> {
    let snapshot = &room.snapshot;
    if !room_allowed(&cx.args.filter, &snapshot.room_id) {
        return Ok(None);
    }
    let since = cx.args.since.filter(|_| room.stay.before);
    let mut slice = timeline::slice(cx, snapshot, since.unwrap_or(StreamPos(i64::MIN)), room.own.pos).await?;
    slice.hide(cx, snapshot).await?;
    let own = snapshot.state_event("m.room.member", cx.args.user.as_str());
    // What happened to the user after everybody here had left is part of no timeline.
    if let Some(own) = own.filter(|own| own.status == Status::Outlier && own.pos == Some(room.own.pos)) {
        slice.events.push(own.clone());
    }
    // Who was joined knew the state until then, also if a ban came after the departure.
    let standing = Standing::find(&cx.env.rooms, snapshot, &cx.args.user).await?;
    let known_until = standing.joined_until.min(room.own.pos);
    let state = if standing.was_ever_joined() {
        let question = Delta {
            room: snapshot,
            slice: &slice,
            known: match since {
                Some(since) if !cx.args.full_state => Known::Upto(since),
                _ => Known::Nothing,
            },
            upto: known_until,
            heroes: &[],
        };
        delta(cx, &question).await?
    } else {
        Vec::new()
    };
    let renderer = Renderer::of(cx);
    let (state, state_after) = Events::before_or_after(renderer.state(&state), cx.args.use_state_after);
    Ok(Some(Left {
        timeline: Timeline {
            events: renderer.timeline(cx, room, &slice).await?,
            limited: slice.limited,
            prev_batch: Some(slice.prev_batch()),
        },
        state,
        state_after,
        account_data: joined::account_data(cx, room, look),
    }))
}
