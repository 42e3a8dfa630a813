//! Filters (client-server API, "Filtering").

use std::sync::Arc;

use actors::env::Env;
use actors::error::{DomainError, Outcome};
use actors::session::data::{DataCommand, DataReply, filters};
use ruma::UserId;
use ruma::api::client::filter::{FilterDefinition, create_filter, get_filter};
use ruma::api::client::sync::sync_events::v3::Filter;
use serde_json::{Value, json};

use super::data::{ask, require_own};
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Bytes of a filter.
const MAX_FILTER: usize = 64 * 1024;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.user(create);
    t.user(get);
}

/// The filter that a request names, or holds itself; none lets everything through.
///
/// # Errors
/// `M_INVALID_PARAM` for numbers that the user has no filter under.
pub async fn resolve(env: &Env, user: &UserId, filter: Option<Filter>) -> Outcome<Arc<FilterDefinition>> {
    filters::resolve(env, user, filter).await
}

/// Stored as it was sent, so that it is answered with members this server does not know as well.
async fn create(ctx: Ctx, request: create_filter::v3::Request) -> Outcome<Reply> {
    require_own(&ctx, &request.user_id)?;
    let json = ctx.request.json::<Value>()?.to_string();
    if json.len() > MAX_FILTER {
        return Err(DomainError::too_large("A filter has at most 64 KiB"));
    }
    match ask(&ctx, DataCommand::CreateFilter { json }).await? {
        DataReply::Filter(id) => Reply::json(&json!({ "filter_id": id.to_string() })),
        DataReply::Done => Err(DomainError::internal("a new filter has no number")),
    }
}

async fn get(ctx: Ctx, request: get_filter::v3::Request) -> Outcome<Reply> {
    require_own(&ctx, &request.user_id)?;
    let missing = || DomainError::not_found("No such filter");
    let id: i64 = request.filter_id.parse().map_err(|_| missing())?;
    let stored = ctx.hub.env().store.filter(request.user_id.as_str(), id).await?;
    Ok(Reply::json_bytes(stored.ok_or_else(missing)?))
}
