//! Presence (client-server API, "Presence").

use std::sync::Arc;

use actors::error::{DomainError, Outcome};
use actors::hub::Hub;
use actors::presence::{self, Polling};
use ruma::UserId;
use ruma::api::client::presence::{get_presence, set_presence};
use ruma::presence::PresenceState;
use serde_json::json;

use super::data::require_own;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.user(get);
    t.user(set);
}

/// A device polls with this `set_presence`: its user counts as present while the answer is held, and half a minute more.
#[must_use]
pub fn seen(hub: &Arc<Hub>, user: &UserId, wanted: &PresenceState) -> Option<Polling> {
    presence::poll(hub.env(), user, wanted)
}

async fn set(ctx: Ctx, request: set_presence::v3::Request) -> Outcome<Reply> {
    require_own(&ctx, &request.user_id)?;
    presence::set(ctx.hub.env(), &request.user_id, &request.presence, request.status_msg).await?;
    Ok(Reply::empty())
}

async fn get(ctx: Ctx, request: get_presence::v3::Request) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let (me, user) = (&ctx.user()?.user_id, &request.user_id);
    if me != user && !env.store.share_room(me.as_str(), user.as_str()).await? {
        return Err(DomainError::forbidden("You are not allowed to see their presence"));
    }
    let Some(status) = presence::status(env, user).await? else {
        return Reply::json(&json!({ "presence": "offline" }));
    };
    let mut body = json!({
        "presence": status.state,
        "last_active_ago": (env.clock.now_ms() - status.last_active).max(0),
        "currently_active": status.state == "online",
    });
    if let Some(message) = status.message {
        body["status_msg"] = message.into();
    }
    Reply::json(&body)
}
