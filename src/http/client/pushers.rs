//! Pushers and the list of notifications (client-server API, "Push Notifications").

use actors::error::{DomainError, Outcome};
use actors::push::notifications::{self, Query};
use actors::session::data::DataCommand;
use entities::pusher;
use ruma::api::client::push::set_pusher::v3::PusherAction;
use ruma::api::client::push::{PusherKind, get_notifications, get_pushers, set_pusher};
use serde_json::{Value, json};

use super::data::ask;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Bytes of an app's id, characters in the specification.
const MAX_APP_ID: usize = 64;
/// Bytes of a push key.
const MAX_PUSHKEY: usize = 512;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.user(list);
    t.user(set);
    t.user(notified);
}

async fn list(ctx: Ctx, _request: get_pushers::v3::Request) -> Outcome<Reply> {
    let rows = ctx.hub.env().store.pushers(ctx.user()?.user_id.as_str()).await?;
    let pushers: Vec<Value> = rows
        .iter()
        .filter_map(|row| serde_json::from_str(&row.json).ok())
        .collect();
    Reply::json(&json!({ "pushers": pushers }))
}

async fn set(ctx: Ctx, request: set_pusher::v3::Request) -> Outcome<Reply> {
    let identity = ctx.user()?;
    let command = match request.action {
        PusherAction::Delete(ids) => DataCommand::DeletePusher {
            app_id: ids.app_id,
            pushkey: ids.pushkey,
        },
        PusherAction::Post(data) => {
            let ids = &data.pusher.ids;
            if ids.app_id.len() > MAX_APP_ID || ids.pushkey.len() > MAX_PUSHKEY {
                return Err(DomainError::invalid_param("app_id has at most 64 bytes, pushkey 512"));
            }
            check_kind(&data.pusher.kind)?;
            let json = serde_json::to_string(&data.pusher).map_err(|error| DomainError::internal(error.to_string()))?;
            let pusher = pusher::Model {
                user_id: identity.user_id.to_string(),
                app_id: ids.app_id.clone(),
                pushkey: ids.pushkey.clone(),
                device_id: identity.device_id.to_string(),
                json,
                created_ts: ctx.hub.env().clock.now_ms(),
            };
            DataCommand::SetPusher {
                pusher,
                append: data.append,
            }
        }
        _ => return Err(DomainError::invalid_param("unknown action")),
    };
    ask(&ctx, command).await?;
    Ok(Reply::empty())
}

/// What a gateway's address must look like is the specification's; e-mail is not sent.
fn check_kind(kind: &PusherKind) -> Outcome<()> {
    let PusherKind::Http(data) = kind else {
        return Err(DomainError::invalid_param("Only pushers of kind http are served"));
    };
    let url = url::Url::parse(&data.url).map_err(|_| DomainError::invalid_param("data.url is not a URL"))?;
    let wrong = |message: &str| Err(DomainError::invalid_param(message));
    match url.scheme() {
        "http" | "https" if url.path() == "/_matrix/push/v1/notify" => Ok(()),
        "http" | "https" => wrong("data.url must have the path /_matrix/push/v1/notify"),
        _ => wrong("data.url must be an HTTP URL"),
    }
}

async fn notified(ctx: Ctx, request: get_notifications::v3::Request) -> Outcome<Reply> {
    let identity = ctx.user()?;
    let query = Query {
        from: request.from,
        limit: request.limit.and_then(|limit| usize::try_from(u64::from(limit)).ok()),
        only_highlights: request.only.as_deref() == Some("highlight"),
    };
    let page = notifications::page(ctx.hub.env(), &identity.user_id, &identity.device_id, &query).await?;
    Reply::json(&page)
}
