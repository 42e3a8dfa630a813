//! Joins of other servers' users (server-server API, "Joining Rooms").

use actors::error::Outcome;
use actors::flows::hosting::{self, Asked, Sent, Step};
use http::Method;
use ruma::api::federation::membership::{create_join_event, prepare_join_event};
use ruma::{EventId, RoomId};
use serde_json::value::RawValue;

use super::{document, event_id};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(make);
    t.server(send);
    // Gone from the specification since version 1.18; answers an object, not a pair.
    t.raw(
        Method::PUT,
        "/_matrix/federation/v1/send_join/{room_id}/{event_id}",
        Policy::Server,
        send_v1,
    );
}

async fn make(ctx: Ctx, request: prepare_join_event::v1::Request) -> Outcome<Reply> {
    let asked = Asked {
        origin: ctx.origin()?,
        room_id: &request.room_id,
        user: &request.user_id,
        step: Step::Join,
        versions: Some(&request.ver),
    };
    Reply::json(&hosting::make(&ctx.hub, &asked).await?)
}

async fn send(ctx: Ctx, request: create_join_event::v2::Request) -> Outcome<Reply> {
    let place = (&*request.room_id, &*request.event_id);
    joined(&ctx, place, &request.pdu, request.omit_members).await
}

async fn send_v1(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: ruma::OwnedRoomId = request.parse(0)?;
    let pdu: Box<RawValue> = request.json()?;
    joined(&ctx, (&room_id, &event_id(&request, 1)?), &pdu, false).await
}

async fn joined(
    ctx: &Ctx,
    (room_id, event_id): (&RoomId, &EventId),
    pdu: &RawValue,
    omit_members: bool,
) -> Outcome<Reply> {
    let sent = Sent {
        origin: ctx.origin()?,
        room_id,
        event_id,
        pdu,
        step: Step::Join,
    };
    let accepted = hosting::send(&ctx.hub, &sent).await?;
    document(hosting::join(ctx.hub.env(), &accepted, omit_members).await?)
}
