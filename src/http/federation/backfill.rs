//! History (server-server API, "Backfilling and retrieving missing events").

use actors::error::Outcome;
use actors::room::export::answers;
use actors::room::export::history::Gap;
use ruma::UInt;
use ruma::api::federation::backfill::get_backfill;
use ruma::api::federation::event::get_missing_events;

use super::document;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(backfill);
    t.server(missing);
}

fn count(limit: UInt) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

async fn backfill(ctx: Ctx, request: get_backfill::v1::Request) -> Outcome<Reply> {
    let (env, origin) = (ctx.hub.env(), ctx.origin()?);
    document(answers::backfill(env, origin, &request.room_id, &request.v, count(request.limit)).await?)
}

async fn missing(ctx: Ctx, request: get_missing_events::v1::Request) -> Outcome<Reply> {
    let gap = Gap {
        earliest: &request.earliest_events,
        latest: &request.latest_events,
        min_depth: request.min_depth.into(),
        limit: count(request.limit),
    };
    document(answers::missing(ctx.hub.env(), ctx.origin()?, &request.room_id, &gap).await?)
}
