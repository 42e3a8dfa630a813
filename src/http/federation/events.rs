//! Single events and their auth chains (server-server API, "Retrieving events", "Retrieving event authorization
//! information").

use actors::error::Outcome;
use actors::room::export::answers;
use http::Method;
use ruma::OwnedRoomId;
use ruma::api::Direction;
use ruma::api::federation::authorization::get_event_authorization;
use ruma::api::federation::event::{get_event, get_event_by_timestamp};

use super::{document, event_id};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(event);
    t.server(near);
    t.server(event_auth)
        .also("/_matrix/federation/v1/get_event_auth/{room_id}/{event_id}");
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/room/{room_id}/{event_id}",
        Policy::Server,
        room_event,
    );
    t.raw(
        Method::GET,
        "/_matrix/federation/unstable/org.matrix.msc4370/extremities/{room_id}",
        Policy::Server,
        extremities,
    );
}

async fn event(ctx: Ctx, request: get_event::v1::Request) -> Outcome<Reply> {
    document(answers::event(ctx.hub.env(), ctx.origin()?, &request.event_id).await?)
}

async fn near(ctx: Ctx, request: get_event_by_timestamp::v1::Request) -> Outcome<Reply> {
    let backwards = match request.dir {
        Direction::Backward => true,
        Direction::Forward => false,
    };
    let (env, origin) = (ctx.hub.env(), ctx.origin()?);
    Reply::json(&answers::near(env, origin, &request.room_id, request.ts, backwards).await?)
}

async fn event_auth(ctx: Ctx, request: get_event_authorization::v1::Request) -> Outcome<Reply> {
    let (env, origin) = (ctx.hub.env(), ctx.origin()?);
    document(answers::event_auth(env, origin, &request.room_id, &request.event_id).await?)
}

async fn room_event(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    let event_id = event_id(&request, 1)?;
    Reply::json(&answers::room_event(ctx.hub.env(), ctx.origin()?, &room_id, &event_id).await?)
}

async fn extremities(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    Reply::json(&answers::extremities(ctx.hub.env(), ctx.origin()?, &room_id).await?)
}
