//! Redacting everything that a user has said.

use actors::error::{DomainError, Outcome};
use actors::flows::admin::redact_user::Redaction;
use actors::flows::admin::tasks::{self, Work};
use http::Method;
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Events of each room that are redacted where the request does not say.
const USUAL: u64 = 1_000;
/// Rooms that one request may name.
const MAX_ROOMS: usize = 10_000;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(Method::POST, "/_synapse/admin/v1/user/{user_id}/redact", admin, redact);
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/user/redact_status/{redact_id}",
        admin,
        status,
    );
}

async fn redact(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        rooms: Vec<OwnedRoomId>,
        reason: Option<String>,
        limit: Option<u64>,
        #[serde(default)]
        use_admin: bool,
    }
    let user_id: OwnedUserId = request.parse(0)?;
    let body: Body = request.json()?;
    if body.rooms.len() > MAX_ROOMS {
        return Err(DomainError::invalid_param(format!("rooms names more than {MAX_ROOMS}")));
    }
    if body.limit == Some(0) {
        return Err(DomainError::invalid_param("limit must be more than 0"));
    }
    let store = &ctx.hub.env().store;
    let rooms = match body.rooms.is_empty() {
        false => body.rooms,
        true => {
            let kinds: Option<&[&str]> = Some(&["join", "leave", "ban"]);
            let rows = store.memberships_of_user(user_id.as_str(), kinds).await?;
            let ids = rows
                .into_iter()
                .filter_map(|(_, room)| RoomId::parse(room.room_id).ok());
            ids.collect()
        }
    };
    let redaction = Redaction {
        user_id,
        rooms,
        reason: body.reason,
        limit: body.limit.unwrap_or(USUAL),
        requester: ctx.user()?.user_id.clone(),
        use_admin: body.use_admin,
        below: None,
        done: 0,
        redacted: 0,
        failed: Default::default(),
    };
    let (redact_id, _) = tasks::begin(&ctx.hub, Work::RedactUser(redaction)).await?;
    Reply::json(&json!({ "redact_id": redact_id }))
}

async fn status(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let id = request.arg(0)?;
    let row = ctx.hub.env().store.admin_task(id).await?;
    let row = row.filter(|row| row.kind == "redact_user");
    let row = row.ok_or_else(|| DomainError::not_found(format!("redact id '{id}' not found")))?;
    let mut answer: Value =
        serde_json::from_str(&row.result).map_err(|e| DomainError::internal(format!("task {id}: {e}")))?;
    answer["status"] = row.status.into();
    if answer.get("failed_redactions").is_none() {
        answer["failed_redactions"] = json!({});
    }
    if let Some(error) = row.error {
        answer["error"] = error.into();
    }
    Reply::json(&answer)
}
