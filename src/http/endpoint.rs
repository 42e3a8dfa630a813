//! The table of endpoints. Handlers are erased to one shape as soon as they are registered.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::error::Outcome;
use actors::hub::Hub;
use futures_util::future::BoxFuture;
use http::Method;
use ruma::api::path_builder::PathBuilder as _;
use ruma::api::{IncomingRequest, Metadata};
use serde_json::Value;

use super::auth::Policy;
use super::context::{BodyStream, Ctx, RawRequest, RequestInfo};
use super::limits::Class;
use super::reply::Reply;
use super::ruma::parse;
use super::trie::{Lookup, Trie};
use crate::config::{Config, Resource};

/// Largest body of a client's request, bytes.
pub const CLIENT_BODY: usize = 1024 * 1024;
/// Largest body of a server's request, bytes.
pub const FEDERATION_BODY: usize = 10 * 1024 * 1024;
/// How long a handler may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a handler that waits for something may take; its own timeout should end it before.
const LONG_DEADLINE: Duration = Duration::from_secs(600);

/// Changes a JSON body before it is parsed, so that a typed endpoint accepts more than its type does.
pub type Fix = fn(&mut Value, &RequestInfo);

/// The untyped rest of a request.
pub struct Call {
    /// The decoded path arguments.
    pub args: Vec<String>,
    /// The body of a streamed request.
    pub stream: Option<BodyStream>,
}

type Run<H> = Arc<dyn Fn(Ctx<H>, Call) -> BoxFuture<'static, Outcome<Reply>> + Send + Sync>;

/// An `async fn(Ctx, R) -> Result<Reply, DomainError>`.
pub trait Handler<H, R>: Send + Sync + 'static {
    /// Calls it.
    fn call(&self, ctx: Ctx<H>, request: R) -> BoxFuture<'static, Outcome<Reply>>;
}

impl<H, R, F, Fut> Handler<H, R> for F
where
    F: Fn(Ctx<H>, R) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome<Reply>> + Send + 'static,
{
    fn call(&self, ctx: Ctx<H>, request: R) -> BoxFuture<'static, Outcome<Reply>> {
        Box::pin(self(ctx, request))
    }
}

/// How a body reaches the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// A JSON object, or nothing.
    Json,
    /// Any bytes.
    Bytes,
    /// Any bytes, as they arrive.
    Stream,
}

/// One registered operation, whatever its paths.
pub struct Endpoint<H> {
    /// Who may use it.
    pub policy: Policy,
    /// What its requests count as.
    pub class: Option<Class>,
    /// The largest body, bytes.
    pub body_limit: usize,
    /// What its body is.
    pub body: BodyKind,
    /// Waits for something to happen; not worth going on with when the client has hung up.
    pub long_poll: bool,
    /// Not worth going on with when the client has hung up or the deadline is over, as a long poll.
    pub abandoned: bool,
    /// How long the handler may take.
    pub deadline: Duration,
    /// See [`Fix`].
    pub fix: Option<Fix>,
    /// Whether it answers without a server's signature, too.
    pub unsigned: Option<fn(&Config) -> bool>,
    /// Locked users may use it.
    pub log_out: bool,
    pub(super) run: Run<H>,
}

/// Every endpoint by path.
pub struct Table<H = Hub> {
    endpoints: Vec<Endpoint<H>>,
    trie: Trie<(usize, Resource)>,
    conflicts: Vec<String>,
}

impl<H> Default for Table<H> {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            trie: Trie::default(),
            conflicts: Vec::new(),
        }
    }
}

/// An endpoint that was just registered and can still be changed.
pub struct Registration<'t, H = Hub> {
    table: &'t mut Table<H>,
    index: usize,
    method: Method,
}

