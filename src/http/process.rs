//! What the process itself shows: health, readiness, metrics, a page for people, and what other programs discover.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::stream::journal::JournalStats;
use http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use ruma::serde::Base64;
use serde_json::{Value, json};

use super::auth::Policy;
use super::client::rtc::foci;
use super::context::{Ctx, RawRequest};
use super::endpoint::Table;
use super::reply::Reply;
use crate::config::Config;
use crate::log_ring::LogRing;

/// What these endpoints need that other handlers do not.
#[derive(Clone)]
pub struct Process {
    config: Arc<Config>,
    metrics: Metrics,
    logs: Arc<LogRing>,
}

/// Renders every metric in Prometheus' text format.
type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The name and version other servers and people are told.
pub const NAME: &str = env!("CARGO_PKG_NAME");
/// See [`NAME`].
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of Synapse whose administration interface this one is compatible with: administration programs ask for it
/// to know what there is.
const ADMIN_API_VERSION: &str = "1.146.0";

/// How often and at what distance the journal is looked at before it counts as stuck: for 5 seconds, as long as a
/// statement of a commit may take.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(100);

impl Process {
    /// From what the process was started with.
    #[must_use]
    pub fn new(config: Arc<Config>, metrics: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self {
            config,
            metrics: Arc::new(metrics),
            logs: Arc::default(),
        }
    }

    /// With the lines of the log that administrators may read.
    #[must_use]
    pub fn with_logs(self, logs: Arc<LogRing>) -> Self {
        Self { logs, ..self }
    }

    /// The lines of the log that administrators may read.
    #[must_use]
    pub fn logs(&self) -> &Arc<LogRing> {
        &self.logs
    }

    /// What the administrator set.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Registers the endpoints.
    pub fn routes(&self, table: &mut Table) {
        let open = Policy::Open;
        table.raw(Method::GET, "/", open, welcome);
        table
            .raw(Method::GET, "/_matrix/static/", open, page)
            .also("/_matrix/static");
        table.raw(Method::GET, "/_matrix/static/client/login/", open, login_page);
        table.raw(Method::GET, "/health", open, health);
        table.raw(Method::GET, "/_synapse/admin/v1/ready", open, ready);
        table.raw(Method::GET, "/_synapse/admin/v1/server_version", open, server_version);
        table.raw(Method::GET, "/.well-known/matrix/client", open, well_known_client);
        table.raw(Method::GET, "/.well-known/matrix/server", open, well_known_server);
        table.raw(Method::GET, "/.well-known/matrix/support", open, well_known_support);
        let path = "/.well-known/matrix/policy_server";
        table.raw(Method::GET, path, open, well_known_policy_server);
        let render = self.metrics.clone();
        let metrics = move |_: Ctx, _: RawRequest| {
            let text = render();
            async move { Ok(Reply::text("text/plain; version=0.0.4; charset=utf-8", text)) }
        };
        table
            .raw(Method::GET, "/_synapse/metrics", open, metrics.clone())
            .also("/metrics");
        tracing::debug!(server = %self.config.server_name, "endpoints of the process registered");
    }
}

/// Whoever opens the server's address in a browser.
async fn welcome(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::text("text/plain; charset=utf-8", "")
        .with_status(StatusCode::FOUND)
        .with_header(LOCATION, "/_matrix/static/")
}

async fn page(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let name = ctx
        .config
        .server_name
        .as_str()
        .replace('&', "&amp;")
        .replace('<', "&lt;");
    let html = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title>\
         <style>body{{font:16px sans-serif;max-width:36em;margin:4em auto;padding:0 1em}}</style></head><body>\
         <h1>It works: {name}</h1><p>This is a Matrix homeserver, {NAME} {VERSION}. Open a Matrix client and enter \
         this address as the homeserver to log in or to make an account.</p></body></html>"
    );
    Ok(Reply::text("text/html; charset=utf-8", html))
}

/// The login fallback: a page that logs in and hands the answer to `window.matrixLogin.onLogin` (client-server API, login
/// fallback).
async fn login_page(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    const POLICY: HeaderValue = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
    );
    let mut reply = Reply::text("text/html; charset=utf-8", include_str!("pages/login.html"));
    reply.headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    Ok(reply)
}

