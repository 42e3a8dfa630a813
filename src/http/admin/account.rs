//! What administrators do to one account: rights, password, locks, log-ins, limits, its end.

use actors::error::{DomainError, Outcome};
use actors::flows;
use actors::session::account::Refreshing;
use actors::session::email;
use http::Method;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::params::local_user;
use crate::http::auth::Policy;
use crate::http::client::tokens::{logged_in, new_device};
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// How long cross-signing keys may be replaced without a password once an administrator has allowed it.
const REPLACEMENT_MS: i64 = 10 * 60 * 1_000;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(Method::GET, "/_synapse/admin/v1/users/{user_id}/admin", admin, is_admin);
    t.raw(
        Method::PUT,
        "/_synapse/admin/v1/users/{user_id}/admin",
        admin,
        set_admin,
    );
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/deactivate/{target_user_id}",
        admin,
        deactivate,
    )
    .also("/_synapse/admin/v1/users/{user_id}/deactivate");
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/reset_password/{target_user_id}",
        admin,
        reset_password,
    )
    .also("/_synapse/admin/v1/users/{user_id}/password");
    t.raw(
        Method::PUT,
        "/_synapse/admin/v1/suspend/{target_user_id}",
        admin,
        suspend,
    );
    t.raw(Method::POST, "/_synapse/admin/v1/users/{user_id}/login", admin, log_in);
    limits(t);
    moderation(t);
    absent(t);
}

fn limits(t: &mut Table) {
    let (admin, limit) = (Policy::Admin, "/_synapse/admin/v1/users/{user_id}/override_ratelimit");
    t.raw(Method::GET, limit, admin, rate_limit);
    t.raw(Method::POST, limit, admin, set_rate_limit);
    t.raw(Method::DELETE, limit, admin, delete_rate_limit);
    let ban = "/_synapse/admin/v1/users/{user_id}/shadow_ban";
    t.raw(Method::POST, ban, admin, shadow_ban);
    t.raw(Method::DELETE, ban, admin, lift_shadow_ban);
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/users/{user_id}/_allow_cross_signing_replacement_without_uia",
        admin,
        allow_replacement,
    );
}

/// Locking and suspending as the specification has it (client-server API, "Account moderation").
fn moderation(t: &mut Table) {
    for (path, unstable, get, set) in [
        (
            "/_matrix/client/v1/admin/lock/{user_id}",
            "/_matrix/client/unstable/uk.timedout.msc4323/admin/lock/{user_id}",
            "locked",
            "locked",
        ),
        (
            "/_matrix/client/v1/admin/suspend/{user_id}",
            "/_matrix/client/unstable/uk.timedout.msc4323/admin/suspend/{user_id}",
            "suspended",
            "suspended",
        ),
    ] {
        let read = move |ctx: Ctx, request: RawRequest| async move { state(&ctx, &request, get).await };
        t.raw(Method::GET, path, Policy::Admin, read).also(unstable);
        let write = move |ctx: Ctx, request: RawRequest| async move { set_state(&ctx, &request, set).await };
        t.raw(Method::PUT, path, Policy::Admin, write).also(unstable);
    }
}

/// What this server does not have, and says so.
fn absent(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/threepid/{medium}/users/{address}",
        admin,
        owner,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/auth_providers/{provider}/users/{external_id}",
        admin,
        nobody,
    );
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/account_validity/validity",
        admin,
        no_validity,
    );
    let features = "/_synapse/admin/v1/experimental_features/{user_id}";
    t.raw(Method::GET, features, admin, features_of);
    t.raw(Method::PUT, features, admin, set_features);
}

async fn is_admin(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (_, view) = local_user(&ctx, &request, 0).await?;
    Reply::json(&json!({ "admin": view.is_admin }))
}

async fn set_admin(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        admin: bool,
    }
    let body: Body = request.json()?;
    let (user, _) = local_user(&ctx, &request, 0).await?;
    if ctx.user()?.user_id == user && !body.admin {
        return Err(DomainError::invalid_param("You may not take your own rights away"));
    }
    tracing::info!(by = %ctx.user()?.user_id, %user, admin = body.admin, "administrator's rights change");
    ctx.hub
        .sessions()
        .set_flags(&user, Some(body.admin), None, None)
        .await?;
    Ok(Reply::empty())
}

async fn deactivate(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        erase: bool,
    }
    let body: Body = request.json()?;
    let (user, _) = local_user(&ctx, &request, 0).await?;
    flows::deactivate::deactivate(&ctx.hub, &user, body.erase).await?;
    Reply::json(&json!({ "id_server_unbind_result": "success" }))
}

async fn reset_password(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        new_password: String,
        #[serde(default = "yes")]
        logout_devices: bool,
    }
    let body: Body = request.json()?;
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let own = ctx.user()?;
    let keep = (own.user_id == user).then(|| own.device_id.clone());
    ctx.hub
        .sessions()
        .set_password(&user, &body.new_password, body.logout_devices, keep)
        .await?;
    Ok(Reply::empty())
}

fn yes() -> bool {
    true
}

async fn suspend(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        suspend: bool,
    }
    let body: Body = request.json()?;
    let (user, _) = local_user(&ctx, &request, 0).await?;
    ctx.hub
        .sessions()
        .set_flags(&user, None, None, Some(body.suspend))
        .await?;
    Reply::json(&json!({ format!("user_{user}_suspended"): body.suspend }))
}

