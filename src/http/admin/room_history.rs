//! The history of any room, whatever its visibility: pages, surroundings, by time, single events, spaces.

use actors::error::{DomainError, Outcome};
use actors::flows::backfill;
use actors::flows::spaces::{self, Walk};
use actors::room::read::{self, PageQuery};
use actors::stream::token::Token;
use http::Method;
use ruma::api::client::filter::RoomEventFilter;
use ruma::{EventId, OwnedRoomId, RoomId};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::params::{flag, number, room_id};
use super::rooms::{existing, rendered};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Events of one page where the request does not say, and at most.
const PAGE: i64 = 10;
const MAX_PAGE: i64 = 500;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/rooms/{room_id}/messages",
        admin,
        messages,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/rooms/{room_id}/context/{event_id}",
        admin,
        context,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/rooms/{room_id}/timestamp_to_event",
        admin,
        by_time,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/rooms/{room_id}/hierarchy",
        admin,
        hierarchy,
    );
    t.raw(Method::GET, "/_synapse/admin/v1/fetch_event/{event_id}", admin, event);
}

fn limit(ctx: &Ctx) -> Outcome<usize> {
    let limit = number(ctx, "limit", PAGE)?.min(MAX_PAGE);
    Ok(usize::try_from(limit).unwrap_or(0))
}

fn filter(ctx: &Ctx) -> Outcome<RoomEventFilter> {
    match ctx.request.query_param("filter") {
        None => Ok(RoomEventFilter::default()),
        Some(text) => serde_json::from_str(&text).map_err(|e| DomainError::invalid_param(format!("filter: {e}"))),
    }
}

fn backwards(ctx: &Ctx, default: bool) -> Outcome<bool> {
    match ctx.request.query_param("dir").as_deref() {
        None => Ok(default),
        Some("f") => Ok(false),
        Some("b") => Ok(true),
        Some(_) => Err(DomainError::invalid_param("dir must be f or b")),
    }
}

async fn everything(ctx: &Ctx, room_id: &RoomId) -> Outcome<read::Access> {
    read::everything(ctx.hub.env(), &ctx.user()?.user_id, room_id).await
}

fn all(ctx: &Ctx, events: &[std::sync::Arc<actors::room::event::StoredEvent>]) -> Outcome<Vec<Box<RawValue>>> {
    events.iter().map(|event| rendered(ctx, event)).collect()
}

async fn messages(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = room_id(&request, 0)?;
    let token = |name: &str| {
        ctx.request
            .query_param(name)
            .map(|text| Token::parse(&text))
            .transpose()
    };
    let filter = filter(&ctx)?;
    let query = PageQuery {
        from: token("from")?,
        to: token("to")?,
        backwards: backwards(&ctx, false)?,
        limit: limit(&ctx)?,
        filter: &filter,
    };
    let access = everything(&ctx, &room_id).await?;
    let page = read::page(ctx.hub.env(), &access, &query).await?;
    let mut answer = json!({ "start": page.start.to_string(), "chunk": all(&ctx, &page.events)? });
    if let Some(end) = page.end {
        answer["end"] = end.to_string().into();
    }
    Reply::json(&answer)
}

async fn context(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = room_id(&request, 0)?;
    let event_id = event_id(&request, 1)?;
    let (filter, limit) = (filter(&ctx)?, limit(&ctx)?);
    let mut access = everything(&ctx, &room_id).await?;
    let around = backfill::surroundings(&ctx.hub, &mut access, &event_id, limit, &filter).await?;
    Reply::json(&json!({
        "start": around.before.end.map(|token| token.to_string()),
        "end": around.after.end.map(|token| token.to_string()),
        "events_before": all(&ctx, &around.before.events)?,
        "event": rendered(&ctx, &around.event)?,
        "events_after": all(&ctx, &around.after.events)?,
        "state": all(&ctx, &around.state)?,
    }))
}

fn event_id(request: &RawRequest, at: usize) -> Outcome<ruma::OwnedEventId> {
    let text = request.arg(at)?;
    EventId::parse(text).map_err(|e| DomainError::invalid_param(format!("invalid event id {text:?}: {e}")))
}

async fn by_time(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = room_id(&request, 0)?;
    if ctx.request.query_param("ts").is_none() {
        return Err(DomainError::missing_param("ts is missing"));
    }
    let (ts, backwards) = (number(&ctx, "ts", 0)?, backwards(&ctx, false)?);
    let room = existing(&ctx, &room_id).await?;
    let env = ctx.hub.env();
    let upto = env.visible().0;
    let row = env.store.event_near_ts(room.nid.0, ts, backwards, upto).await?;
    let row = row.ok_or_else(|| DomainError::not_found("there is no event at that time in that direction"))?;
    Reply::json(&json!({ "event_id": row.event_id, "origin_server_ts": row.origin_server_ts }))
}

/// The tree of a space as the administrator may see it, and as far as this server knows the rooms.
async fn hierarchy(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = room_id(&request, 0)?;
    existing(&ctx, &room_id).await?;
    let from = ctx.request.query_param("from");
    let depth = number(&ctx, "max_depth", i64::MAX)?;
    let walk = Walk {
        root: &room_id,
        user: &ctx.user()?.user_id,
        everything: true,
        suggested_only: flag(&ctx, "suggested_only")?.unwrap_or(false),
        max_depth: Some(usize::try_from(depth).unwrap_or(usize::MAX)).filter(|_| depth < i64::MAX),
        limit: usize::try_from(number(&ctx, "limit", 50)?).unwrap_or(50),
        from: from.as_deref(),
    };
    let (rooms, next) = spaces::walk(&ctx.hub, &walk).await?;
    let mut answer = json!({ "rooms": rooms });
    if let Some(next) = next {
        answer["next_batch"] = next.into();
    }
    Reply::json(&answer)
}

/// Any event, rejected ones too.
async fn event(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let event_id = event_id(&request, 0)?;
    let event = ctx.hub.env().rooms.event_by_id(&event_id).await?;
    let event = event.ok_or_else(|| DomainError::not_found("Event not found"))?;
    let mut shown: Value = serde_json::from_str(rendered(&ctx, &event)?.get())
        .map_err(|e| DomainError::internal(format!("event {event_id}: {e}")))?;
    shown["status"] = format!("{:?}", event.status).into();
    Reply::json(&json!({ "event": shown }))
}
