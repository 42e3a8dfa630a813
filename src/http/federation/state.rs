//! The state of rooms (server-server API, "Retrieving events"), and what else other servers may know of them.

use actors::error::Outcome;
use actors::room::export::answers;
use http::Method;
use ruma::OwnedRoomId;
use ruma::api::federation::event::{get_room_state, get_room_state_ids};

use super::document;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(state);
    t.server(state_ids);
    // Beyond the specification.
    let get = Method::GET;
    t.raw(
        get.clone(),
        "/_matrix/federation/v1/room_auth/{room_id}",
        Policy::Server,
        room_auth,
    );
    t.raw(
        get.clone(),
        "/_matrix/federation/v1/get_joining_rules/{room_id}",
        Policy::Server,
        join_rules,
    );
    t.raw(
        get.clone(),
        "/_matrix/federation/v1/members/{room_id}",
        Policy::Server,
        members,
    );
    t.raw(
        get.clone(),
        "/_matrix/federation/v1/members/{room_id}/joined",
        Policy::Server,
        profiles,
    );
    t.raw(
        get,
        "/_matrix/federation/unstable/rooms/{room_id}/complexity",
        Policy::Server,
        complexity,
    );
}

async fn state(ctx: Ctx, request: get_room_state::v1::Request) -> Outcome<Reply> {
    let (env, origin) = (ctx.hub.env(), ctx.origin()?);
    document(answers::state(env, origin, &request.room_id, &request.event_id).await?)
}

async fn state_ids(ctx: Ctx, request: get_room_state_ids::v1::Request) -> Outcome<Reply> {
    let (env, origin) = (ctx.hub.env(), ctx.origin()?);
    document(answers::state_ids(env, origin, &request.room_id, &request.event_id).await?)
}

async fn room_auth(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    document(answers::room_auth(ctx.hub.env(), ctx.origin()?, &room_id).await?)
}

async fn join_rules(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    Reply::json(&answers::join_rules(ctx.hub.env(), ctx.origin()?, &room_id).await?)
}

async fn members(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    Reply::json(&answers::members(ctx.hub.env(), ctx.origin()?, &room_id, false).await?)
}

async fn profiles(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    Reply::json(&answers::members(ctx.hub.env(), ctx.origin()?, &room_id, true).await?)
}

async fn complexity(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    Reply::json(&answers::complexity(ctx.hub.env(), ctx.origin()?, &room_id).await?)
}
