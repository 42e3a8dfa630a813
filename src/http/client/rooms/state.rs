//! Reading state (client-server API, "Getting events for a room").

use actors::error::{DomainError, Outcome};
use actors::room::read;
use ruma::api::client::state::get_state_event_for_key::v3::StateEventFormat;
use ruma::api::client::state::{get_state_event_for_key, get_state_events};
use serde_json::json;

use super::Reading;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

pub(super) fn routes(table: &mut Table) {
    table.guest::<get_state_events::v3::Request, _>(all);
    table
        .guest::<get_state_event_for_key::v3::Request, _>(one)
        .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}");
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
