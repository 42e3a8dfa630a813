//! How requests to the administration interface are read: pages, flags, local users and rooms.

use std::sync::Arc;

use actors::error::{DomainError, Outcome};
use actors::flows::membership::resolve_alias;
use actors::session::kind::unknown_user;
use actors::session::view::UserView;
use entities::store::admin::Slice;
use ruma::{OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};
use serde_json::Value;

use crate::http::context::{Ctx, RawRequest};

/// Entries of one page where the request does not say.
const DEFAULT_LIMIT: i64 = 100;
/// The most that may be asked for.
const MAX_LIMIT: i64 = 1_000;

/// A number of the query that is not negative.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn number(ctx: &Ctx, name: &str, default: i64) -> Outcome<i64> {
    let Some(text) = ctx.request.query_param(name) else {
        return Ok(default);
    };
    let parsed = text.parse().ok().filter(|number| *number >= 0);
    parsed.ok_or_else(|| DomainError::invalid_param(format!("{name} must be a number that is not negative")))
}

/// A flag of the query.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn flag(ctx: &Ctx, name: &str) -> Outcome<Option<bool>> {
    match ctx.request.query_param(name).as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(DomainError::invalid_param(format!("{name} must be true or false"))),
    }
}

/// `from`, `limit` and `dir` of a list; `backwards` where `dir` is missing.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn slice(ctx: &Ctx, backwards: bool) -> Outcome<Slice> {
    let backwards = match ctx.request.query_param("dir").as_deref() {
        None => backwards,
        Some("f") => false,
        Some("b") => true,
        Some(_) => return Err(DomainError::invalid_param("dir must be f or b")),
    };
    Ok(Slice {
        from: number(ctx, "from", 0)?,
        limit: number(ctx, "limit", DEFAULT_LIMIT)?.min(MAX_LIMIT),
        backwards,
    })
}

/// Adds `next_token` where the list goes on.
pub fn set_next(answer: &mut Value, slice: Slice, shown: usize, total: i64) {
    let next = slice.from.saturating_add(i64::try_from(shown).unwrap_or(i64::MAX));
    if next < total && shown > 0 {
        answer["next_token"] = next.to_string().into();
    }
}

/// A user of this server, by a path argument; it need not exist.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn local_id(ctx: &Ctx, request: &RawRequest, at: usize) -> Outcome<OwnedUserId> {
    let text = request.arg(at)?;
    let user = UserId::parse(text).map_err(|e| DomainError::invalid_param(format!("invalid user id {text:?}: {e}")))?;
    match ctx.hub.env().is_local(&user) {
        true => Ok(user),
        false => Err(DomainError::invalid_param("That is not a user of this server")),
    }
}

/// The same, which must exist.
///
/// # Errors
/// `M_INVALID_PARAM`, `M_NOT_FOUND`.
pub async fn local_user(ctx: &Ctx, request: &RawRequest, at: usize) -> Outcome<(OwnedUserId, Arc<UserView>)> {
    let user = local_id(ctx, request, at)?;
    let view = ctx.hub.sessions().view(&user).await?.ok_or_else(unknown_user)?;
    Ok((user, view))
}

/// A room, by a path argument that is its id.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn room_id(request: &RawRequest, at: usize) -> Outcome<OwnedRoomId> {
    let text = request.arg(at)?;
    RoomId::parse(text).map_err(|e| DomainError::invalid_param(format!("invalid room id {text:?}: {e}")))
}

/// A room, by a path argument that is its id or an alias.
///
/// # Errors
/// `M_INVALID_PARAM`, `M_NOT_FOUND`.
pub async fn room_or_alias(ctx: &Ctx, request: &RawRequest, at: usize) -> Outcome<OwnedRoomId> {
    match RoomAliasId::parse(request.arg(at)?) {
        Ok(alias) => resolve_alias(&ctx.hub, &alias).await,
        Err(_) => room_id(request, at),
    }
}

/// The text behind JSON text, as profiles keep them.
#[must_use]
pub fn plain(json: Option<&str>) -> Option<String> {
    serde_json::from_str(json?).ok()
}