/// Liveness: this handler ran on the shared runtime, so its threads are alive.
async fn health(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Ok(Reply::text("text/plain; charset=utf-8", "OK"))
}

/// Readiness: the database answers, the journal is not stuck and the server is not about to stop.
async fn ready(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let database = env.store.ping().await.is_ok();
    let stats = env.journal.stats();
    let journal = journal_moves(stats, LOOK).await;
    let waiting = stats.waiting.load(Ordering::Relaxed);
    let draining = ctx.hub.is_draining();
    let ok = database && journal && !draining;
    let body = json!({
        "ready": ok, "database": database, "journal": journal, "draining": draining, "journal_waiting": waiting,
    });
    let status = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok(json_with(status, &body))
}

/// Which administration interface this is; who really answers tells `/_matrix/federation/v1/version`.
async fn server_version(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "server_version": ADMIN_API_VERSION, "python_version": "rust" }))
}

/// Whether nothing waits to be committed, or a batch is committed while we look.
async fn journal_moves(stats: &JournalStats, look: Duration) -> bool {
    let before = stats.batches.load(Ordering::Relaxed);
    for _ in 0..LOOKS {
        if stats.waiting.load(Ordering::Relaxed) == 0 || stats.batches.load(Ordering::Relaxed) != before {
            return true;
        }
        tokio::time::sleep(look).await;
    }
    false
}

fn json_with(status: StatusCode, body: &Value) -> Reply {
    let mut reply = Reply::raw(status, HeaderMap::new(), body.to_string());
    reply.headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    reply
}

async fn well_known_client(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let config = &ctx.config;
    let base = config
        .client_base_url()
        .ok_or_else(|| DomainError::not_found("No public address is configured."))?;
    let mut body = json!({ "m.homeserver": { "base_url": base.as_str() } });
    if let Some(identity) = &config.client_well_known.identity_server_base_url {
        body["m.identity_server"] = json!({ "base_url": identity.as_str() });
    }
    let foci = foci(&config.rtc);
    if !foci.is_empty() {
        body["org.matrix.msc4143.rtc_foci"] = foci.into();
    }
    Reply::json(&body)
}

async fn well_known_server(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let delegate = ctx.config.server_well_known.delegate_to.as_deref();
    let delegate = delegate.ok_or_else(|| DomainError::not_found("This server does not delegate."))?;
    Reply::json(&json!({ "m.server": delegate }))
}

async fn well_known_policy_server(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let policy = ctx.hub.env().settings.policy.as_ref();
    let policy = policy.ok_or_else(|| DomainError::not_found("This server is not a policy server."))?;
    let key: Base64 = Base64::new(policy.key.public_key().to_vec());
    Reply::json(&json!({ "public_keys": { "ed25519": key.encode() } }))
}

async fn well_known_support(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let support = &ctx.config.support;
    if support.page.is_none() && support.contacts.is_empty() {
        return Err(DomainError::not_found("No support contact is configured."));
    }
    let contacts: Vec<Value> = support
        .contacts
        .iter()
        .map(|contact| {
            let mut entry = json!({ "role": contact.role });
            if let Some(id) = &contact.matrix_id {
                entry["matrix_id"] = json!(id);
            }
            if let Some(address) = &contact.email_address {
                entry["email_address"] = json!(address);
            }
            entry
        })
        .collect();
    let mut body = json!({ "contacts": contacts });
    if let Some(page) = &support.page {
        body["support_page"] = json!(page.as_str());
    }
    Reply::json(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_journal_that_stands_still_is_found() {
        let (stats, look) = (JournalStats::default(), Duration::from_millis(1));
        assert!(journal_moves(&stats, look).await, "nothing waits");
        stats.waiting.store(1, Ordering::Relaxed);
        assert!(!journal_moves(&stats, look).await);
        let commit = async {
            tokio::time::sleep(look * 2).await;
            stats.batches.fetch_add(1, Ordering::Relaxed);
        };
        let (moves, ()) = tokio::join!(journal_moves(&stats, look), commit);
        assert!(moves);
    }
}