async fn state(ctx: &Ctx, request: &RawRequest, name: &str) -> Outcome<Reply> {
    let (_, view) = local_user(ctx, request, 0).await?;
    let state = if name == "locked" { view.locked } else { view.suspended };
    Reply::json(&json!({ name: state }))
}

async fn set_state(ctx: &Ctx, request: &RawRequest, name: &str) -> Outcome<Reply> {
    let body = request.value()?;
    let wanted = body.get(name).and_then(Value::as_bool);
    let wanted = wanted.ok_or_else(|| DomainError::missing_param(format!("{name} must be true or false")))?;
    let (user, view) = local_user(ctx, request, 0).await?;
    if view.is_admin || ctx.user()?.user_id == user {
        return Err(DomainError::forbidden("You may not do this to administrators"));
    }
    let (locked, suspended) = match name {
        "locked" => (Some(wanted), None),
        _ => (None, Some(wanted)),
    };
    ctx.hub.sessions().set_flags(&user, None, locked, suspended).await?;
    Reply::json(&json!({ name: wanted }))
}

/// A token with which the administrator acts as the user; it is a device of its own, which the user sees.
async fn log_in(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        valid_until_ms: Option<i64>,
    }
    let body: Body = request.json()?;
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let own = &ctx.user()?.user_id;
    if *own == user {
        return Err(DomainError::invalid_param("You are logged in as that user already"));
    }
    if body.valid_until_ms.is_some_and(|ts| ts <= ctx.hub.env().clock.now_ms()) {
        return Err(DomainError::invalid_param("valid_until_ms must not be in the past"));
    }
    let mut device = new_device(&ctx, None, Some(format!("Administrator {own}")), false, false);
    if let Some(until) = body.valid_until_ms {
        device.refreshing = Refreshing::Until(until);
    }
    tracing::warn!(by = %own, %user, "an administrator logs in as a user");
    let session = ctx.hub.sessions().login(&user, device).await?;
    Reply::json(&logged_in(&ctx, &session))
}

async fn rate_limit(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    shown_limit(ctx.hub.env().security.rate_limit(&user))
}

fn shown_limit(limit: Option<(i64, i64)>) -> Outcome<Reply> {
    match limit {
        Some((per_second, burst)) => Reply::json(&json!({ "messages_per_second": per_second, "burst_count": burst })),
        None => Ok(Reply::empty()),
    }
}

async fn set_rate_limit(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        messages_per_second: i64,
        #[serde(default)]
        burst_count: i64,
    }
    let body: Body = request.json()?;
    let (user, _) = local_user(&ctx, &request, 0).await?;
    if body.messages_per_second < 0 || body.burst_count < 0 {
        return Err(DomainError::invalid_param("rate limits are not negative"));
    }
    let limit = (body.messages_per_second, body.burst_count);
    keep_limit(&ctx, &user, Some(limit)).await?;
    shown_limit(Some(limit))
}

async fn delete_rate_limit(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    keep_limit(&ctx, &user, None).await?;
    Ok(Reply::empty())
}

async fn keep_limit(ctx: &Ctx, user: &OwnedUserId, limit: Option<(i64, i64)>) -> Outcome<()> {
    let security = &ctx.hub.env().security;
    let set = |row: &mut entities::user_override::Model| {
        row.messages_per_second = limit.map(|(per_second, _)| per_second);
        row.burst_count = limit.map(|(_, burst)| burst);
    };
    security.decide(user, set).await
}

async fn shadow_ban(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    set_shadow_ban(&ctx, &request, true).await
}

async fn lift_shadow_ban(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    set_shadow_ban(&ctx, &request, false).await
}

async fn set_shadow_ban(ctx: &Ctx, request: &RawRequest, banned: bool) -> Outcome<Reply> {
    let (user, _) = local_user(ctx, request, 0).await?;
    let security = &ctx.hub.env().security;
    security.decide(&user, |row| row.shadow_banned = banned).await?;
    Ok(Reply::empty())
}

async fn allow_replacement(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let env = ctx.hub.env();
    if env.store.cross_signing_texts(user.as_str()).await?.is_empty() {
        return Err(DomainError::not_found("The user has no cross-signing keys"));
    }
    let until = env.clock.now_ms().saturating_add(REPLACEMENT_MS);
    env.security
        .decide(&user, |row| row.cross_signing_until = until)
        .await?;
    Reply::json(&json!({ "updatable_without_uia_before_ms": until }))
}

/// Whose a mail address is; there are no phone numbers.
async fn owner(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (medium, address) = (request.arg(0)?, request.arg(1)?);
    let owner = match medium {
        "email" => email::owner(ctx.hub.env(), address).await?,
        _ => None,
    };
    let user = owner.ok_or_else(|| DomainError::not_found("User not found"))?;
    Reply::json(&json!({ "user_id": user }))
}

/// Nobody has an identity elsewhere that this server knows of.
async fn nobody(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Err(DomainError::not_found("User not found"))
}

async fn no_validity(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Err(DomainError::unknown(
        "Accounts of this server do not end by themselves: there is no validity to renew",
    ))
}

async fn features_of(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    local_user(&ctx, &request, 0).await?;
    Reply::json(&json!({ "features": {} }))
}

async fn set_features(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let body = request.value()?;
    local_user(&ctx, &request, 0).await?;
    match body["features"].as_object() {
        Some(features) if features.is_empty() => Ok(Reply::empty()),
        Some(_) => Err(DomainError::invalid_param(
            "This server has no features that can be switched for single users",
        )),
        None => Err(DomainError::missing_param("features is missing")),
    }
}
