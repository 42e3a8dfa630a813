//! Registration by whoever knows the shared secret (`registration.shared_secret`), with nonces against replays, or by an
//! administrator.

use actors::error::{DomainError, Outcome};
use actors::session::account::Registration;
use actors::session::{localpart, password, shared_secret};
use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::http::auth::Policy;
use crate::http::client::tokens::{logged_in, new_device};
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    t.raw(Method::GET, "/_synapse/admin/v1/register", Policy::Open, nonce)
        .limit(Class::Registration);
    t.raw(Method::GET, "/_synapse/admin/v1/register/nonce", Policy::Admin, nonce)
        .limit(Class::Registration);
    t.raw(Method::POST, "/_synapse/admin/v1/register", Policy::Optional, register)
        .limit(Class::Registration);
}

async fn nonce(ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    if ctx.config.registration.shared_secret.is_none() && ctx.identity.is_none() {
        return Err(not_enabled());
    }
    Reply::json(&json!({ "nonce": env.nonces.make(&env.rng, env.clock.now_ms()) }))
}

fn not_enabled() -> DomainError {
    DomainError::unknown("Shared secret registration is not enabled")
}

#[derive(Deserialize)]
struct NewUser {
    nonce: Option<String>,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    displayname: Option<String>,
    mac: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
}

async fn register(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let new: NewUser = request.json()?;
    let env = ctx.hub.env();
    if !ctx.identity.as_ref().is_some_and(|identity| identity.is_admin) {
        check_mac(&ctx, &new)?;
    }
    let user = localpart::user_id(&new.username, &env.server_name)?;
    ctx.hub.sessions().check_free(&user).await?;
    let password_hash = password::hash(env, &new.password).await?;
    let device = new_device(&ctx, None, None, false, true);
    let registration = Registration {
        password_hash: Some(password_hash),
        guest: false,
        admin: new.admin,
        displayname: new.displayname,
        device: (!new.inhibit_login).then_some(device),
    };
    match ctx.hub.sessions().register(&user, registration).await? {
        Some(session) => Reply::json(&logged_in(&ctx, &session)),
        None => Reply::json(&json!({ "user_id": user, "home_server": user.server_name() })),
    }
}

/// The nonce serves once, whatever comes of it.
fn check_mac(ctx: &Ctx, new: &NewUser) -> Outcome<()> {
    let env = ctx.hub.env();
    let secret = ctx.config.registration.shared_secret.as_ref().ok_or_else(not_enabled)?;
    let missing = |name| DomainError::missing_param(format!("{name} is missing"));
    let nonce = new.nonce.as_deref().ok_or_else(|| missing("nonce"))?;
    let mac = new.mac.as_deref().ok_or_else(|| missing("mac"))?;
    if !env.nonces.take(nonce, env.clock.now_ms()) {
        return Err(DomainError::unknown("The nonce is unknown or has expired"));
    }
    let admin = if new.admin { "admin" } else { "notadmin" };
    let mut parts = vec![nonce, &new.username, &new.password, admin];
    parts.extend(new.user_type.as_deref());
    match shared_secret::is_mac(secret.expose(), &parts, mac) {
        true => Ok(()),
        false => Err(DomainError::forbidden("HMAC incorrect")),
    }
}
