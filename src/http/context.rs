//! What a handler is called with.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use actors::error::{DomainError, Outcome};
use actors::hub::Hub;
use actors::session::identity::Identity;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{HeaderMap, HeaderName, Method};
use ruma::{OwnedServerName, ServerName};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::limits::Limits;
use super::ruma::parse_json;
use crate::config::{Config, R0Profile};

/// Which generation of paths a request came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathPrefix {
    /// `/_matrix/*/r0/`
    R0,
    /// `/_matrix/*/v1/`
    V1,
    /// `/_matrix/*/v2/`
    V2,
    /// `/_matrix/*/v3/`
    V3,
    /// `/_matrix/*/unstable/`
    Unstable,
    /// Anything else.
    Other,
}

impl PathPrefix {
    /// Reads it off a path template.
    #[must_use]
    pub fn of(template: &str) -> Self {
        match template.split('/').nth(3) {
            Some("r0") => Self::R0,
            Some("v1") => Self::V1,
            Some("v2") => Self::V2,
            Some("v3") => Self::V3,
            Some("unstable") => Self::Unstable,
            _ => Self::Other,
        }
    }
}

/// The request, apart from what its type holds.
#[derive(Clone)]
pub struct RequestInfo {
    /// As sent.
    pub method: Method,
    /// The registered path that matched.
    pub template: &'static str,
    /// Of that path.
    pub path_prefix: PathPrefix,
    /// Path and query as sent, still encoded.
    pub uri: String,
    /// The raw query without `?`; it may hold an access token.
    pub query: String,
    /// The headers; they may hold an access token.
    pub headers: HeaderMap,
    /// The client's address.
    pub ip: IpAddr,
    /// `User-Agent`
    pub user_agent: Option<String>,
    /// The whole body, after a registered fix; empty where it is streamed.
    pub body: Bytes,
}

impl std::fmt::Debug for RequestInfo {
    /// Without what may hold tokens and passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestInfo({} {} of {})", self.method, self.template, self.ip)
    }
}

impl RequestInfo {
    /// The first value of a query parameter, decoded.
    #[must_use]
    pub fn query_param(&self, name: &str) -> Option<String> {
        query_param(&self.query, name)
    }

    /// A header, if it is printable ASCII.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// 400 `M_NOT_JSON`, `M_BAD_JSON` or `M_MISSING_PARAM`.
    pub fn json<T: DeserializeOwned>(&self) -> Outcome<T> {
        parse_json(&self.body)
    }
}

/// The first value of a parameter in a raw query, decoded.
#[must_use]
pub fn query_param(query: &str, name: &str) -> Option<String> {
    first_value(query.as_bytes(), name)
}

fn first_value(encoded: &[u8], name: &str) -> Option<String> {
    url::form_urlencoded::parse(encoded)
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// The surroundings of one request.
pub struct Ctx<H = Hub> {
    /// The way to the actors.
    pub hub: Arc<H>,
    /// The process's configuration.
    pub config: Arc<Config>,
    /// The rate limits, for callers that only the handler knows.
    pub limits: Arc<Limits>,
    /// Whose token it was; there on `user`, `guest` and `admin` endpoints.
    pub identity: Option<Arc<Identity>>,
    /// The server that signed the request; there on `server` endpoints.
    pub origin: Option<OwnedServerName>,
    /// The request itself.
    pub request: RequestInfo,
}

impl<H> Ctx<H> {
    /// The user behind the request.
    ///
    /// # Errors
    /// 401 `M_MISSING_TOKEN` on endpoints that need no token.
    pub fn user(&self) -> Outcome<&Identity> {
        self.identity
            .as_deref()
            .ok_or_else(|| DomainError::missing_token("missing access token"))
    }

    /// The server behind the request.
    ///
    /// # Errors
    /// 401 `M_UNAUTHORIZED` on endpoints that need no signature.
    pub fn origin(&self) -> Outcome<&ServerName> {
        let refusal = || DomainError::matrix(401, "M_UNAUTHORIZED", "the request is not signed");
        self.origin.as_deref().ok_or_else(refusal)
    }

    /// Whether to answer as the API reference beside the specification says.
    #[must_use]
    pub fn seed_profile(&self) -> bool {
        self.request.path_prefix == PathPrefix::R0 && self.config.compat.r0_profile == R0Profile::Seed
    }
}

/// A body as it arrives.
pub type BodyStream = BoxStream<'static, std::io::Result<Bytes>>;

/// A request to a path without a type.
pub struct RawRequest {
    /// The decoded path arguments, in order.
    pub args: Vec<String>,
    /// The whole body; empty where it is streamed.
    pub body: Bytes,
    /// See [`Self::take_stream`]; the lock is never contended, it lets references to the request cross threads.
    pub(super) stream: Mutex<Option<BodyStream>>,
}

impl RawRequest {
    /// The body, on endpoints registered with `streamed`; once.
    pub fn take_stream(&self) -> Option<BodyStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The first field of this name where the body is a web form.
    #[must_use]
    pub fn form_field(&self, name: &str) -> Option<String> {
        first_value(&self.body, name)
    }

    /// A path argument by its place.
    ///
    /// # Errors
    /// 500 when the path has fewer: a mistake in the registration.
    pub fn arg(&self, at: usize) -> Outcome<&str> {
        self.args
            .get(at)
            .map(String::as_str)
            .ok_or_else(|| DomainError::internal(format!("no path argument {at}")))
    }

    /// A path argument as an identifier or number.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM`.
    pub fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self, at: usize) -> Outcome<T> {
        let arg = self.arg(at)?;
        arg.parse()
            .map_err(|e| DomainError::invalid_param(format!("invalid path argument {arg:?}: {e}")))
    }

    /// The body as JSON of a known shape; an empty one counts as `{}`.
    ///
    /// # Errors
    /// 400 `M_NOT_JSON`, `M_BAD_JSON` or `M_MISSING_PARAM`.
    pub fn json<T: DeserializeOwned>(&self) -> Outcome<T> {
        parse_json(&self.body)
    }

    /// The body as a JSON object; an empty one counts as `{}`.
    ///
    /// # Errors
    /// 400 `M_NOT_JSON` or `M_BAD_JSON`.
    pub fn value(&self) -> Outcome<Value> {
        self.json::<serde_json::Map<String, Value>>().map(Value::Object)
    }
}
