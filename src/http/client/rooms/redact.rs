//! Redactions (client-server API, "Redactions").

use actors::error::{DomainError, Outcome};
use actors::room::commands::Draft;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use ruma::api::client::redact::redact_event;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::send::Sent;
use super::suspended;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Retries of a redaction without a transaction id count as one within this time.
const RETRY_WINDOW_MS: i64 = 60_000;

pub(super) fn routes(table: &mut Table) {
    table.user::<redact_event::v3::Request, _>(redact).limit(Class::Message);
    for method in [Method::PUT, Method::POST] {
        for path in [
            "/_matrix/client/r0/rooms/{room_id}/redact/{event_id}",
            "/_matrix/client/v3/rooms/{room_id}/redact/{event_id}",
        ] {
            table
                .raw(method.clone(), path, Policy::User, redact_without_txn)
                .limit(Class::Message);
        }
    }
}

async fn redact(ctx: Ctx, request: redact_event::v3::Request) -> Outcome<Reply> {
    let reason = request.reason.as_deref();
    prune(
        &ctx,
        &request.room_id,
        &request.event_id,
        request.txn_id.to_string(),
        reason,
    )
    .await
}

/// The API reference beside the specification has no transaction id: one is made of what a retry repeats.
async fn redact_without_txn(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        reason: Option<String>,
    }
    let room_id: OwnedRoomId = request.parse(0)?;
    let event_id: OwnedEventId = request.parse(1)?;
    let body: Body = request.json()?;
    let window = ctx.hub.env().clock.now_ms() / RETRY_WINDOW_MS;
    let hash = Sha256::new()
        .chain_update(event_id.as_str())
        .chain_update([0])
        .chain_update(body.reason.as_deref().unwrap_or_default())
        .finalize();
    let txn = format!("redact-{}-{window}", URL_SAFE_NO_PAD.encode(&hash[..12]));
    prune(&ctx, &room_id, &event_id, txn, body.reason.as_deref()).await
}

async fn prune(ctx: &Ctx, room_id: &RoomId, target: &EventId, txn: String, reason: Option<&str>) -> Outcome<Reply> {
    let identity = ctx.user()?;
    super::require_room(ctx, room_id).await?;
    if identity.is_suspended {
        own_event(ctx, target).await?;
    }
    if let Some(event_id) = super::pretended(ctx)? {
        return Reply::json(&Sent { event_id });
    }
    let content = match reason {
        Some(reason) => json!({ "reason": reason }),
        None => json!({}),
    };
    let content = serde_json::value::to_raw_value(&content)
        .map_err(|e| DomainError::internal(format!("a redaction does not serialise: {e}")))?;
    let txn = (identity.device_id.to_string(), txn);
    let mut draft = Draft::message(identity.user_id.clone(), "m.room.redaction", content, Some(txn));
    draft.redacts = Some(target.to_owned());
    let event_id = ctx.hub.rooms().send(room_id, draft).await?;
    Reply::json(&Sent { event_id })
}

/// Refuses a redaction by content of anything but the user's own events, for suspended users.
pub(super) async fn own_only(ctx: &Ctx, content: &RawValue) -> Outcome<()> {
    #[derive(Deserialize)]
    struct Content {
        redacts: OwnedEventId,
    }
    match serde_json::from_str::<Content>(content.get()) {
        Ok(Content { redacts }) => own_event(ctx, &redacts).await,
        Err(_) => Err(suspended()),
    }
}

async fn own_event(ctx: &Ctx, target: &EventId) -> Outcome<()> {
    let user = &ctx.user()?.user_id;
    let event = ctx.hub.env().rooms.event_by_id(target).await?;
    if event.is_some_and(|event| event.pdu.sender == *user) {
        Ok(())
    } else {
        Err(suspended())
    }
}
