//! Invites of local users to rooms of other servers (server-server API, "Inviting to a room").

use actors::error::Outcome;
use actors::flows::hosting::{self, Invitation};
use http::Method;
use ruma::RoomVersionId;
use ruma::api::federation::membership::{RawStrippedState, create_invite};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::event_id;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest, RequestInfo};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(invite).fix(without_state);
    t.raw(
        Method::PUT,
        "/_matrix/federation/v1/invite/{room_id}/{event_id}",
        Policy::Server,
        invite_v1,
    );
}

/// The specification does not require it; whether the room's version does is looked at later.
fn without_state(body: &mut Value, _: &RequestInfo) {
    if let Some(body) = body.as_object_mut() {
        body.entry("invite_room_state").or_insert_with(|| json!([]));
    }
}

async fn invite(ctx: Ctx, request: create_invite::v2::Request) -> Outcome<Reply> {
    let invitation = Invitation {
        origin: ctx.origin()?,
        room_id: &request.room_id,
        event_id: &request.event_id,
        version: request.room_version,
        event: &request.event,
        state: request.invite_room_state,
    };
    let event = hosting::receive(&ctx.hub, invitation).await?;
    Reply::json(&json!({ "event": event }))
}

/// The old format, in which rooms are of the first two versions, whose events look alike.
async fn invite_v1(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        unsigned: Unsigned,
    }
    #[derive(Default, Deserialize)]
    struct Unsigned {
        #[serde(default)]
        invite_room_state: Vec<RawStrippedState>,
    }
    let room_id: ruma::OwnedRoomId = request.parse(0)?;
    let event: Box<RawValue> = request.json()?;
    let Event { unsigned } = request.json()?;
    let invitation = Invitation {
        origin: ctx.origin()?,
        room_id: &room_id,
        event_id: &event_id(&request, 1)?,
        version: RoomVersionId::V1,
        event: &event,
        state: unsigned.invite_room_state,
    };
    let event = hosting::receive(&ctx.hub, invitation).await?;
    Reply::json(&json!([200, { "event": event }]))
}
