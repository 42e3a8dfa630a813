//! Requests that are not federation: redirected media, push gateways, pages to preview. Nothing is signed. Redirects are
//! followed, a few of them, and each hop passes the guard like the first.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, LOCATION};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use url::Url;

use crate::client::Tools;
use crate::connect::{Dialer, How};
use crate::error::WireError;
use crate::guard::Guard;
use crate::network::{Network, SystemNetwork};
use crate::tls;
use crate::transport::{Answer, Transport, WireResponse};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// What the operator chose (`http_client`).
#[derive(Clone, Debug, Default)]
pub struct OutboundSettings {
    /// Certificate authorities beside the system's.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Never connected to. Empty by default: then nothing is.
    pub ip_range_blocklist: Vec<IpNet>,
    /// Accept any certificate.
    pub insecure_skip_tls_verify: bool,
}

/// One request.
#[derive(Clone, Debug)]
pub struct OutboundRequest {
    /// `GET` or `POST`.
    pub method: Method,
    /// `http` or `https`.
    pub url: Url,
    /// Further headers.
    pub headers: HeaderMap,
    /// Empty: none.
    pub body: Bytes,
    /// For all of it, redirects included.
    pub timeout: Duration,
    /// Of the answer's body.
    pub max_bytes: usize,
}

impl OutboundRequest {
    /// A GET.
    #[must_use]
    pub fn get(url: Url, timeout: Duration, max_bytes: usize) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout,
            max_bytes,
        }
    }
}

/// The client. Cheap to clone; opens nothing before its first request.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

struct Inner {
    settings: OutboundSettings,
    tools: Tools,
    network: Option<Arc<dyn Network>>,
    transport: OnceCell<Transport>,
}

impl Outbound {
    /// On the machine's network.
    #[must_use]
    pub fn new(settings: OutboundSettings, tools: Tools) -> Self {
        Self::build(settings, tools, None)
    }

    /// On another network, for tests.
    pub fn with_network(settings: OutboundSettings, tools: Tools, network: Arc<dyn Network>) -> Self {
        Self::build(settings, tools, Some(network))
    }

    fn build(settings: OutboundSettings, tools: Tools, network: Option<Arc<dyn Network>>) -> Self {
        Self(Arc::new(Inner {
            settings,
            tools,
            network,
            transport: OnceCell::new(),
        }))
    }

    async fn transport(&self) -> Result<&Transport, WireError> {
        let inner = &self.0;
        let open = || async {
            let (settings, rng, network) = (inner.settings.clone(), inner.tools.rng.clone(), inner.network.clone());
            blocking(move || {
                let network = system_or(network)?;
                let guard = Guard::new(&settings.ip_range_blocklist);
                let tls = tls::client_config(&settings.authorities, settings.insecure_skip_tls_verify);
                let dialer = Dialer {
                    network,
                    guard,
                    rng,
                    how: How::Web,
                };
                Ok(Transport::new(dialer, tls))
            })
            .await
        };
        inner.transport.get_or_try_init(open).await
    }

    /// Sends a request and waits for the whole answer, whatever its status.
    ///
    /// # Errors
    /// Every kind but `Refused` and `Disabled`.
    pub async fn send(&self, request: OutboundRequest) -> Result<WireResponse, WireError> {
        self.open(request).await?.whole().await
    }

    /// Sends a request and leaves the body to be read, whatever the status.
    ///
    /// # Errors
    /// Every kind but `Refused` and `Disabled`.
    pub async fn open(&self, request: OutboundRequest) -> Result<Answer, WireError> {
        open(self.transport().await?, request).await
    }
}

/// What reads files does not belong on the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| WireError::Unreachable(format!("the client cannot be set up: {error}")))?
}

pub(crate) fn system_or(network: Option<Arc<dyn Network>>) -> Result<Arc<dyn Network>, WireError> {
    match network {
        Some(network) => Ok(network),
        None => match SystemNetwork::open() {
            Ok(network) => Ok(Arc::new(network)),
            Err(error) => Err(WireError::Unreachable(format!("names cannot be resolved: {error}"))),
        },
    }
}

/// Follows redirects.
pub(crate) async fn open(transport: &Transport, mut request: OutboundRequest) -> Result<Answer, WireError> {
    let deadline = Instant::now() + request.timeout;
    for _ in 0..=MAX_REDIRECTS {
        let answer = transport.open(http_request(&request)?, deadline).await?;
        let Some(target) = redirect(&request.url, answer.status, &answer.headers)? else {
            return answer.at_most(request.max_bytes);
        };
        follow(&mut request, answer.status, target);
    }
    Err(WireError::Invalid(format!("more than {MAX_REDIRECTS} redirects")))
}

fn http_request(request: &OutboundRequest) -> Result<Request<Full<Bytes>>, WireError> {
    let url = &request.url;
    let invalid = |reason: &dyn std::fmt::Display| WireError::Invalid(format!("{url}: {reason}"));
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(&"neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(&"URLs with passwords are not used"));
    }
    // A fragment is never sent.
    let mut plain = url.clone();
    plain.set_fragment(None);
    let mut built = Request::new(Full::new(request.body.clone()));
    *built.method_mut() = request.method.clone();
    *built.uri_mut() = plain.as_str().parse().map_err(|error| invalid(&error))?;
    *built.headers_mut() = request.headers.clone();
    Ok(built)
}

/// Where an answer redirects to.
fn redirect(from: &Url, status: StatusCode, headers: &HeaderMap) -> Result<Option<Url>, WireError> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = headers.get(LOCATION) else {
        return Ok(None);
    };
    let target = location.to_str().ok().and_then(|location| from.join(location).ok());
    let target = target.ok_or_else(|| WireError::Invalid(format!("{from}: a redirect to nowhere")))?;
    if from.scheme() == "https" && target.scheme() != "https" {
        return Err(WireError::Invalid(format!("{from}: a redirect away from https")));
    }
    Ok(Some(target))
}

/// Changes the request as RFC 9110 has it for the status. Credentials stay with the server they were meant for.
fn follow(request: &mut OutboundRequest, status: StatusCode, target: Url) {
    let to_get = status == StatusCode::SEE_OTHER || (status.as_u16() < 303 && request.method == Method::POST);
    if to_get {
        request.method = Method::GET;
        request.body = Bytes::new();
        request.headers.remove(CONTENT_TYPE);
        request.headers.remove(CONTENT_LENGTH);
    }
    if request.url.origin() != target.origin() {
        request.headers.remove(AUTHORIZATION);
        request.headers.remove(COOKIE);
    }
    request.url = target;
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
