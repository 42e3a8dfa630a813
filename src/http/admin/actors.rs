//! What every actor does: lists, totals, a look at one, and the two things an administrator may do to one.

use actors::error::{DomainError, Outcome};
use actors::stats::{ListQuery, Sort};
use actors::supervisor::{Kind, Observation, Passivation};
use http::Method;
use serde_json::json;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Actors in one list.
const DEFAULT_LIMIT: usize = 50;
/// The most that may be asked for.
const MAX_LIMIT: usize = 1_000;

/// Registers the chapter.
pub fn routes(table: &mut Table) {
    let admin = Policy::Admin;
    table.raw(Method::GET, "/_synapse/admin/v1/actors", admin, list);
    table.raw(Method::GET, "/_synapse/admin/v1/actors/{kind}/{key}", admin, one);
    table.raw(
        Method::POST,
        "/_synapse/admin/v1/actors/{kind}/{key}/passivate",
        admin,
        passivate,
    );
    table.raw(
        Method::POST,
        "/_synapse/admin/v1/actors/{kind}/{key}/release",
        admin,
        release,
    );
}

/// `?kind=room&sort=queue&phase=live&contains=…&limit=50`: the actors in memory and the totals by kind and arbiter. Sends no
/// message to any actor, so a stuck one is seen too.
async fn list(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let param = |name| ctx.request.query_param(name);
    let limit = match param("limit") {
        Some(text) => text
            .parse()
            .map_err(|_| DomainError::invalid_param("limit must be a number"))?,
        None => DEFAULT_LIMIT,
    };
    let query = ListQuery {
        kind: param("kind").map(|text| text.parse()).transpose()?,
        contains: param("contains"),
        phase: param("phase").map(|text| phase(&text)).transpose()?,
        sort: param("sort")
            .map(|text| text.parse::<Sort>())
            .transpose()?
            .unwrap_or_default(),
        limit: limit.min(MAX_LIMIT),
    };
    let registry = ctx.hub.registry();
    let journal = ctx.hub.env().journal.stats();
    let load = |n: &std::sync::atomic::AtomicI64| n.load(std::sync::atomic::Ordering::Relaxed);
    Reply::json(&json!({
        "actors": registry.list(&query),
        "totals": registry.totals(),
        "arbiter_lag_us": ctx.hub.arbiter_lags_us(),
        "journal": {
            "visible": ctx.hub.env().visible(),
            "waiting": journal.waiting.load(std::sync::atomic::Ordering::Relaxed),
            "batches": load(&journal.batches),
            "submissions": load(&journal.submissions),
            "refused": load(&journal.refused),
            "last_commit_us": load(&journal.last_commit_us),
            "last_commit_ms": load(&journal.last_commit_ms),
        },
    }))
}

fn phase(text: &str) -> Outcome<actors::stats::Phase> {
    serde_json::from_value(text.into()).map_err(|_| DomainError::invalid_param("unknown phase"))
}

/// One actor, asked for its state within a second; `status` is `alive`, `timeout` or `post_mortem`.
async fn one(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let key = request.arg(1)?;
    let seen: Option<Observation> = match request.parse::<Kind>(0)? {
        Kind::Room => ctx.hub.rooms().actors().observe(key).await,
        Kind::Session => ctx.hub.sessions().actors().observe(key).await,
        Kind::Peer => ctx.hub.peers().actors().observe(key).await,
    };
    Reply::json(&seen.ok_or_else(|| DomainError::not_found("No such actor is in memory."))?)
}

/// Takes an idle actor out of memory.
async fn passivate(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let key = request.arg(1)?;
    let done = match request.parse::<Kind>(0)? {
        Kind::Room => ctx.hub.rooms().actors().passivate(key).await?,
        Kind::Session => ctx.hub.sessions().actors().passivate(key).await?,
        Kind::Peer => ctx.hub.peers().actors().passivate(key).await?,
    };
    match done {
        Passivation::Passivated => Reply::json(&json!({ "passivated": true })),
        Passivation::Busy => Err(DomainError::conflict("The actor is working.")),
        Passivation::NotLive => Err(DomainError::not_found("No such actor is in memory.")),
    }
}

/// Ends an actor's pause or quarantine.
async fn release(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let key = request.arg(1)?;
    let released = match request.parse::<Kind>(0)? {
        Kind::Room => ctx.hub.rooms().actors().release(key).await?,
        Kind::Session => ctx.hub.sessions().actors().release(key).await?,
        Kind::Peer => ctx.hub.peers().actors().release(key).await?,
    };
    Reply::json(&json!({ "released": released }))
}
