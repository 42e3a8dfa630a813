//! Requests to other servers: found, guarded, signed, bounded.

use std::sync::Arc;
use std::time::Duration;

use base::clock::Clock;
use base::cpu::{Class, Cpu};
use base::key::ServerKey;
use base::rng::Rng;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use ipnet::IpNet;
use ruma::api::auth_scheme::NoAuthentication;
use ruma::api::federation::authentication::ServerSignatures;
use ruma::api::path_builder::SinglePath;
use ruma::api::{IncomingResponse, IncomingResponseExt as _, Metadata, OutgoingBody, OutgoingRequest};
use ruma::{OwnedServerName, ServerName};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::connect::{Dialer, How};
use crate::discovery;
use crate::error::WireError;
use crate::guard::Guard;
use crate::network::Network;
use crate::outbound::{blocking, system_or};
use crate::transport::{Answer, Transport, WireResponse};
use crate::well_known::WellKnown;
use crate::{tls, xmatrix};

/// Of the body of a refusal.
const MAX_REFUSAL: usize = 64 * 1024;
/// Bodies above are signed on the blocking pool.
const LARGE_BODY: usize = 32 * 1024;

/// Time, chance and processors, as everything in this crate needs them.
#[derive(Clone)]
pub struct Tools {
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub rng: Rng,
    /// CPU-bound work.
    pub cpu: Cpu,
}

/// What the operator chose (`federation`).
#[derive(Clone, Debug)]
pub struct WireSettings {
    /// Whether there is any federation.
    pub enabled: bool,
    /// Certificate authorities beside the system's.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Never connected to. Empty by default: then nothing is.
    pub ip_range_blocklist: Vec<IpNet>,
    /// Accept any certificate.
    pub insecure_skip_tls_verify: bool,
}

impl Default for WireSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            authorities: Vec::new(),
            ip_range_blocklist: Vec::new(),
            insecure_skip_tls_verify: false,
        }
    }
}

/// How long an answer may take, discovery included, and how large its body may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For all of it.
    pub timeout: Duration,
    /// Of the answer's body.
    pub max_bytes: usize,
}

impl Limits {
    /// For whatever is answered off the shelf.
    pub const QUERY: Self = Self {
        timeout: Duration::from_secs(30),
        max_bytes: 16 * 1024 * 1024,
    };
    /// For the state of a room.
    pub const STATE: Self = Self {
        timeout: Duration::from_secs(120),
        max_bytes: 256 * 1024 * 1024,
    };
}

/// One request.
#[derive(Clone, Debug)]
pub struct WireRequest {
    /// HTTP method.
    pub method: Method,
    /// With query, percent-encoded.
    pub path: String,
    /// JSON.
    pub body: Option<Box<RawValue>>,
    /// For all of it, discovery included.
    pub timeout: Duration,
    /// Of the answer's body.
    pub max_bytes: usize,
    /// Whether to sign it.
    pub signed: bool,
}

impl WireRequest {
    /// A signed GET.
    #[must_use]
    pub fn get(path: impl Into<String>, limits: Limits) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
            timeout: limits.timeout,
            max_bytes: limits.max_bytes,
            signed: true,
        }
    }

    /// A signed request with a body.
    #[must_use]
    pub fn with_body(method: Method, path: impl Into<String>, body: Box<RawValue>, limits: Limits) -> Self {
        Self {
            method,
            body: Some(body),
            ..Self::get(path, limits)
        }
    }
}

/// Whether requests of an authentication scheme are signed.
pub trait Signing {
    /// See there.
    const SIGNED: bool;
}

impl Signing for ServerSignatures {
    const SIGNED: bool = true;
}

impl Signing for NoAuthentication {
    const SIGNED: bool = false;
}

/// The client. Cheap to clone; opens nothing before its first request.
#[derive(Clone)]
pub struct Wire(Arc<Inner>);

struct Inner {
    server_name: OwnedServerName,
    key: Arc<ServerKey>,
    settings: WireSettings,
    tools: Tools,
    network: Option<Arc<dyn Network>>,
    ends: OnceCell<Ends>,
}

struct Ends {
    transport: Transport,
    well_known: WellKnown,
}

impl Wire {
    /// On the machine's network. `server_name` and `key` are this server's.
    #[must_use]
    pub fn new(server_name: OwnedServerName, key: Arc<ServerKey>, settings: WireSettings, tools: Tools) -> Self {
        Self::build(server_name, key, settings, tools, None)
    }

