//! What all requests share.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use actors::error::Outcome;
use actors::federation::SignedRequest;
use actors::hub::Hub;
use actors::security::Incident;
use actors::session::identity::Identity;
use futures_util::future::BoxFuture;
use ruma::{OwnedServerName, UserId};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::context::RequestInfo;
use super::endpoint::Table;
use super::gate::Gate;
use super::limits::Limits;
use crate::config::{Config, Resource};

/// What the edge itself needs of the hub. Tests bring their own.
pub trait Backend: Send + Sync + 'static {
    /// The runtime that handlers run on.
    fn io(&self) -> &Handle;

    /// Who an access token belongs to; `M_UNKNOWN_TOKEN` if nobody.
    fn identify(self: Arc<Self>, token: String) -> BoxFuture<'static, Outcome<Arc<Identity>>>;

    /// Whether this process must not answer any more.
    fn is_fenced(&self) -> bool {
        false
    }

    /// Whether an address is blocked. Must be quick.
    fn is_blocked(&self, _ip: IpAddr) -> bool {
        false
    }

    /// A request was refused before anybody looked at what it wants. Must be quick.
    fn refused(&self, _incident: Incident, _info: &RequestInfo) {}

    /// The user's own rate limit, requests a second and at once; 0 a second for none. Must be quick.
    fn rate_limit(&self, _user: &UserId) -> Option<(i64, i64)> {
        None
    }

    /// A token's device made a request. Must be quick.
    fn seen(&self, _identity: &Identity, _info: &RequestInfo) {}

    /// Which server signed a request.
    fn origin(self: Arc<Self>, signed: SignedRequest) -> BoxFuture<'static, Outcome<OwnedServerName>>;
}

impl Backend for Hub {
    fn io(&self) -> &Handle {
        &self.env().io
    }

    fn identify(self: Arc<Self>, token: String) -> BoxFuture<'static, Outcome<Arc<Identity>>> {
        Box::pin(async move { actors::session::auth::identify(self.env(), &token).await })
    }

    fn is_fenced(&self) -> bool {
        Self::is_fenced(self)
    }

    fn is_blocked(&self, ip: IpAddr) -> bool {
        self.env().security.is_blocked(ip)
    }

    fn refused(&self, incident: Incident, info: &RequestInfo) {
        let agent = info.user_agent.as_deref();
        self.env().security.note(incident, None, info.ip, agent);
    }

    fn rate_limit(&self, user: &UserId) -> Option<(i64, i64)> {
        self.env().security.rate_limit(user)
    }

    fn seen(&self, identity: &Identity, info: &RequestInfo) {
        let env = self.env();
        let (ip, agent) = (info.ip.to_string(), info.user_agent.as_deref());
        env.seen.note(identity, &ip, agent, env.clock.now_ms());
    }

    fn origin(self: Arc<Self>, signed: SignedRequest) -> BoxFuture<'static, Outcome<OwnedServerName>> {
        Box::pin(async move {
            let origin = self.env().keyring.verify_request(signed).await?;
            self.peers().seen(&origin);
            Ok(origin)
        })
    }
}

/// What a listening address serves.
#[derive(Clone, Debug)]
pub struct Door {
    /// Parts of the server.
    pub resources: Vec<Resource>,
    /// The client's address is the last entry of `X-Forwarded-For`.
    pub x_forwarded: bool,
}

/// Requests in progress, without those that wait for something to happen.
const MAX_REQUESTS: usize = 4_096;
/// Requests that wait for something to happen.
const MAX_LONG_POLLS: usize = 50_000;

/// Shared by all workers.
pub struct HttpState<H = Hub> {
    /// The way to the actors.
    pub hub: Arc<H>,
    /// The process's configuration.
    pub config: Arc<Config>,
    /// Every endpoint.
    pub table: Table<H>,
    /// The rate limits.
    pub limits: Arc<Limits>,
    /// By local address; addresses that are not in here serve everything.
    pub doors: HashMap<SocketAddr, Door>,
    /// Counts what is in progress; closed when the server stops.
    pub gate: Arc<Gate>,
    pub(super) requests: Arc<Semaphore>,
    pub(super) long_polls: Arc<Semaphore>,
}

impl<H: Backend> HttpState<H> {
    /// Ready to serve.
    #[must_use]
    pub fn new(hub: Arc<H>, config: Arc<Config>, table: Table<H>) -> Self {
        Self {
            limits: Arc::new(Limits::new(&config.rate_limits)),
            hub,
            config,
            table,
            doors: HashMap::new(),
            gate: Arc::default(),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            long_polls: Arc::new(Semaphore::new(MAX_LONG_POLLS)),
        }
    }
}
