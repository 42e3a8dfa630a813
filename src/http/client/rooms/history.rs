//! Reading a room's history: single events, pages, surroundings, by time.

use std::collections::BTreeSet;
use std::sync::Arc;

use actors::error::{DomainError, Outcome};
use actors::flows::backfill;
use actors::flows::by_time;
use actors::room::event::StoredEvent;
use actors::room::read::{self, PageQuery};
use actors::room::snapshot::StateKey;
use actors::room::visibility::filter_visible;
use actors::stream::token::Token;
use ruma::OwnedEventId;
use ruma::api::Direction;
use ruma::api::client::context::get_context;
use ruma::api::client::filter::{LazyLoadOptions, RoomEventFilter};
use ruma::api::client::message::get_message_events;
use ruma::api::client::room::{get_event_by_timestamp, get_room_event};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Reading, count};
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// The most events around one.
const MAX_CONTEXT: usize = 100;

pub(super) fn routes(table: &mut Table) {
    table.guest::<get_room_event::v3::Request, _>(event);
    table.guest::<get_message_events::v3::Request, _>(messages);
    table.guest::<get_context::v3::Request, _>(context);
    table.guest::<get_event_by_timestamp::v1::Request, _>(by_time);
}

async fn event(ctx: Ctx, request: get_room_event::v3::Request) -> Outcome<Reply> {
    let missing = || DomainError::not_found("event not found");
    // Whoever may not read the room learns as little as about an event that does not exist.
    let reading = Reading::open(&ctx, &request.room_id)
        .await
        .map_err(|e| match e.errcode() {
            Some("M_FORBIDDEN") => missing(),
            _ => e,
        })?;
    let event = read::event(ctx.hub.env(), &reading.access, &request.event_id).await?;
    let rendered = reading.render(&[event]).await?;
    Reply::json(&rendered[0])
}

#[derive(Serialize)]
struct Messages {
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: Vec<Box<RawValue>>,
}

async fn messages(ctx: Ctx, request: get_message_events::v3::Request) -> Outcome<Reply> {
    let mut reading = Reading::open(&ctx, &request.room_id).await?;
    let query = PageQuery {
        from: request.from.as_deref().map(Token::parse).transpose()?,
        to: request.to.as_deref().map(Token::parse).transpose()?,
        backwards: request.dir == Direction::Backward,
        limit: count(request.limit),
        filter: &request.filter,
    };
    let mut page = backfill::page(&ctx.hub, &mut reading.access, &query).await?;
    reading.without_ignored(&mut page.events);
    let state = members_of_senders(&reading, &request.filter, &page.events).await?;
    Reply::json(&Messages {
        start: page.start.to_string(),
        end: page.end.map(|end| end.to_string()),
        chunk: reading.render(&page.events).await?,
        state: reading.render_state(&state),
    })
}

/// The member events of those who sent the events, where the filter loads members lazily: as they were before the first
/// event, or else as they are now.
async fn members_of_senders(
    reading: &Reading<'_>,
    filter: &RoomEventFilter,
    events: &[Arc<StoredEvent>],
) -> Outcome<Vec<Arc<StoredEvent>>> {
    let lazy = !matches!(filter.lazy_load_options, LazyLoadOptions::Disabled);
    let Some(group) = events.first().filter(|_| lazy).and_then(|event| event.state_group) else {
        return Ok(Vec::new());
    };
    let senders: BTreeSet<&str> = events.iter().map(|event| event.pdu.sender.as_str()).collect();
    let kind: Arc<str> = Arc::from("m.room.member");
    let keys: Vec<StateKey> = senders
        .into_iter()
        .map(|sender| (kind.clone(), Arc::from(sender)))
        .collect();
    let found = reading.ctx.hub.env().rooms.state_events_at(group, &keys).await?;
    let now = |key: &StateKey| reading.access.room.state_event(&key.0, &key.1).cloned();
    Ok(keys
        .iter()
        .zip(found)
        .filter_map(|(key, event)| event.or_else(|| now(key)))
        .collect())
}

