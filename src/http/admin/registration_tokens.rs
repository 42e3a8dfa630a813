//! Registration tokens: who holds one may register (`m.login.registration_token`).

use actors::error::{DomainError, Outcome};
use entities::error::StoreError;
use entities::registration_token::Model;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

const ALL: &str = "/_synapse/admin/v1/registration_tokens";
const NEW: &str = "/_synapse/admin/v1/registration_tokens/new";
const ONE: &str = "/_synapse/admin/v1/registration_tokens/{token}";
/// Characters of a token (client-server API, "Token-authenticated registration").
const MAX_LENGTH: usize = 64;
/// Characters of a token nobody chose.
const USUAL_LENGTH: usize = 16;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    t.raw(Method::GET, ALL, Policy::Admin, list);
    t.raw(Method::POST, NEW, Policy::Admin, create);
    t.raw(Method::GET, ONE, Policy::Admin, get);
    t.raw(Method::PUT, ONE, Policy::Admin, update);
    t.raw(Method::DELETE, ONE, Policy::Admin, delete);
}

fn shown(row: &Model) -> Value {
    json!({
        "token": row.token,
        "uses_allowed": row.uses_allowed,
        "pending": row.pending,
        "completed": row.completed,
        "expiry_time": row.expires_ts,
    })
}

fn unknown(token: &str) -> DomainError {
    DomainError::not_found(format!("No such registration token: {token}"))
}

async fn list(ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    let wanted = match ctx.request.query_param("valid").as_deref() {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => return Err(DomainError::invalid_param("valid must be true or false")),
    };
    let env = ctx.hub.env();
    let now = env.clock.now_ms();
    let is_valid = |row: &Model| {
        row.uses_allowed
            .is_none_or(|allowed| row.completed + row.pending < allowed)
            && row.expires_ts.is_none_or(|ts| ts > now)
    };
    let rows = env.store.registration_tokens().await?;
    let rows = rows
        .iter()
        .filter(|row| wanted.is_none_or(|wanted| is_valid(row) == wanted));
    Reply::json(&json!({ "registration_tokens": rows.map(shown).collect::<Vec<_>>() }))
}

async fn get(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let token = request.arg(0)?;
    let row = ctx.hub.env().store.registration_token(token).await?;
    Reply::json(&shown(&row.ok_or_else(|| unknown(token))?))
}

#[derive(Deserialize)]
struct New {
    token: Option<String>,
    length: Option<usize>,
    uses_allowed: Option<i64>,
    expiry_time: Option<i64>,
}

async fn create(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let new: New = request.json()?;
    let env = ctx.hub.env();
    let token = match new.token {
        Some(token) => token,
        None => env
            .rng
            .alphanumeric(new.length.unwrap_or(USUAL_LENGTH).clamp(1, MAX_LENGTH)),
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    if token.is_empty() || token.len() > MAX_LENGTH || !token.bytes().all(allowed) {
        return Err(DomainError::invalid_param(
            "token must be 1 to 64 characters of A-Z a-z 0-9 . _ ~ -",
        ));
    }
    check(new.uses_allowed, new.expiry_time, env.clock.now_ms())?;
    let row = Model {
        token,
        uses_allowed: new.uses_allowed,
        pending: 0,
        completed: 0,
        expires_ts: new.expiry_time,
    };
    match env.store.create_registration_token(&row).await {
        Ok(()) => Reply::json(&shown(&row)),
        Err(StoreError::Duplicate(_)) => Err(DomainError::invalid_param("The token exists already")),
        Err(error) => Err(error.into()),
    }
}

fn check(uses_allowed: Option<i64>, expiry_time: Option<i64>, now: i64) -> Outcome<()> {
    if uses_allowed.is_some_and(|uses| uses < 0) {
        return Err(DomainError::invalid_param("uses_allowed must not be negative"));
    }
    if expiry_time.is_some_and(|ts| ts <= now) {
        return Err(DomainError::invalid_param("expiry_time must not be in the past"));
    }
    Ok(())
}

/// What is absent stays; `null` means no limit.
async fn update(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let token = request.arg(0)?;
    let env = ctx.hub.env();
    let mut row = env
        .store
        .registration_token(token)
        .await?
        .ok_or_else(|| unknown(token))?;
    let body = request.value()?;
    let number = |name: &str, now: Option<i64>| match body.get(name) {
        None => Ok(now),
        Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_i64()
            .map(Some)
            .ok_or_else(|| DomainError::invalid_param(format!("{name} must be an integer"))),
    };
    let expiry = number("expiry_time", row.expires_ts)?;
    row.uses_allowed = number("uses_allowed", row.uses_allowed)?;
    check(
        row.uses_allowed,
        expiry.filter(|_| expiry != row.expires_ts),
        env.clock.now_ms(),
    )?;
    row.expires_ts = expiry;
    match env
        .store
        .update_registration_token(token, row.uses_allowed, row.expires_ts)
        .await?
    {
        true => Reply::json(&shown(&row)),
        false => Err(unknown(token)),
    }
}

async fn delete(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let token = request.arg(0)?;
    match ctx.hub.env().store.delete_registration_token(token).await? {
        true => Ok(Reply::empty()),
        false => Err(unknown(token)),
    }
}
