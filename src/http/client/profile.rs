//! Profiles (client-server API, "Profiles").

use actors::error::{DomainError, Outcome};
use actors::flows;
use http::Method;
use ruma::api::client::profile::{get_profile, get_profile_field};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};

use super::data::{require_own, suspended};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// A field of a profile.
const FIELD: [&str; 4] = [
    "/_matrix/client/v3/profile/{user_id}/{field}",
    "/_matrix/client/r0/profile/{user_id}/{field}",
    "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}",
    "/_matrix/client/r0/account/profile/{user_id}/{field}",
];

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.open(whole).also("/_matrix/client/r0/account/profile/{user_id}");
    t.open(field).also(FIELD[3]);
    for (method, put) in [(Method::PUT, true), (Method::DELETE, false)] {
        let endpoint = match put {
            true => t.raw(method, FIELD[0], Policy::Guest, set),
            false => t.raw(method, FIELD[0], Policy::Guest, delete),
        };
        endpoint
            .also(FIELD[1])
            .also(FIELD[2])
            .also(FIELD[3])
            .limit(Class::Default);
    }
}

/// The whole profile, fields as JSON.
async fn stored(ctx: &Ctx, user: &UserId) -> Outcome<Map<String, Value>> {
    flows::remote_profile::profile(&ctx.hub, user).await
}

async fn whole(ctx: Ctx, request: get_profile::v3::Request) -> Outcome<Reply> {
    Reply::json(&stored(&ctx, &request.user_id).await?)
}

async fn field(ctx: Ctx, request: get_profile_field::v3::Request) -> Outcome<Reply> {
    let mut fields = stored(&ctx, &request.user_id).await?;
    let name = request.field.to_string();
    let value = fields.remove(&name);
    let value = value.ok_or_else(|| DomainError::not_found("The profile has no such field"))?;
    Reply::json(&Map::from_iter([(name, value)]))
}

async fn set(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, name) = (request.parse(0)?, request.arg(1)?.to_owned());
    let mut body: Map<String, Value> = request.json()?;
    let missing = || DomainError::missing_param(format!("The body must have the member {name:?}"));
    let value = body.remove(&name).ok_or_else(missing)?;
    change(&ctx, &user, name, Some(value)).await
}

async fn delete(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, name) = (request.parse(0)?, request.arg(1)?.to_owned());
    change(&ctx, &user, name, None).await
}

async fn change(ctx: &Ctx, user: &OwnedUserId, name: String, value: Option<Value>) -> Outcome<Reply> {
    require_own(ctx, user)?;
    let identity = ctx.user()?;
    if identity.is_guest && name != "displayname" {
        return Err(DomainError::guest_forbidden(
            "Guests may change their display name only",
        ));
    }
    if identity.is_suspended {
        return Err(suspended());
    }
    flows::profile::set_field(&ctx.hub, user, name, value).await?;
    Ok(Reply::empty())
}
