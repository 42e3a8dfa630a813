//! The name and version of this implementation (server-server API, "Server implementation").

use actors::error::Outcome;
use ruma::api::federation::discovery::get_server_version::v1::Request;
use serde_json::json;

use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::process::{NAME, VERSION};
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.open(version);
}

async fn version(_: Ctx, _: Request) -> Outcome<Reply> {
    Reply::json(&json!({ "server": { "name": NAME, "version": VERSION } }))
}
