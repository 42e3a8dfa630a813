//! Knocks of other servers' users (server-server API, "Knocking upon a room").

use actors::error::Outcome;
use actors::flows::hosting::{self, Asked, Sent, Step};
use http::Method;
use ruma::api::federation::membership::{create_knock_event, prepare_knock_event};
use ruma::{OwnedRoomId, OwnedUserId};

use super::document;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(make);
    t.server(send);
    // Beyond the specification, and no more than a template: a GET changes nothing.
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/knock/{room_id}/{user_id}",
        Policy::Server,
        template,
    );
}

async fn make(ctx: Ctx, request: prepare_knock_event::v1::Request) -> Outcome<Reply> {
    let asked = Asked {
        origin: ctx.origin()?,
        room_id: &request.room_id,
        user: &request.user_id,
        step: Step::Knock,
        versions: Some(&request.ver),
    };
    Reply::json(&hosting::make(&ctx.hub, &asked).await?)
}

async fn template(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (room_id, user): (OwnedRoomId, OwnedUserId) = (request.parse(0)?, request.parse(1)?);
    let asked = Asked {
        origin: ctx.origin()?,
        room_id: &room_id,
        user: &user,
        step: Step::Knock,
        versions: None,
    };
    Reply::json(&hosting::make(&ctx.hub, &asked).await?)
}

async fn send(ctx: Ctx, request: create_knock_event::v1::Request) -> Outcome<Reply> {
    let sent = Sent {
        origin: ctx.origin()?,
        room_id: &request.room_id,
        event_id: &request.event_id,
        pdu: &request.pdu,
        step: Step::Knock,
    };
    document(hosting::knock(&hosting::send(&ctx.hub, &sent).await?))
}
