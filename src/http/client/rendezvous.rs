//! Where two devices of a user meet so that one signs the other in with a QR code: the form of 2024, with texts and ETags
//! (MSC4108), and today's, with JSON (MSC4388). What they say to each other is encrypted; this server keeps it for minutes.
//!
//! The sign-in itself needs an OAuth 2.0 device grant, which clients look for by themselves (`/auth_metadata`).

use std::time::{Duration, UNIX_EPOCH};

use actors::clock::Millis;
use actors::error::{DomainError, Outcome};
use actors::rendezvous::{MAX_BYTES, Payload, Refused};
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderName, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, PRAGMA,
};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

const OLD: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";
const OLD_ONE: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous/{rendezvous_id}";
const OLD_ALIAS: &str = "/_synapse/client/rendezvous/{rendezvous_id}";
const NEW: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";
const NEW_ONE: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous/{rendezvous_id}";
/// A text as JSON may have several bytes for each of its own.
const JSON_BODY: usize = 8 * MAX_BYTES;
/// Says how large a text may be.
const MAX_BYTES_HEADER: HeaderName = HeaderName::from_static("x-max-bytes");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.raw(Method::POST, OLD, Policy::Open, old_create)
        .limit(Class::Default)
        .body_limit(MAX_BYTES);
    t.raw(Method::GET, OLD_ONE, Policy::Open, old_read)
        .also(OLD_ALIAS)
        .limit(Class::Default);
    t.raw(Method::PUT, OLD_ONE, Policy::Open, old_write)
        .also(OLD_ALIAS)
        .limit(Class::Default)
        .body_limit(MAX_BYTES);
    t.raw(Method::DELETE, OLD_ONE, Policy::Open, old_end)
        .also(OLD_ALIAS)
        .limit(Class::Default);
    t.raw(Method::GET, NEW, Policy::Optional, available)
        .limit(Class::Default);
    t.raw(Method::POST, NEW, Policy::Optional, create)
        .limit(Class::Default)
        .body_limit(JSON_BODY);
    t.raw(Method::GET, NEW_ONE, Policy::Open, read).limit(Class::Default);
    t.raw(Method::PUT, NEW_ONE, Policy::Open, write)
        .limit(Class::Default)
        .body_limit(JSON_BODY);
    t.raw(Method::DELETE, NEW_ONE, Policy::Open, end).limit(Class::Default);
}

fn now(ctx: &Ctx) -> Millis {
    ctx.hub.env().clock.now_ms()
}

fn unknown() -> DomainError {
    DomainError::not_found("There is no such rendezvous.")
}

fn seconds_as_date(ms: Millis) -> String {
    let since = Duration::from_secs(u64::try_from(ms / 1_000).unwrap_or(0));
    httpdate::fmt_http_date(UNIX_EPOCH + since)
}

/// What every answer of the older form tells of the text.
fn described(reply: Reply, payload: &Payload) -> Outcome<Reply> {
    reply
        .with_header(ETAG, format!("\"{}\"", payload.token))?
        .with_header(EXPIRES, seconds_as_date(payload.expires_ms))?
        .with_header(LAST_MODIFIED, seconds_as_date(payload.modified_ms))?
        .with_header(MAX_BYTES_HEADER, MAX_BYTES.to_string())?
        .with_header(CACHE_CONTROL, "no-store")?
        .with_header(PRAGMA, "no-cache")
}

fn nothing(status: StatusCode) -> Reply {
    Reply::raw(status, HeaderMap::new(), "")
}

