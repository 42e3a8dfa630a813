//! One pooled HTTP client: limits on size, time and number of requests, no redirects.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::connect::{DialError, Dialer, Timed};
use crate::error::WireError;

const AGENT: &str = concat!("synapse-rust/", env!("CARGO_PKG_VERSION"));
/// Requests under way. Those above wait, for as long as they have time.
const MAX_REQUESTS: usize = 512;
/// A connection without work is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A connection over HTTP/2 that is asked for a sign of life this often while it has work, and gives none for this long, is
/// given up: others would be sent down the same dead end.
const PING: Duration = Duration::from_secs(15);
const PONG: Duration = Duration::from_secs(10);
/// Connections without work to the same authority.
const MAX_IDLE: usize = 4;
/// A body that has begun is waited for this long for so many bytes more: whoever says a byte now and then holds nobody up.
const PACE: Duration = Duration::from_secs(20);
const PACE_BYTES: usize = 1_024;
/// Status line and headers of an answer.
const MAX_HEAD: usize = 64 * 1024;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct WireResponse {
    /// HTTP status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// An answer whose body is still arriving.
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    body: Incoming,
    /// Bytes that may still come.
    left: usize,
    limit: usize,
    deadline: Instant,
    /// How long it was waited for the bytes since the pace was kept last, and how many came. What the reader does in between
    /// does not count.
    pace: (Duration, usize),
    _permit: OwnedSemaphorePermit,
}

impl Answer {
    /// Lets the body have so many bytes; none before this was called.
    ///
    /// # Errors
    /// `Invalid` when more are announced.
    pub(crate) fn at_most(mut self, max_bytes: usize) -> Result<Self, WireError> {
        if announced(&self.headers).is_some_and(|length| length > max_bytes) {
            return Err(too_large(max_bytes));
        }
        (self.left, self.limit) = (max_bytes, max_bytes);
        Ok(self)
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// `Invalid` when it is larger than was allowed, `Unreachable` when it breaks off or takes too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            let begin = Instant::now();
            let until = self.deadline.min(begin + PACE.saturating_sub(self.pace.0));
            let frame = timeout_at(until, self.body.frame()).await.map_err(|_| late())?;
            let Some(frame) = frame else { return Ok(None) };
            let frame =
                frame.map_err(|error| WireError::Unreachable(format!("the answer broke off: {}", chain(&error))))?;
            // Trailers are of no interest.
            let Ok(piece) = frame.into_data() else { continue };
            self.pace = match (self.pace.0 + begin.elapsed(), self.pace.1 + piece.len()) {
                (_, PACE_BYTES..) => (Duration::ZERO, 0),
                pace => pace,
            };
            self.left = self
                .left
                .checked_sub(piece.len())
                .ok_or_else(|| too_large(self.limit))?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// Waits for all of it.
    ///
    /// # Errors
    /// See [`Answer::chunk`].
    pub async fn whole(mut self) -> Result<WireResponse, WireError> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.chunk().await? {
            body.extend_from_slice(&piece);
        }
        Ok(WireResponse {
            status: self.status,
            headers: self.headers,
            body: body.freeze(),
        })
    }
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Client<Timed<HttpsConnector<Dialer>>, Full<Bytes>>,
    permits: Arc<Semaphore>,
}

impl Transport {
    pub fn new(dialer: Dialer, tls: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(dialer);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_HEAD)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PONG)
            .build(Timed(connector));
        Self {
            client,
            permits: Arc::new(Semaphore::new(MAX_REQUESTS)),
        }
    }

    /// Sends a request with an absolute URI. All of the answer has to be there at the deadline; how much it may be is up to
    /// [`Answer::at_most`].
    ///
    /// # Errors
    /// `Unreachable` or `Blocked`.
    pub async fn open(&self, mut request: Request<Full<Bytes>>, deadline: Instant) -> Result<Answer, WireError> {
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(AGENT));
        // hyper leaves the usual port out of this header; the specification wants a server name as it is.
        let authority = request.uri().authority().filter(|authority| authority.port().is_some());
        if let Some(host) = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
            request.headers_mut().insert(HOST, host);
        }
        let answered = async {
            let closed = |_| WireError::Unreachable("the client is closed".to_owned());
            let permit = self.permits.clone().acquire_owned().await.map_err(closed)?;
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| unreachable(&error))?;
            Ok::<_, WireError>((permit, answer))
        };
        let (permit, answer) = timeout_at(deadline, answered).await.map_err(|_| late())??;
        let (head, body) = answer.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            left: 0,
            limit: 0,
            deadline,
            pace: (Duration::ZERO, 0),
            _permit: permit,
        })
    }
}

/// The length of a body, if it was told; what does not fit is more than enough.
fn announced(headers: &HeaderMap) -> Option<usize> {
    let length: u64 = headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    Some(usize::try_from(length).unwrap_or(usize::MAX))
}

fn late() -> WireError {
    WireError::Unreachable("no whole answer in time".to_owned())
}

fn too_large(limit: usize) -> WireError {
    WireError::Invalid(format!("the answer has more than {limit} bytes"))
}

fn unreachable(error: &ClientError) -> WireError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<DialError>() {
            Some(DialError::Blocked(_)) => return WireError::Blocked(error.to_string()),
            Some(DialError::Failed(reason)) => return WireError::Unreachable(reason.clone()),
            None => cause = error.source(),
        }
    }
    WireError::Unreachable(chain(error))
}

/// An error with its causes, each said once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
