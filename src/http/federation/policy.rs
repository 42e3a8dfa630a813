//! This server as a policy server (server-server API, "Policy Servers").

use actors::error::Outcome;
use actors::policy::judge;
use ruma::api::federation::policy::sign_event;

use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(sign);
}

async fn sign(ctx: Ctx, request: sign_event::v1::Request) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let signature = judge::sign(env, ctx.origin()?, &request.pdu).await?;
    Reply::ruma(sign_event::v1::Response::new(env.server_name.clone(), signature))
}
