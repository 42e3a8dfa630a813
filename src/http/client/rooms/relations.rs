//! Related events and threads (client-server API, "Relationships API" and "Threading").

use actors::error::Outcome;
use actors::room::relations::{self, MAX_DEPTH, Query, Threads};
use actors::stream::token::Token;
use ruma::api::Direction;
use ruma::api::client::relations::{
    get_relating_events, get_relating_events_with_rel_type, get_relating_events_with_rel_type_and_event_type,
};
use ruma::api::client::threads::get_threads::v1::{self as threads_api, IncludeThreads};
use ruma::{OwnedEventId, OwnedRoomId, UInt};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Reading, count};
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// How many events are answered where the client does not say.
const DEFAULT_PAGE: usize = 20;

pub(super) fn routes(table: &mut Table) {
    table.user::<get_relating_events::v1::Request, _>(all);
    table.user::<get_relating_events_with_rel_type::v1::Request, _>(of_kind);
    table.user::<get_relating_events_with_rel_type_and_event_type::v1::Request, _>(of_kind_and_type);
    table.user::<threads_api::Request, _>(threads);
}

/// The three requests in one shape.
struct Ask {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    rel_type: Option<String>,
    event_type: Option<String>,
    from: Option<String>,
    to: Option<String>,
    dir: Direction,
    limit: Option<UInt>,
    recurse: bool,
}

#[derive(Serialize)]
struct Answer {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recursion_depth: Option<u32>,
}

macro_rules! ask {
    ($request:ident, $rel_type:expr, $event_type:expr) => {
        Ask {
            rel_type: $rel_type,
            event_type: $event_type,
            room_id: $request.room_id,
            event_id: $request.event_id,
            from: $request.from,
            to: $request.to,
            dir: $request.dir,
            limit: $request.limit,
            recurse: $request.recurse,
        }
    };
}

async fn all(ctx: Ctx, request: get_relating_events::v1::Request) -> Outcome<Reply> {
    answer(&ctx, ask!(request, None, None)).await
}

async fn of_kind(ctx: Ctx, request: get_relating_events_with_rel_type::v1::Request) -> Outcome<Reply> {
    answer(&ctx, ask!(request, Some(request.rel_type.to_string()), None)).await
}

async fn of_kind_and_type(
    ctx: Ctx,
    request: get_relating_events_with_rel_type_and_event_type::v1::Request,
) -> Outcome<Reply> {
    let (rel_type, event_type) = (request.rel_type.to_string(), request.event_type.to_string());
    answer(&ctx, ask!(request, Some(rel_type), Some(event_type))).await
}

async fn answer(ctx: &Ctx, ask: Ask) -> Outcome<Reply> {
    let reading = Reading::open(ctx, &ask.room_id).await?;
    let query = Query {
        event_id: &ask.event_id,
        rel_type: ask.rel_type.as_deref(),
        event_type: ask.event_type.as_deref(),
        from: ask.from.as_deref().map(Token::parse).transpose()?,
        to: ask.to.as_deref().map(Token::parse).transpose()?,
        backwards: ask.dir == Direction::Backward,
        limit: ask.limit.map_or(DEFAULT_PAGE, count),
        recurse: ask.recurse,
    };
    let (mut events, next) = relations::page(ctx.hub.env(), &reading.access, &query).await?;
    reading.without_ignored(&mut events);
    Reply::json(&Answer {
        chunk: reading.render(&events).await?,
        next_batch: next.map(|token| token.to_string()),
        prev_batch: ask.from,
        recursion_depth: ask.recurse.then_some(MAX_DEPTH),
    })
}

async fn threads(ctx: Ctx, request: threads_api::Request) -> Outcome<Reply> {
    let reading = Reading::open(&ctx, &request.room_id).await?;
    let query = Threads {
        from: request.from.as_deref().map(Token::parse).transpose()?,
        participated: request.include == IncludeThreads::Participated,
        limit: request.limit.map_or(DEFAULT_PAGE, count),
        ignored: &reading.ignored,
    };
    let (roots, next) = relations::threads(ctx.hub.env(), &reading.access, &query).await?;
    Reply::json(&Answer {
        chunk: reading.render(&roots).await?,
        next_batch: next.map(|token| token.to_string()),
        prev_batch: None,
        recursion_depth: None,
    })
}
