//! The block of a room the user is joined to.

use entities::ids::StreamPos;
use serde_json::value::RawValue;

use super::ephemeral::{receipts_event, typing_event};
use super::filter::{section_allows_room, timeline_limit, type_allowed};
use super::look::{Candidate, Look};
use super::response::{Events, Joined, Timeline};
use super::state::{Known, delta};
use super::summary::summarise;
use super::{Context, timeline};
use crate::error::Outcome;
use crate::room::bundle;
use crate::room::render::{Extras, RoomIdField, client_event};

/// The block, or `None` where there is nothing to tell.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn block(cx: &Context<'_>, room: &Candidate, look: &Look, upto: StreamPos) -> Outcome<Option<Joined>> {
    let snapshot = &room.snapshot;
    let since = cx.args.since.unwrap_or_default();
    // Newly joined: the room is shown as in a first sync. A changed profile is a member event too, so look behind it.
    let newly = cx.args.since.is_some() && room.member_pos > since && !was_joined(cx, room, since).await?;
    let from_scratch = cx.args.since.is_none() || newly;
    let known = if from_scratch || cx.args.full_state {
        Known::Nothing
    } else {
        Known::Upto(since)
    };
    let filter = &cx.args.filter.room.timeline;
    let lower = if from_scratch { StreamPos(i64::MIN) } else { since };
    let mut slice = if section_allows_room(filter, &snapshot.room_id) {
        timeline::slice(cx, snapshot, lower, upto, filter, timeline_limit(filter)).await?
    } else {
        timeline::Slice::default()
    };
    if from_scratch {
        slice.events = cx.visible(snapshot, slice.events).await?;
        slice.limited |= newly;
    }
    let state = if section_allows_room(&cx.args.filter.room.state, &snapshot.room_id) {
        delta(cx, snapshot, &slice, known, upto, cx.args.use_state_after).await?
    } else {
        Vec::new()
    };
    let viewer = cx.viewer();
    let render = |event: &_| client_event(event, &viewer, RoomIdField::Omitted, Extras::default());
    let state = Events {
        events: state.iter().map(|event| render(event)).collect(),
    };
    let reader = bundle::Reader {
        env: cx.env,
        viewer: &viewer,
        ignored: &cx.view.ignored,
        upto,
    };
    let events = bundle::client_events(reader, snapshot, &slice.events, RoomIdField::Omitted).await?;
    let members_moved =
        from_scratch || slice.limited || slice.events.iter().any(|e| e.pdu.kind.to_string() == "m.room.member");
    let (state, state_after) = if cx.args.use_state_after {
        (None, Some(state))
    } else {
        (Some(state), None)
    };
    let mut block = Joined {
        timeline: Timeline {
            events,
            limited: slice.limited,
            prev_batch: Some(slice.prev_batch(since)),
        },
        state,
        state_after,
        account_data: account_data(cx, room, look),
        ephemeral: ephemeral(cx, room, look, from_scratch),
        ..Joined::default()
    };
    if members_moved {
        block.summary = summarise(snapshot, &cx.args.user);
    }
    if is_quiet(&block) && !from_scratch && !room.change.receipt {
        return Ok(None);
    }
    let threads = cx.args.filter.room.timeline.unread_thread_notifications;
    let receipts = look.all_receipts(cx, room);
    let counts = cx.env.unread.counts(cx, room, receipts, upto, threads).await?;
    block.unread_notifications = counts.room;
    block.unread_thread_notifications = counts.threads;
    Ok(Some(block))
}

fn is_quiet(block: &Joined) -> bool {
    block.timeline.events.is_empty()
        && !block.timeline.limited
        && block.state.as_ref().is_none_or(Events::is_empty)
        && block.state_after.as_ref().is_none_or(Events::is_empty)
        && block.account_data.is_empty()
        && block.ephemeral.is_empty()
}

/// Whether the user was joined at `since` already.
pub(super) async fn was_joined(cx: &Context<'_>, room: &Candidate, since: StreamPos) -> Outcome<bool> {
    let (membership, _) = super::membership_upto(cx, &room.snapshot, &cx.args.user, since).await?;
    if membership != "join" {
        return Ok(false);
    }
    // Left and came back in between: events of the absence are not for this user.
    let changes = cx
        .env
        .store
        .member_changes_of_user(cx.args.user.as_str(), since.0, room.member_pos.0)
        .await?;
    let away = |row: &entities::event::Model| row.room_nid == room.snapshot.nid.0 && !row.json.contains("\"join\"");
    Ok(!changes.iter().any(away))
}

fn account_data(cx: &Context<'_>, room: &Candidate, look: &Look) -> Events {
    let filter = &cx.args.filter.room.account_data;
    let rows = look.room_data.get(room.snapshot.room_id.as_str());
    let rows = rows.filter(|_| section_allows_room(filter, &room.snapshot.room_id));
    let wanted =
        |row: &&entities::account_data::Model| type_allowed(filter.types.as_deref(), &filter.not_types, &row.r#type);
    Events {
        events: rows
            .into_iter()
            .flatten()
            .filter(wanted)
            .filter_map(super::global::data_event)
            .collect(),
    }
}

fn ephemeral(cx: &Context<'_>, room: &Candidate, look: &Look, from_scratch: bool) -> Events {
    let filter = &cx.args.filter.room.ephemeral;
    let mut events: Vec<Box<RawValue>> = Vec::new();
    if !section_allows_room(filter, &room.snapshot.room_id) {
        return Events::default();
    }
    let wanted = |kind| type_allowed(filter.types.as_deref(), &filter.not_types, kind);
    if wanted("m.receipt")
        && let Some(rows) = look.receipts.get(&room.snapshot.nid)
    {
        events.extend(receipts_event(rows, &cx.args.user, &cx.view.ignored));
    }
    if wanted("m.typing") {
        let typing = cx.env.rooms.typing().in_room(room.snapshot.nid).0;
        if room.change.typing || from_scratch && !typing.is_empty() {
            events.extend(typing_event(&typing, &cx.view.ignored));
        }
    }
    Events { events }
}
