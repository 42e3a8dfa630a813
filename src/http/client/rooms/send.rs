//! Sending events (client-server API, "Sending events to a room").

use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::flows::delayed::Wish;
use actors::flows::{guard, membership};
use actors::room::commands::Draft;
use actors::session::identity::Identity;
use http::Method;
use ruma::api::client::message::send_message_event;
use ruma::api::client::state::send_state_event;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::delayed;
use super::{redact, suspended};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;
use crate::http::ruma::require_object;

/// An invite may wait for the server of who is invited.
const STATE_DEADLINE: Duration = Duration::from_secs(70);

pub(super) fn routes(table: &mut Table) {
    table
        .guest::<send_message_event::v3::Request, _>(send)
        .limit(Class::Message);
    table
        .guest::<send_state_event::v3::Request, _>(set_state)
        .limit(Class::Message)
        .deadline(STATE_DEADLINE)
        .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}");
    for path in [
        "/_matrix/client/r0/rooms/{room_id}/state/{event_type}",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
    ] {
        table
            .raw(Method::POST, path, Policy::Guest, post_state)
            .limit(Class::Message);
    }
}

#[derive(Serialize)]
pub(super) struct Sent {
    pub event_id: OwnedEventId,
}

async fn send(ctx: Ctx, request: send_message_event::v3::Request) -> Outcome<Reply> {
    let identity = ctx.user()?;
    super::require_room(&ctx, &request.room_id).await?;
    let kind = request.event_type.to_string();
    let content = request.body.into_json();
    if identity.is_suspended {
        if kind != "m.room.redaction" {
            return Err(suspended());
        }
        redact::own_only(&ctx, &content).await?;
    }
    if let Some(delay_ms) = delayed::asked(&ctx)? {
        let place = (&request.room_id, kind.as_str(), None);
        let time = chosen_time(identity, request.timestamp);
        let mut wish = wish(identity, place, content, delay_ms, time);
        wish.txn_id = Some(request.txn_id.to_string());
        return delayed::schedule_as_before(&ctx, wish).await;
    }
    if let Some(event_id) = super::pretended(&ctx)? {
        return Reply::json(&Sent { event_id });
    }
    let txn = (identity.device_id.to_string(), request.txn_id.to_string());
    let mut draft = Draft::message(identity.user_id.clone(), &kind, content, Some(txn));
    draft.origin_server_ts = chosen_time(identity, request.timestamp);
    guard::relation(ctx.hub.env(), &request.room_id, &draft).await?;
    let event_id = ctx.hub.rooms().send(&request.room_id, draft).await?;
    Reply::json(&Sent { event_id })
}

/// Only application services choose when an event was sent.
fn chosen_time(identity: &Identity, wish: Option<ruma::MilliSecondsSinceUnixEpoch>) -> Option<i64> {
    let wish = wish.filter(|_| identity.appservice.is_some())?;
    Some(wish.get().into())
}

async fn set_state(ctx: Ctx, request: send_state_event::v3::Request) -> Outcome<Reply> {
    let (kind, content) = (request.event_type.to_string(), request.body.into_json());
    if let Some(delay_ms) = delayed::asked(&ctx)? {
        let identity = super::active(&ctx)?;
        super::require_room(&ctx, &request.room_id).await?;
        let place = (&request.room_id, kind.as_str(), Some(request.state_key.as_str()));
        let time = chosen_time(identity, request.timestamp);
        let wish = wish(identity, place, content, delay_ms, time);
        return delayed::schedule_as_before(&ctx, wish).await;
    }
    let place = (&request.room_id, kind.as_str(), request.state_key.as_str());
    let event_id = put_state(&ctx, place, content, request.timestamp).await?;
    Reply::json(&Sent { event_id })
}

fn wish(
    identity: &Identity,
    (room_id, kind, state_key): (&OwnedRoomId, &str, Option<&str>),
    content: Box<RawValue>,
    delay_ms: i64,
    origin_server_ts: Option<i64>,
) -> Wish {
    Wish {
        user: identity.user_id.clone(),
        device: identity.device_id.clone(),
        room_id: room_id.clone(),
        kind: kind.to_owned(),
        state_key: state_key.map(str::to_owned),
        content,
        delay_ms,
        txn_id: None,
        origin_server_ts,
    }
}

/// `(room, type, state key)`
type Place<'a> = (&'a OwnedRoomId, &'a str, &'a str);

async fn put_state(
    ctx: &Ctx,
    (room_id, kind, state_key): Place<'_>,
    content: Box<RawValue>,
    time: Option<ruma::MilliSecondsSinceUnixEpoch>,
) -> Outcome<OwnedEventId> {
    let identity = super::active(ctx)?;
    super::require_room(ctx, room_id).await?;
    let ask = guard::StateAsk {
        sender: &identity.user_id,
        is_guest: identity.is_guest,
        room_id,
        kind,
        state_key,
    };
    guard::state(&ctx.hub, &ask, &content).await?;
    if let Some(event_id) = super::pretended(ctx)? {
        return Ok(event_id);
    }
    let mut draft = Draft::state(identity.user_id.clone(), kind, state_key, content);
    draft.origin_server_ts = chosen_time(identity, time);
    let event_id = membership::send_state(&ctx.hub, room_id, draft).await?;
    if kind == "m.room.guest_access" && state_key.is_empty() {
        guard::remove_guests(&ctx.hub, room_id).await?;
    }
    Ok(event_id)
}

/// The API reference beside the specification sets state with an empty key by POST.
async fn post_state(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Serialize)]
    struct Answer<'a> {
        event_id: OwnedEventId,
        r#type: &'a str,
        state_key: &'a str,
    }
    let room_id: OwnedRoomId = request.parse(0)?;
    let kind = request.arg(1)?;
    let body: &[u8] = if request.body.is_empty() { b"{}" } else { &request.body };
    require_object(body)?;
    let content: Box<RawValue> =
        serde_json::from_slice(body).map_err(|e| DomainError::not_json(format!("not JSON: {e}")))?;
    let event_id = put_state(&ctx, (&room_id, kind, ""), content, None).await?;
    Reply::json(&Answer {
        event_id,
        r#type: kind,
        state_key: "",
    })
}
