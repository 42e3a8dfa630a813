//! What all requests share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use actors::error::Outcome;
use actors::federation::SignedRequest;
use actors::hub::Hub;
use actors::session::identity::Identity;
use futures_util::future::BoxFuture;
use ruma::OwnedServerName;
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