    /// On another network, for tests.
    pub fn with_network(
        server_name: OwnedServerName,
        key: Arc<ServerKey>,
        settings: WireSettings,
        tools: Tools,
        network: Arc<dyn Network>,
    ) -> Self {
        Self::build(server_name, key, settings, tools, Some(network))
    }

    fn build(
        server_name: OwnedServerName,
        key: Arc<ServerKey>,
        settings: WireSettings,
        tools: Tools,
        network: Option<Arc<dyn Network>>,
    ) -> Self {
        Self(Arc::new(Inner {
            server_name,
            key,
            settings,
            tools,
            network,
            ends: OnceCell::new(),
        }))
    }

    /// This server.
    #[must_use]
    pub fn server_name(&self) -> &ServerName {
        &self.0.server_name
    }

    /// Whether there is any federation.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.settings.enabled
    }

    /// One request. Every status but 200 to 299 is an error; redirects are not followed.
    ///
    /// # Errors
    /// Every kind.
    pub async fn send(&self, to: &ServerName, request: WireRequest) -> Result<WireResponse, WireError> {
        self.open(to, request).await?.whole().await
    }

    /// [`Wire::send`] whose answer's body is left to be read.
    ///
    /// # Errors
    /// Every kind.
    pub async fn open(&self, to: &ServerName, request: WireRequest) -> Result<Answer, WireError> {
        let deadline = Instant::now() + request.timeout;
        if !self.0.settings.enabled {
            return Err(WireError::Disabled);
        }
        if to == self.0.server_name {
            return Err(WireError::Blocked("a request to this very server".to_owned()));
        }
        let max_bytes = request.max_bytes;
        let late = |_| WireError::Unreachable("the server was not found in time".to_owned());
        let (ends, authority) = timeout_at(deadline, self.find(to)).await.map_err(late)??;
        let request = self.prepare(to, &authority, request).await?;
        let answer = ends.transport.open(request, deadline).await?;
        if answer.status.is_success() {
            return answer.at_most(max_bytes);
        }
        Err(refusal(answer).await)
    }

    /// ruma's typed form of [`Wire::send`]: 30 s and 16 MiB.
    ///
    /// # Errors
    /// Every kind.
    pub async fn call<R>(&self, to: &ServerName, request: R) -> Result<R::IncomingResponse, WireError>
    where
        R: OutgoingRequest + Metadata<PathBuilder = SinglePath, Authentication: Signing>,
    {
        self.call_within(to, request, Limits::QUERY).await
    }

    /// [`Wire::call`] with other limits.
    ///
    /// # Errors
    /// Every kind.
    pub async fn call_within<R>(
        &self,
        to: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, WireError>
    where
        R: OutgoingRequest + Metadata<PathBuilder = SinglePath, Authentication: Signing>,
    {
        let answer = self.send(to, plain(request, limits)?).await?;
        typed::<R::IncomingResponse>(&answer)
    }

    /// Whose `Host` to talk to.
    async fn find(&self, to: &ServerName) -> Result<(&Ends, OwnedServerName), WireError> {
        let ends = self.ends().await?;
        let delegate = if discovery::asks_well_known(to) {
            ends.well_known.delegate(to.host()).await
        } else {
            None
        };
        Ok((ends, delegate.unwrap_or_else(|| to.to_owned())))
    }

    async fn ends(&self) -> Result<&Ends, WireError> {
        let inner = &self.0;
        let open = || async {
            let (settings, tools, network) = (inner.settings.clone(), inner.tools.clone(), inner.network.clone());
            blocking(move || {
                let network = system_or(network)?;
                let tls = tls::client_config(&settings.authorities, settings.insecure_skip_tls_verify);
                let dialer = |how| Dialer {
                    network: network.clone(),
                    guard: Guard::new(&settings.ip_range_blocklist),
                    rng: tools.rng.clone(),
                    how,
                };
                let web = Transport::new(dialer(How::Web), tls.clone());
                Ok(Ends {
                    transport: Transport::new(dialer(How::Federation), tls),
                    well_known: WellKnown::new(web, tools.clock),
                })
            })
            .await
        };
        inner.ends.get_or_try_init(open).await
    }

    /// The HTTP request: signed over path and query, then addressed.
    async fn prepare(
        &self,
        to: &ServerName,
        authority: &ServerName,
        request: WireRequest,
    ) -> Result<Request<Full<Bytes>>, WireError> {
        let invalid = |error: &dyn std::fmt::Display| WireError::Invalid(format!("the request: {error}"));
        let path: PathAndQuery = request.path.parse().map_err(|error| invalid(&error))?;
        let body = request
            .body
            .map_or_else(Bytes::new, |body| Bytes::from(String::from(Box::<str>::from(body))));
        let mut built = Request::new(body);
        *built.method_mut() = request.method;
        *built.uri_mut() = Uri::from(path.clone());
        if !built.body().is_empty() {
            let json = HeaderValue::from_static("application/json");
            built.headers_mut().insert(CONTENT_TYPE, json);
        }
        if request.signed {
            built = self.sign(to, built).await?;
        }
        let uri = Uri::builder()
            .scheme(Scheme::HTTPS)
            .authority(authority.as_str())
            .path_and_query(path)
            .build();
        *built.uri_mut() = uri.map_err(|error| invalid(&error))?;
        Ok(built.map(Full::new))
    }

    async fn sign(&self, to: &ServerName, mut request: Request<Bytes>) -> Result<Request<Bytes>, WireError> {
        let (inner, to) = (self.0.clone(), to.to_owned());
        let large = request.body().len() > LARGE_BODY;
        let sign = move || {
            let header = xmatrix::sign(&request, &inner.key, &inner.server_name, &to)?;
            request.headers_mut().insert(AUTHORIZATION, header);
            Ok(request)
        };
        let signed = if large {
            let done = self.0.tools.cpu.run(Class::Verify, sign).await;
            done.map_err(|error| WireError::Unreachable(format!("signing: {error}")))?
        } else {
            sign()
        };
        signed.map_err(|error: String| WireError::Invalid(format!("the request cannot be signed: {error}")))
    }
}

