//! Why a request to another server has no good answer.

use serde_json::Value;

/// What a request can end with instead of its answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WireError {
    /// The other server answered, with a status that is none of 200 to 299.
    #[error("refused with {status} {}: {error}", errcode.as_deref().unwrap_or("without errcode"))]
    Refused {
        /// HTTP status.
        status: u16,
        /// `M_…`, if the body has one.
        errcode: Option<String>,
        /// The body's `error`, or its beginning where it is not JSON.
        error: String,
        /// Of a 429 or 503: when to ask again, milliseconds.
        retry_after_ms: Option<u64>,
        /// The whole body; `Null` where it is not JSON.
        body: Value,
    },
    /// There was no answer: no address, no connection, a certificate that is not good, or too late.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The answer, or the request, is not what the specification says.
    #[error("invalid: {0}")]
    Invalid(String),
    /// `federation.enabled` is false.
    #[error("federation is disabled")]
    Disabled,
    /// Every address lies in the blocklist, or it is this very server.
    #[error("blocked: {0}")]
    Blocked(String),
}
