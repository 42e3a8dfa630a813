//! The block of a room the user is joined to.

use std::sync::Arc;

use entities::ids::StreamPos;
use ruma::events::TimelineEventType;
use serde_json::value::RawValue;

use super::Context;
use super::ephemeral::{receipts_event, typing_event};
use super::filter::{room_allowed, section_allows_room, type_allowed};
use super::look::{Candidate, Look};
use super::render::Renderer;
use super::response::{Events, Joined, Timeline};
use super::state::{Delta, Known, delta};
use super::summary::summarise;
use super::timeline::{self, Slice};
use crate::error::Outcome;
use crate::room::event::StoredEvent;

/// From where on the room is shown; `None` where it is new to the client: as in a first sync, but for what its user may not
/// see.
fn since(cx: &Context<'_>, room: &Candidate) -> Option<StreamPos> {
    cx.args.since.filter(|_| !room.is_new())
}

/// The timeline, or `None` where the filter leaves the room out.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn slice(cx: &Context<'_>, room: &Candidate) -> Outcome<Option<Slice>> {
    let snapshot = &room.snapshot;
    if !room_allowed(&cx.args.filter, &snapshot.room_id) {
        return Ok(None);
    }
    let since = since(cx, room);
    let mut slice = timeline::slice(cx, snapshot, since.unwrap_or(StreamPos(i64::MIN)), cx.upto).await?;
    if since.is_none() {
        slice.hide(cx, snapshot).await?;
        slice.limited |= cx.args.since.is_some();
    }
    Ok(Some(slice))
}

/// The block, or `None` where there is nothing to tell.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn block(cx: &Context<'_>, room: &Candidate, slice: Option<Slice>, look: &Look) -> Outcome<Option<Joined>> {
    let (snapshot, since) = (&room.snapshot, since(cx, room));
    let Some(slice) = slice else { return Ok(None) };
    let names = |event: &Arc<StoredEvent>| names_the_room(event);
    let renamed = room.change.event && (!slice.tells_all || slice.events.iter().chain(&slice.dropped).any(names));
    let summary = if since.is_none() || cx.args.full_state || renamed {
        summarise(snapshot, &cx.args.user)
    } else {
        Default::default()
    };
    let state = delta(
        cx,
        &Delta {
            room: snapshot,
            slice: &slice,
            known: match since {
                Some(since) if !cx.args.full_state => Known::Upto(since),
                None if room.stay.before => Known::Outdated(cx.args.since.unwrap_or_default()),
                _ => Known::Nothing,
            },
            upto: cx.upto,
            heroes: summary.heroes.as_deref().unwrap_or_default(),
        },
    )
    .await?;
    let renderer = Renderer::of(cx);
    let (state, state_after) = Events::before_or_after(renderer.state(&state), cx.args.use_state_after);
    let mut block = Joined {
        timeline: Timeline {
            events: renderer.timeline(cx, room, &slice).await?,
            limited: slice.limited,
            prev_batch: Some(slice.prev_batch()),
        },
        state,
        state_after,
        account_data: account_data(cx, room, look),
        ephemeral: ephemeral(cx, room, look, since.is_none()),
        summary,
        ..Joined::default()
    };
    if since.is_some() && room.change.receipts.is_empty() && is_quiet(&block) {
        return Ok(None);
    }
    let threads = cx.args.filter.room.timeline.unread_thread_notifications;
    let counts = cx.env.unread.counts(cx, room, look, threads).await?;
    block.unread_notifications = counts.room;
    block.unread_thread_notifications = counts.threads;
    Ok(Some(block))
}

/// Whether a room's name may have become another with this event.
fn names_the_room(event: &StoredEvent) -> bool {
    let named = matches!(
        event.pdu.kind,
        TimelineEventType::RoomMember | TimelineEventType::RoomName | TimelineEventType::RoomCanonicalAlias
    );
    named && event.pdu.state_key.is_some()
}

fn is_quiet(block: &Joined) -> bool {
    block.timeline.events.is_empty()
        && !block.timeline.limited
        && block.state.as_ref().is_none_or(Events::is_empty)
        && block.state_after.as_ref().is_none_or(Events::is_empty)
        && block.account_data.is_empty()
        && block.ephemeral.is_empty()
        && block.summary == Default::default()
}

/// The room's account data that changed.
pub(super) fn account_data(cx: &Context<'_>, room: &Candidate, look: &Look) -> Events {
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
    let nid = room.snapshot.nid;
    let wanted = |kind| type_allowed(filter.types.as_deref(), &filter.not_types, kind);
    if !section_allows_room(filter, &room.snapshot.room_id) {
        return Events::default();
    }
    if wanted("m.receipt") {
        let all = look.receipts.get(&nid).map_or(&[][..], Vec::as_slice);
        let shown = if from_scratch { all } else { &room.change.receipts };
        events.extend(receipts_event(shown, &cx.args.user, &cx.view.ignored));
    }
    if wanted("m.typing") {
        let typing = cx.env.rooms.typing().in_room(nid).0;
        if room.change.typing || from_scratch && !typing.is_empty() {
            events.extend(typing_event(&typing, &cx.view.ignored));
        }
    }
    Events { events }
}
