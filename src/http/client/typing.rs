//! Typing notices (client-server API, "Typing Notifications").

use actors::error::{DomainError, Outcome};
use actors::room::commands::SetTyping;
use actors::room::typing::MAX_TIMEOUT_MS;
use http::Method;
use ruma::{OwnedUserId, RoomId};
use serde::Deserialize;

use super::data::require_own;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// How long a notice holds whose client does not say.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    // The type of this request wants a timeout, which the specification leaves to the client.
    t.raw(
        Method::PUT,
        "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}",
        Policy::User,
        set,
    )
    .also("/_matrix/client/r0/rooms/{room_id}/typing/{user_id}")
    .limit(Class::Default);
}

#[derive(Deserialize)]
struct Body {
    typing: bool,
    timeout: Option<f64>,
}

async fn set(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = RoomId::parse(request.arg(0)?).map_err(|error| DomainError::invalid_param(error.to_string()))?;
    let user: OwnedUserId = request.parse(1)?;
    require_own(&ctx, &user)?;
    let body: Body = request.json()?;
    let notice = SetTyping {
        user,
        timeout_ms: body.typing.then(|| milliseconds(body.timeout)),
    };
    ctx.hub.rooms().set_typing(&room_id, notice).await?;
    Ok(Reply::empty())
}

/// Any number, within bounds.
fn milliseconds(timeout: Option<f64>) -> u64 {
    timeout.map_or(DEFAULT_TIMEOUT_MS, |ms| ms.clamp(0.0, MAX_TIMEOUT_MS as f64) as u64)
}
