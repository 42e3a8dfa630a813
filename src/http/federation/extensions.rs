//! What the API reference beside the specification has for servers and no other chapter covers: a page about the server, and
//! queries with their subject in the path. Keys of this server's users come from nobody else, so those requests are refused.

use actors::error::{DomainError, Outcome};
use actors::flows::directory;
use actors::room::export::access;
use actors::room::summary::Summary;
use http::Method;
use ruma::{OwnedRoomId, OwnedUserId, ServerName};
use serde_json::json;

use super::query;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::process::VERSION;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.raw(Method::GET, "/_matrix/federation/v1", Policy::Open, about);
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/query/destination",
        Policy::Open,
        destination,
    );
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/query/directory/room/{room_id}",
        Policy::Server,
        room,
    );
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/query/profile/{user_id}",
        Policy::Server,
        profile,
    );
    for path in ["/_matrix/federation/v1/keys/upload", "/_matrix/federation/v2/key/clone"] {
        t.raw(Method::POST, path, Policy::Server, no_keys);
    }
}

async fn about(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let server_name = &ctx.hub.env().server_name;
    Reply::json(&json!({ "version": VERSION, "server_name": server_name, "capabilities": {} }))
}

/// Where other servers reach this one, as `/.well-known/matrix/server` and its name tell.
async fn destination(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let name = &ctx.config.server_name;
    let delegated = ctx.config.server_well_known.delegate_to.as_deref();
    let delegated = delegated.and_then(|target| ServerName::parse(target).ok());
    let target = delegated.as_deref().unwrap_or(name);
    Reply::json(&json!({
        "destination": name,
        "host": target.host(),
        "port": target.port().unwrap_or(8_448),
        "tls": true,
        "ts": ctx.hub.env().clock.now_ms(),
    }))
}

/// A room that the other server is in, or that everybody may read.
async fn room(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (env, room_id): (_, OwnedRoomId) = (ctx.hub.env(), request.parse(0)?);
    let room = access::viewable(env, &room_id, ctx.origin()?).await?;
    let summary = Summary::of_room(&room);
    Reply::json(&json!({
        "room_id": room_id,
        "servers": directory::servers(env, Some(&room)),
        "name": summary.name,
        "topic": summary.topic,
        "guest_can_join": summary.guest_can_join,
        "world_readable": summary.world_readable,
    }))
}

async fn profile(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user: OwnedUserId = request.parse(0)?;
    query::profile_of(&ctx, &user, ctx.request.query_param("field").as_deref()).await
}

async fn no_keys(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Err(DomainError::forbidden("users upload their keys themselves"))
}