fn require_text(ctx: &Ctx) -> Outcome<()> {
    let kind = ctx.request.header(&CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("text/plain") {
        Ok(())
    } else {
        Err(DomainError::invalid_param("the body is text/plain"))
    }
}

/// A revision out of a header; quotes and the mark of weak ones do not count.
fn revision(ctx: &Ctx, name: &HeaderName) -> Option<String> {
    let value = ctx.request.header(name)?.trim();
    let value = value.strip_prefix("W/").unwrap_or(value);
    Some(value.trim_matches('"').to_owned())
}

async fn old_create(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    require_text(&ctx)?;
    let env = ctx.hub.env();
    let (id, payload) = env.rendezvous.create(&env.rng, now(&ctx), request.body.to_vec())?;
    let base = match ctx.config.client_base_url() {
        Some(base) => base.as_str().trim_end_matches('/').to_owned(),
        None => format!("https://{}", ctx.config.server_name),
    };
    let url = format!("{base}{OLD}/{id}");
    let reply = Reply::json(&json!({ "url": url }))?.with_status(StatusCode::CREATED);
    described(reply, &payload)?.with_header(LOCATION, url)
}

async fn old_read(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let found = ctx.hub.env().rendezvous.read(now(&ctx), request.arg(0)?);
    let payload = found.ok_or_else(unknown)?;
    if revision(&ctx, &IF_NONE_MATCH).as_ref() == Some(&payload.token) {
        return described(nothing(StatusCode::NOT_MODIFIED), &payload);
    }
    described(Reply::text("text/plain", payload.data.clone()), &payload)
}

async fn old_write(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    require_text(&ctx)?;
    let seen = revision(&ctx, &IF_MATCH).ok_or_else(|| DomainError::missing_param("the header If-Match is missing"))?;
    let env = ctx.hub.env();
    let data = request.body.to_vec();
    match env
        .rendezvous
        .write(&env.rng, now(&ctx), request.arg(0)?, &seen, data)?
    {
        Ok(payload) => described(nothing(StatusCode::ACCEPTED), &payload),
        Err(Refused::Unknown) => Err(unknown()),
        Err(Refused::Outdated(payload)) => {
            let body = json!({
                "errcode": "M_UNKNOWN",
                "org.matrix.msc4108.errcode": "M_CONCURRENT_WRITE",
                "error": "another text has been left meanwhile",
            });
            let reply = Reply::json(&body)?.with_status(StatusCode::PRECONDITION_FAILED);
            described(reply, &payload)
        }
    }
}

async fn old_end(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    match ctx.hub.env().rendezvous.end(now(&ctx), request.arg(0)?) {
        true => Ok(nothing(StatusCode::NO_CONTENT)),
        false => Err(unknown()),
    }
}

/// Anybody may begin a meeting: the new device has no account yet.
async fn available(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "create_available": true }))
}

async fn create(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        data: String,
    }
    let body: Body = request.json()?;
    let env = ctx.hub.env();
    let now = now(&ctx);
    let (id, payload) = env.rendezvous.create(&env.rng, now, body.data.into_bytes())?;
    Reply::json(&json!({
        "id": id,
        "sequence_token": payload.token,
        "expires_in_ms": payload.expires_ms - now,
    }))
}

async fn read(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    // No page for people: nobody is to be led here by a link.
    if ctx.request.header(&SEC_FETCH_MODE) == Some("navigate") {
        return Err(DomainError::forbidden("this is not for browsing"));
    }
    let now = now(&ctx);
    let found = ctx.hub.env().rendezvous.read(now, request.arg(0)?);
    let payload = found.ok_or_else(unknown)?;
    Reply::json(&json!({
        "data": String::from_utf8_lossy(&payload.data),
        "sequence_token": payload.token,
        "expires_in_ms": payload.expires_ms - now,
    }))
}

async fn write(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        sequence_token: String,
        data: String,
    }
    let Body { sequence_token, data } = request.json()?;
    let (env, id, data) = (ctx.hub.env(), request.arg(0)?, data.into_bytes());
    let written = env
        .rendezvous
        .write(&env.rng, now(&ctx), id, &sequence_token, data.clone())?;
    match written {
        Ok(payload) => Reply::json(&json!({ "sequence_token": payload.token })),
        // Repeated, since the answer was lost.
        Err(Refused::Outdated(payload)) if payload.data == data => {
            Reply::json(&json!({ "sequence_token": payload.token }))
        }
        Err(Refused::Outdated(_)) => Err(DomainError::matrix(
            409,
            "IO_ELEMENT_MSC4388_CONCURRENT_WRITE",
            "another text has been left meanwhile",
        )),
        Err(Refused::Unknown) => Err(unknown()),
    }
}

async fn end(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    match ctx.hub.env().rendezvous.end(now(&ctx), request.arg(0)?) {
        true => Ok(Reply::empty()),
        false => Err(unknown()),
    }
}