/// A typed request as a plain one.
///
/// # Errors
/// `Invalid` when it cannot be written as JSON.
pub fn plain<R>(request: R, limits: Limits) -> Result<WireRequest, WireError>
where
    R: OutgoingRequest + Metadata<PathBuilder = SinglePath, Authentication: Signing>,
{
    let invalid = |error: &dyn std::fmt::Display| WireError::Invalid(format!("the request: {error}"));
    let built = request
        .try_into_http_request_inner("", ())
        .map_err(|error| invalid(&error))?;
    let (head, body) = built.into_parts();
    let body: Vec<u8> = body.try_into_buf().map_err(|error| invalid(&error.into()))?;
    finish(&head, body, limits, R::Authentication::SIGNED)
}

/// What does not depend on the type.
fn finish(head: &http::request::Parts, body: Vec<u8>, limits: Limits, signed: bool) -> Result<WireRequest, WireError> {
    let invalid = |error: &dyn std::fmt::Display| WireError::Invalid(format!("the request: {error}"));
    let body = match body.is_empty() {
        true => None,
        false => {
            let text = String::from_utf8(body).map_err(|error| invalid(&error))?;
            Some(RawValue::from_string(text).map_err(|error| invalid(&error))?)
        }
    };
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    Ok(WireRequest {
        method: head.method.clone(),
        path: path.to_owned(),
        body,
        timeout: limits.timeout,
        max_bytes: limits.max_bytes,
        signed,
    })
}

/// An answer as ruma's type.
///
/// # Errors
/// `Invalid` when it does not fit.
pub fn typed<R: IncomingResponse>(answer: &WireResponse) -> Result<R, WireError> {
    let mut response = http::Response::new(&answer.body[..]);
    *response.status_mut() = answer.status;
    response.headers_mut().clone_from(&answer.headers);
    R::try_from_http_response(response).map_err(|error| WireError::Invalid(format!("the answer: {error}")))
}

/// The error that another server answered with.
async fn refusal(answer: Answer) -> WireError {
    let (status, retry_after) = (answer.status.as_u16(), retry_after(&answer.headers));
    // The status says enough where the body cannot be had.
    let body = async { Ok::<_, WireError>(answer.at_most(MAX_REFUSAL)?.whole().await?.body) };
    let body = body.await.unwrap_or_default();
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let beginning = || String::from_utf8_lossy(&body).chars().take(200).collect();
    WireError::Refused {
        status,
        errcode: text("errcode"),
        error: text("error").unwrap_or_else(beginning),
        retry_after_ms: retry_after.or_else(|| value.get("retry_after_ms").and_then(Value::as_u64)),
        body: value,
    }
}

/// Only in seconds; a date is as good as none.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    seconds.checked_mul(1_000)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