impl<H: 'static> Table<H> {
    /// Registers a typed endpoint that needs a token of a user who is no guest.
    pub fn user<R: IncomingRequest + Send + 'static, F: Handler<H, R>>(&mut self, handler: F) -> Registration<'_, H> {
        self.typed(Policy::User, handler)
    }

    /// … of a user or guest.
    pub fn guest<R: IncomingRequest + Send + 'static, F: Handler<H, R>>(&mut self, handler: F) -> Registration<'_, H> {
        self.typed(Policy::Guest, handler)
    }

    /// … that needs no token.
    pub fn open<R: IncomingRequest + Send + 'static, F: Handler<H, R>>(&mut self, handler: F) -> Registration<'_, H> {
        self.typed(Policy::Open, handler)
    }

    /// … that uses a token if there is one.
    pub fn optional<R: IncomingRequest + Send + 'static, F: Handler<H, R>>(
        &mut self,
        handler: F,
    ) -> Registration<'_, H> {
        self.typed(Policy::Optional, handler)
    }

    /// … for administrators.
    pub fn admin<R: IncomingRequest + Send + 'static, F: Handler<H, R>>(&mut self, handler: F) -> Registration<'_, H> {
        self.typed(Policy::Admin, handler)
    }

    /// … for other servers, who sign their requests.
    pub fn server<R: IncomingRequest + Send + 'static, F: Handler<H, R>>(&mut self, handler: F) -> Registration<'_, H> {
        self.typed(Policy::Server, handler)
    }

    /// Registers a path that has no request type.
    pub fn raw<F: Handler<H, RawRequest>>(
        &mut self,
        method: Method,
        path: &'static str,
        policy: Policy,
        handler: F,
    ) -> Registration<'_, H> {
        let run: Run<H> = Arc::new(move |ctx: Ctx<H>, call: Call| {
            let body = ctx.request.body.clone();
            handler.call(
                ctx,
                RawRequest {
                    args: call.args,
                    body,
                    stream: Mutex::new(call.stream),
                },
            )
        });
        self.add(method, &mut std::iter::once(path), policy, None, BodyKind::Bytes, run)
    }

    fn typed<R: IncomingRequest + Send + 'static, F: Handler<H, R>>(
        &mut self,
        policy: Policy,
        handler: F,
    ) -> Registration<'_, H> {
        let run: Run<H> = Arc::new(
            move |ctx: Ctx<H>, call: Call| match parse::<R>(&ctx.request, &call.args) {
                Ok(request) => handler.call(ctx, request),
                Err(refusal) => Box::pin(std::future::ready(Err(refusal))),
            },
        );
        let class = <R as Metadata>::RATE_LIMITED.then_some(Class::Default);
        self.add(
            R::METHOD,
            &mut R::PATH_BUILDER.all_paths(),
            policy,
            class,
            BodyKind::Json,
            run,
        )
    }

    fn add(
        &mut self,
        method: Method,
        paths: &mut dyn Iterator<Item = &'static str>,
        policy: Policy,
        class: Option<Class>,
        body: BodyKind,
        run: Run<H>,
    ) -> Registration<'_, H> {
        let index = self.endpoints.len();
        let mut log_out = false;
        let mut body_limit = CLIENT_BODY;
        for path in paths {
            log_out |= path.ends_with("/logout") || path.ends_with("/logout/all");
            if path.starts_with("/_matrix/federation/") {
                body_limit = FEDERATION_BODY;
            }
            self.insert(&method, path, index);
        }
        let class = if policy == Policy::Server {
            Some(class.unwrap_or(Class::Federation))
        } else {
            class
        };
        self.endpoints.push(Endpoint {
            policy,
            class,
            body_limit,
            body,
            long_poll: false,
            abandoned: false,
            deadline: DEADLINE,
            fix: None,
            unsigned: None,
            log_out,
            run,
        });
        Registration {
            table: self,
            index,
            method,
        }
    }

    fn insert(&mut self, method: &Method, path: &'static str, index: usize) {
        if self.trie.insert(method.clone(), path, (index, resource(path))).is_err() {
            self.conflicts.push(format!("{method} {path}"));
        }
    }

    /// The endpoint of a request.
    pub fn lookup(&self, method: &Method, path: &str) -> Lookup<'_, (usize, Resource)> {
        self.trie.lookup(method, path)
    }

    /// The endpoint that a lookup found.
    #[must_use]
    pub fn endpoint(&self, index: usize) -> &Endpoint<H> {
        &self.endpoints[index]
    }

    /// Methods and paths that were registered twice; the first registration holds.
    #[must_use]
    pub fn conflicts(&self) -> &[String] {
        &self.conflicts
    }

    /// Every method and path template.
    #[must_use]
    pub fn paths(&self) -> Vec<(Method, &'static str)> {
        self.trie
            .routes()
            .into_iter()
            .map(|route| (route.method.clone(), route.template))
            .collect()
    }
}

