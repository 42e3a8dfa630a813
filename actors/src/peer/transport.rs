//! How requests leave this process. Tests bring their own.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use ruma::ServerName;
use serde_json::Value;
use serde_json::value::RawValue;

/// A request to another server.
#[derive(Clone, Debug)]
pub struct WireRequest {
    /// The method.
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: String,
    /// JSON.
    pub body: Option<Box<RawValue>>,
    /// How long the answer may take.
    pub timeout: Duration,
    /// How large it may be.
    pub max_bytes: usize,
    /// Whether it carries an X-Matrix signature.
    pub signed: bool,
}

/// An answer with a status of 200 to 299.
#[derive(Clone, Debug)]
pub struct WireResponse {
    /// HTTP status.
    pub status: u16,
    /// As sent.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no good answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WireError {
    /// The other server answered with another status.
    #[error("refused with {status} {}: {error}", errcode.as_deref().unwrap_or("without errcode"))]
    Refused {
        /// HTTP status.
        status: u16,
        /// `M_…`, if the body has one.
        errcode: Option<String>,
        /// For people.
        error: String,
        /// When to ask again, milliseconds.
        retry_after_ms: Option<u64>,
        /// The whole body; `Null` where it is not JSON.
        body: Value,
    },
    /// There was no answer in time.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The answer, or the request, is not what the specification says.
    #[error("invalid: {0}")]
    Invalid(String),
    /// This server talks to no others.
    #[error("federation is disabled")]
    Disabled,
    /// This server must not connect there.
    #[error("blocked: {0}")]
    Blocked(String),
}

/// What carries requests to other servers.
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer.
    fn send<'a>(&'a self, to: &'a ServerName, request: WireRequest) -> BoxFuture<'a, Result<WireResponse, WireError>>;
}

/// Talks to nobody.
pub struct Offline;

impl Transport for Offline {
    fn send<'a>(&'a self, _: &'a ServerName, _: WireRequest) -> BoxFuture<'a, Result<WireResponse, WireError>> {
        Box::pin(async { Err(WireError::Disabled) })
    }
}
