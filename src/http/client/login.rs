//! Login, logout and refreshing tokens (client-server API, "Client authentication").

use actors::env::Env;
use actors::error::{DomainError, Outcome};
use actors::security::Incident;
use actors::session::{email, localpart, password, token};
use entities::short_token;
use http::Method;
use ruma::api::client::session::{get_login_token, get_login_types, logout, logout_all, refresh_token};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::tokens::{logged_in, new_device, tokens};
use super::uia::{count_attempt, fix_auth, own_account, wrong_credentials};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// The kind of short-lived token that logs in.
const LOGIN: &str = "login";

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.open(login_types);
    t.raw(Method::POST, "/_matrix/client/v3/login", Policy::Open, login)
        .also("/_matrix/client/r0/login")
        .limit(Class::Login);
    t.raw(
        Method::GET,
        "/_matrix/client/v3/login/sso/redirect",
        Policy::Open,
        no_single_sign_on,
    )
    .also("/_matrix/client/r0/login/sso/redirect")
    .also("/_matrix/client/v3/login/sso/redirect/{idp}")
    .also("/_matrix/client/r0/login/sso/redirect/{idp}");
    t.user(get_token).limit(Class::Login).fix(fix_auth);
    t.guest(log_out);
    t.guest(log_out_all);
    t.open(refresh).also("/_matrix/client/r0/refresh");
}

async fn login_types(_ctx: Ctx, _request: get_login_types::v3::Request) -> Outcome<Reply> {
    let flows = json!([
        { "type": "m.login.password" },
        { "type": "m.login.token", "get_login_token": true },
    ]);
    Reply::json(&json!({ "flows": flows }))
}

async fn no_single_sign_on(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Err(DomainError::not_found(
        "This server has no single sign-on; log in with a password",
    ))
}

/// `POST /login`. Read by hand: clients of all ages send it in many shapes.
#[derive(Deserialize)]
struct Login {
    r#type: String,
    identifier: Option<Identifier>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    refresh_token: Option<bool>,
}

#[derive(Deserialize)]
struct Identifier {
    r#type: String,
    user: Option<Value>,
    medium: Option<String>,
    address: Option<String>,
}

async fn login(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let login: Login = request.json()?;
    let (user, password_proved) = match login.r#type.as_str() {
        "m.login.password" => (by_password(&ctx, &login).await?, true),
        "m.login.token" => (by_token(&ctx, login.token.as_deref()).await?, false),
        "m.login.application_service" => {
            return Err(DomainError::missing_token(
                "This is not the token of an application service",
            ));
        }
        _ => return Err(DomainError::unknown("Unknown login type")),
    };
    let device = new_device(
        &ctx,
        login.device_id.filter(|id| !id.as_str().is_empty()),
        login.initial_device_display_name,
        login.refresh_token.unwrap_or(false),
        password_proved,
    );
    let session = ctx.hub.sessions().login(&user, device).await?;
    note(&ctx, Incident::LoginSucceeded, Some(user.as_str()));
    let mut body = logged_in(&ctx, &session);
    if let Some(base) = ctx.config.client_base_url() {
        body.insert(
            "well_known".to_owned(),
            json!({ "m.homeserver": { "base_url": base.as_str() } }),
        );
    }
    Reply::json(&body)
}

/// Whom a login names; phone numbers name nobody, as none can be added here.
async fn named(env: &Env, login: &Login) -> Outcome<Option<OwnedUserId>> {
    let name = match &login.identifier {
        Some(Identifier {
            r#type,
            medium,
            address,
            ..
        }) if r#type == "m.id.thirdparty" => {
            return match (medium.as_deref(), address) {
                (Some("email"), Some(address)) => email::owner(env, address).await,
                _ => Ok(None),
            };
        }
        Some(Identifier { r#type, user, .. }) if r#type == "m.id.user" => {
            let user = user.as_ref().and_then(Value::as_str);
            user.ok_or_else(|| DomainError::missing_param("identifier.user is missing"))?
        }
        Some(Identifier { r#type, .. }) if r#type == "m.id.phone" => return Ok(None),
        Some(_) => return Err(DomainError::unknown("Unknown type of identifier")),
        None => match &login.user {
            Some(user) => user,
            None => return Err(DomainError::missing_param("identifier is missing")),
        },
    };
    Ok(localpart::meant(name, &env.server_name))
}

async fn by_password(ctx: &Ctx, login: &Login) -> Outcome<OwnedUserId> {
    let env = ctx.hub.env();
    let given = login
        .password
        .as_deref()
        .ok_or_else(|| DomainError::missing_param("password is missing"))?;
    let user = named(env, login).await?;
    if let Some(user) = &user {
        // Whether the account exists and whatever the password: an address can be changed, the account cannot.
        count_attempt(ctx, user)?;
    }
    match (password::verify(env, user.as_deref(), given).await?, user) {
        (true, Some(user)) => Ok(user),
        (_, user) => {
            let named = user.as_ref().map(|user| user.as_str());
            note(ctx, Incident::LoginFailed, named);
            Err(wrong_credentials())
        }
    }
}

fn note(ctx: &Ctx, incident: Incident, user: Option<&str>) {
    let agent = ctx.request.user_agent.as_deref();
    ctx.hub.env().security.note(incident, user, ctx.request.ip, agent);
}

async fn by_token(ctx: &Ctx, given: Option<&str>) -> Outcome<OwnedUserId> {
    let env = ctx.hub.env();
    let given = given.ok_or_else(|| DomainError::missing_param("token is missing"))?;
    let found = env.store.take_short_token(&token::hash(given), LOGIN).await?;
    let found = found.filter(|found| found.expires_ts > env.clock.now_ms());
    let found = found.ok_or_else(|| DomainError::forbidden("The login token is unknown or has expired"))?;
    found
        .user_id
        .parse()
        .map_err(|_| DomainError::internal(format!("short_token.user_id: {}", found.user_id)))
}

async fn get_token(ctx: Ctx, request: get_login_token::v1::Request) -> Outcome<Reply> {
    let passed = own_account(&ctx, "get_token", b"", request.auth.as_ref()).await?;
    let env = ctx.hub.env();
    let login_token = token::generate(&env.rng, "srl");
    let lifetime_ms = i64::try_from(ctx.config.tokens.login_token_lifetime_secs)
        .unwrap_or(0)
        .saturating_mul(1_000);
    let now = env.clock.now_ms();
    let row = short_token::Model {
        token_hash: login_token.hash().to_vec(),
        kind: LOGIN.to_owned(),
        user_id: ctx.user()?.user_id.to_string(),
        expires_ts: now.saturating_add(lifetime_ms),
    };
    env.store.create_short_token(&row, now).await?;
    passed.finish(&ctx);
    Reply::json(&json!({ "login_token": login_token.expose(), "expires_in_ms": lifetime_ms }))
}

async fn log_out(ctx: Ctx, _request: logout::v3::Request) -> Outcome<Reply> {
    ctx.hub.sessions().logout(ctx.user()?).await?;
    Ok(Reply::empty())
}

async fn log_out_all(ctx: Ctx, _request: logout_all::v3::Request) -> Outcome<Reply> {
    ctx.hub.sessions().logout_all(&ctx.user()?.user_id).await?;
    Ok(Reply::empty())
}

async fn refresh(ctx: Ctx, request: refresh_token::v3::Request) -> Outcome<Reply> {
    let session = ctx.hub.sessions().refresh(&request.refresh_token).await?;
    Reply::json(&tokens(&ctx, &session))
}
