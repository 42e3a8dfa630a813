//! The server itself: status, configuration, logs, work under way.

use std::sync::Arc;

use actors::error::{DomainError, Outcome};
use entities::admin_task;
use http::Method;
use serde_json::{Value, json};

use super::params::{number, slice};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::process;
use crate::http::reply::Reply;
use crate::log_ring::{LogRing, level};

/// Lines of the log where the request does not say.
const LINES: i64 = 100;

/// Registers the endpoints.
pub fn routes(t: &mut Table, logs: Arc<LogRing>) {
    let admin = Policy::Admin;
    t.raw(Method::GET, "/_synapse/admin/v1/status", admin, status);
    t.raw(Method::GET, "/_synapse/admin/v1/config", admin, config);
    let read = move |ctx: Ctx, _: RawRequest| {
        let logs = logs.clone();
        async move { lines(&ctx, &logs) }
    };
    t.raw(Method::GET, "/_synapse/admin/v1/logs", admin, read);
    t.raw(Method::GET, "/_synapse/admin/v1/scheduled_tasks", admin, tasks);
    let enabled = "/_synapse/admin/v1/background_updates/enabled";
    t.raw(Method::GET, enabled, admin, updates_enabled);
    t.raw(Method::POST, enabled, admin, no_updates);
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/background_updates/status",
        admin,
        updates_status,
    );
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/background_updates/start_job",
        admin,
        no_updates,
    );
    for (method, path) in [
        (Method::POST, "/_synapse/admin/v1/send_server_notice"),
        (Method::PUT, "/_synapse/admin/v1/send_server_notice/{txn_id}"),
    ] {
        t.raw(method, path, admin, no_notices);
    }
}

async fn status(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let database = env.store.ping().await.is_ok();
    let uptime = env.clock.now_ms().saturating_sub(env.started_ms) / 1_000;
    Reply::json(&json!({
        "status": if database { "ok" } else { "degraded" },
        "database": if database { "connected" } else { "disconnected" },
        // Caches are in the process, which answers.
        "cache": "connected",
        "uptime_seconds": uptime,
        "version": process::VERSION,
    }))
}

/// What administrators need to know of the configuration: no secrets, no paths.
async fn config(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let config = &ctx.config;
    Reply::json(&json!({
        "server_name": config.server_name,
        "public_baseurl": config.public_baseurl.as_ref().map(|url| url.as_str()),
        "max_upload_size": config.media.max_upload_bytes,
        "registration_enabled": config.registration.enabled,
        "registration_requires_token": config.registration.require_token,
        "allow_guest_access": config.registration.allow_guest_access,
        "federation_enabled": config.federation.enabled,
        "default_room_version": config.default_room_version,
        "log_level": config.logging.level,
    }))
}

fn lines(ctx: &Ctx, logs: &LogRing) -> Outcome<Reply> {
    let least = match ctx.request.query_param("level") {
        Some(name) => Some(
            level(&name)
                .ok_or_else(|| DomainError::invalid_param("level must be error, warn, info, debug or trace"))?,
        ),
        None => None,
    };
    let limit = usize::try_from(number(ctx, "limit", LINES)?).unwrap_or(usize::MAX);
    let lines = logs.newest(limit, least);
    Reply::json(&json!({ "logs": lines, "total": lines.len() }))
}

fn shown(row: &admin_task::Model) -> Value {
    json!({
        "id": row.id,
        "action": row.kind,
        "status": row.status,
        "timestamp_ms": row.updated_ts,
        "resource_id": row.subject,
        "result": serde_json::from_str::<Value>(&row.result).ok(),
        "error": row.error,
    })
}

async fn tasks(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let param = |name| ctx.request.query_param(name).unwrap_or_default();
    let (kind, subject, status) = (param("action_name"), param("resource_id"), param("job_status"));
    let slice = slice(&ctx, true)?;
    let store = &ctx.hub.env().store;
    let rows = store.admin_tasks(&kind, &subject, &status, slice).await?;
    Reply::json(&json!({ "scheduled_tasks": rows.iter().map(shown).collect::<Vec<_>>() }))
}

/// Tables are brought up to date before the server answers anybody, so there never is an update under way.
async fn updates_enabled(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "enabled": true }))
}

async fn updates_status(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "enabled": true, "current_updates": {} }))
}

async fn no_updates(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Err(DomainError::unknown(
        "This server has no background updates: its tables are brought up to date when it starts",
    ))
}

async fn no_notices(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Err(DomainError::unknown("Server notices are not enabled on this server"))
}
