//! Spaces (server-server API, "Spaces").

use actors::error::Outcome;
use actors::flows::spaces;
use ruma::api::federation::space::get_hierarchy;

use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(hierarchy);
}

async fn hierarchy(ctx: Ctx, request: get_hierarchy::v1::Request) -> Outcome<Reply> {
    let origin = ctx.origin()?;
    let suggested_only = request.suggested_only;
    Reply::json(&spaces::for_server(&ctx.hub, origin, &request.room_id, suggested_only).await?)
}
