//! Reading state (client-server API, "Getting events for a room").

use actors::error::{DomainError, Outcome};
use actors::room::read;
use http::Method;
use ruma::OwnedRoomId;
use ruma::api::client::state::get_state_event_for_key::v3::StateEventFormat;
use ruma::api::client::state::{get_state_event_for_key, get_state_events};
use serde::Deserialize;
use serde_json::json;

use super::Reading;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

pub(super) fn routes(table: &mut Table) {
    table.guest::<get_state_events::v3::Request, _>(all);
    table
        .guest::<get_state_event_for_key::v3::Request, _>(one)
        .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}");
    table
        .raw(
            Method::GET,
            "/_matrix/client/r0/rooms/{room_id}/keys/distribution",
            Policy::User,
            key_distribution,
        )
        .also("/_matrix/client/v3/rooms/{room_id}/keys/distribution");
}

async fn all(ctx: Ctx, request: get_state_events::v3::Request) -> Outcome<Reply> {
    let reading = Reading::open(&ctx, &request.room_id).await?;
    let state = read::state(ctx.hub.env(), &reading.access).await?;
    let events = reading.render_state(&state);
    if ctx.seed_profile() {
        return Reply::json(&json!({ "events": events }));
    }
    Reply::json(&events)
}

async fn one(ctx: Ctx, request: get_state_event_for_key::v3::Request) -> Outcome<Reply> {
    let reading = Reading::open(&ctx, &request.room_id).await?;
    let kind = request.event_type.to_string();
    let event = read::state_event(ctx.hub.env(), &reading.access, &kind, &request.state_key).await?;
    match request.format {
        StateEventFormat::Content => Ok(Reply::json_bytes(event.pdu.content.get().to_owned())),
        StateEventFormat::Event => Reply::json(&reading.render_state([&event])[0]),
        _ => Err(DomainError::invalid_param("format is content or event")),
    }
}

/// How the room's messages are encrypted. The API reference beside the specification has the session's key here as well, which
/// a server must not know: devices give it to each other.
async fn key_distribution(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Default, Deserialize)]
    struct Encryption {
        algorithm: Option<String>,
        rotation_period_ms: Option<i64>,
        rotation_period_msgs: Option<i64>,
    }
    let room_id: OwnedRoomId = request.parse(0)?;
    let reading = Reading::open(&ctx, &room_id).await?;
    let event = read::state_event(ctx.hub.env(), &reading.access, "m.room.encryption", "").await;
    let encryption: Encryption = match event {
        Ok(event) => event.pdu.content_as().unwrap_or_default(),
        // The room is not encrypted.
        Err(DomainError::Matrix { status: 404, .. }) => Encryption::default(),
        Err(error) => return Err(error),
    };
    Reply::json(&json!({
        "room_id": room_id,
        "algorithm": encryption.algorithm,
        "rotation_period_ms": encryption.rotation_period_ms,
        "rotation_period_msgs": encryption.rotation_period_msgs,
        "session_id": null,
        "session_key": null,
    }))
}