#[derive(Serialize)]
struct Context {
    start: Option<String>,
    end: Option<String>,
    events_before: Vec<Box<RawValue>>,
    event: Box<RawValue>,
    events_after: Vec<Box<RawValue>>,
    state: Vec<Box<RawValue>>,
}

async fn context(ctx: Ctx, request: get_context::v3::Request) -> Outcome<Reply> {
    let mut reading = Reading::open(&ctx, &request.room_id).await?;
    let limit = count(request.limit).min(MAX_CONTEXT);
    let access = &mut reading.access;
    let mut around = backfill::surroundings(&ctx.hub, access, &request.event_id, limit, &request.filter).await?;
    reading.without_ignored(&mut around.before.events);
    reading.without_ignored(&mut around.after.events);
    let mut shown = around.before.events.clone();
    shown.push(around.event.clone());
    shown.extend(around.after.events.iter().cloned());
    if !matches!(request.filter.lazy_load_options, LazyLoadOptions::Disabled) {
        let needed = |event: &Arc<StoredEvent>| {
            let member = event.pdu.kind == ruma::events::TimelineEventType::RoomMember;
            !member
                || shown
                    .iter()
                    .any(|shown| event.pdu.state_key.as_deref() == Some(shown.pdu.sender.as_str()))
        };
        around.state.retain(needed);
    }
    let mut rendered = reading.render(&shown).await?;
    let events_after = rendered.split_off(around.before.events.len() + 1);
    let event = rendered
        .pop()
        .ok_or_else(|| DomainError::internal("the event was not rendered"))?;
    Reply::json(&Context {
        start: around.before.end.map(|token| token.to_string()),
        end: around.after.end.map(|token| token.to_string()),
        events_before: rendered,
        event,
        events_after,
        state: reading.render_state(&around.state),
    })
}

async fn by_time(ctx: Ctx, request: get_event_by_timestamp::v1::Request) -> Outcome<Reply> {
    #[derive(Serialize)]
    struct Answer {
        event_id: OwnedEventId,
        origin_server_ts: i64,
    }
    let reading = Reading::open(&ctx, &request.room_id).await?;
    let env = ctx.hub.env();
    let backwards = request.dir == Direction::Backward;
    let nid = reading.access.room.nid.0;
    let missing = || DomainError::not_found("there is no event at that time in that direction");
    let row = env
        .store
        .event_near_ts(nid, request.ts.get().into(), backwards, reading.upto().0)
        .await?;
    let found = env.rooms.decode(row.into_iter().collect()).await?;
    let seen = filter_visible(&env.rooms, &reading.viewer.user, &reading.access.room, found).await?;
    let own = seen.first().map(|event| {
        let at = i64::from(event.pdu.origin_server_ts.get());
        (event.pdu.event_id.clone(), at)
    });
    let at = own.as_ref().map(|(_, at)| *at);
    let closer = if reading.access.joined {
        by_time::elsewhere(&ctx.hub, &reading.access.room, request.ts, backwards, at).await?
    } else {
        None
    };
    let closer = match closer {
        Some((event_id, at)) if is_to_be_seen(&reading, &event_id).await? => Some((event_id, at)),
        _ => None,
    };
    let (event_id, origin_server_ts) = closer.or(own).ok_or_else(missing)?;
    Reply::json(&Answer {
        event_id,
        origin_server_ts,
    })
}

/// Fetches an event that another server knows of. One that does not come may be seen for all that is known; one that does is
/// looked at like any other.
async fn is_to_be_seen(reading: &Reading<'_>, event_id: &ruma::EventId) -> Outcome<bool> {
    let (hub, room) = (&reading.ctx.hub, &reading.access.room);
    if !backfill::reach(hub, &room.room_id, event_id).await? {
        return Ok(true);
    }
    let rooms = &hub.env().rooms;
    let event = rooms.event_by_id(event_id).await?;
    let room = hub.rooms().existing(&room.room_id).await?;
    let seen = filter_visible(rooms, &reading.viewer.user, &room, event.into_iter().collect()).await?;
    Ok(!seen.is_empty())
}
