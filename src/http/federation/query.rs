//! Aliases and profiles (server-server API, "Querying for information").

use actors::error::{DomainError, Outcome};
use actors::flows::directory;
use http::Method;
use ruma::UserId;
use ruma::api::federation::query::{get_profile_information, get_room_information};
use serde_json::{Map, Value, json};

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(room);
    t.server(profile);
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/query/{query_type}",
        Policy::Server,
        other,
    );
}

async fn room(ctx: Ctx, request: get_room_information::v1::Request) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let alias = &request.room_alias;
    if alias.server_name() != env.server_name {
        return Err(DomainError::not_found(format!("{alias} belongs to another server")));
    }
    let (room_id, servers) = directory::look_up(&ctx.hub, alias).await?;
    Reply::json(&json!({ "room_id": room_id, "servers": servers }))
}

async fn profile(ctx: Ctx, request: get_profile_information::v1::Request) -> Outcome<Reply> {
    let wanted = request.field.as_ref().map(ToString::to_string);
    profile_of(&ctx, &request.user_id, wanted.as_deref()).await
}

/// One field of a local user's profile, or all of it.
pub(super) async fn profile_of(ctx: &Ctx, user: &UserId, wanted: Option<&str>) -> Outcome<Reply> {
    let missing = || DomainError::not_found("Profile not found");
    if !ctx.hub.env().is_local(user) {
        return Err(missing());
    }
    let view = ctx.hub.sessions().view(user).await?;
    let view = view.filter(|view| !view.deactivated).ok_or_else(missing)?;
    let fields: Map<String, Value> = view
        .profile
        .iter()
        .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name))
        .filter_map(|(name, value)| Some((name.clone(), serde_json::from_str(value).ok()?)))
        .collect();
    Reply::json(&fields)
}

/// Types of queries that this server does not know.
async fn other(_: Ctx, request: RawRequest) -> Outcome<Reply> {
    Err(DomainError::not_found(format!("unknown query {:?}", request.arg(0)?)))
}