impl<H: 'static> Registration<'_, H> {
    fn endpoint(&mut self) -> &mut Endpoint<H> {
        &mut self.table.endpoints[self.index]
    }

    /// One more path. Its variables are matched to the request's in their order.
    pub fn also(self, path: &'static str) -> Self {
        self.table.insert(&self.method, path, self.index);
        self
    }

    /// Its requests count as `class`.
    pub fn limit(mut self, class: Class) -> Self {
        self.endpoint().class = Some(class);
        self
    }

    /// Its requests do not count.
    pub fn no_limit(mut self) -> Self {
        self.endpoint().class = None;
        self
    }

    /// Changes the JSON body before it is parsed.
    pub fn fix(mut self, fix: Fix) -> Self {
        self.endpoint().fix = Some(fix);
        self
    }

    /// Answers without a server's signature as well, where the operator wants it.
    pub fn unsigned_where(mut self, may: fn(&Config) -> bool) -> Self {
        self.endpoint().unsigned = Some(may);
        self
    }

    /// The largest body, bytes.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.endpoint().body_limit = bytes;
        self
    }

    /// The body of this typed endpoint is not JSON.
    pub fn binary(mut self) -> Self {
        self.endpoint().body = BodyKind::Bytes;
        self
    }

    /// The body is handed over as it arrives, up to `bytes`; more makes the stream fail.
    pub fn streamed(mut self, bytes: usize) -> Self {
        self.endpoint().body = BodyKind::Stream;
        self.body_limit(bytes)
    }

    /// How long the handler may take; the default is 30 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.endpoint().deadline = deadline;
        self
    }

    /// The handler is dropped when the client hangs up or the deadline is over: it can be dropped anywhere.
    pub fn abandoned(mut self) -> Self {
        self.endpoint().abandoned = true;
        self
    }

    /// The handler waits for something to happen and changes nothing: it is dropped when the client hangs up.
    pub fn long_poll(mut self) -> Self {
        let endpoint = self.endpoint();
        endpoint.long_poll = true;
        endpoint.abandoned = true;
        endpoint.deadline = LONG_DEADLINE;
        self
    }
}

/// Which part of the server a path belongs to. What every listener serves counts as `Client` (see [`everywhere`]).
fn resource(path: &str) -> Resource {
    let mut segments = path.split('/').skip(1);
    match (segments.next(), segments.next()) {
        (Some("_matrix"), Some("federation" | "policy" | "appservice")) => Resource::Federation,
        (Some("_matrix"), Some("key")) => Resource::Keys,
        (Some("_matrix"), Some("media")) => Resource::Media,
        (Some("_matrix"), Some("client")) if path.contains("/media/") => Resource::Media,
        (Some("_synapse"), Some("metrics")) | (Some("metrics"), _) => Resource::Metrics,
        (Some("_synapse"), Some("admin" | "mas")) => Resource::Admin,
        _ => Resource::Client,
    }
}

/// Whether every listener serves a path, whatever its resources.
#[must_use]
pub fn everywhere(path: &str) -> bool {
    path == "/" || path == "/health" || path.starts_with("/.well-known/") || path.starts_with("/_matrix/static/")
}
