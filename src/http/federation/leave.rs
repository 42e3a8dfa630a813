//! Leaves of other servers' users (server-server API, "Leaving Rooms (Rejecting Invites)").

use actors::error::Outcome;
use actors::flows::hosting::{self, Asked, Sent, Step};
use http::Method;
use ruma::api::federation::membership::{create_leave_event, prepare_leave_event};
use ruma::{EventId, RoomId};
use serde_json::json;
use serde_json::value::RawValue;

use super::event_id;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(make);
    t.server(send);
    t.raw(
        Method::PUT,
        "/_matrix/federation/v1/send_leave/{room_id}/{event_id}",
        Policy::Server,
        send_v1,
    );
}

async fn make(ctx: Ctx, request: prepare_leave_event::v1::Request) -> Outcome<Reply> {
    let asked = Asked {
        origin: ctx.origin()?,
        room_id: &request.room_id,
        user: &request.user_id,
        step: Step::Leave,
        versions: None,
    };
    Reply::json(&hosting::make(&ctx.hub, &asked).await?)
}

async fn send(ctx: Ctx, request: create_leave_event::v2::Request) -> Outcome<Reply> {
    left(&ctx, (&request.room_id, &request.event_id), &request.pdu).await?;
    Ok(Reply::empty())
}

/// The old format: a pair of a status and a body.
async fn send_v1(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: ruma::OwnedRoomId = request.parse(0)?;
    let pdu: Box<RawValue> = request.json()?;
    left(&ctx, (&room_id, &event_id(&request, 1)?), &pdu).await?;
    Reply::json(&json!([200, {}]))
}

async fn left(ctx: &Ctx, (room_id, event_id): (&RoomId, &EventId), pdu: &RawValue) -> Outcome<()> {
    let sent = Sent {
        origin: ctx.origin()?,
        room_id,
        event_id,
        pdu,
        step: Step::Leave,
    };
    hosting::send(&ctx.hub, &sent).await.map(|_| ())
}
