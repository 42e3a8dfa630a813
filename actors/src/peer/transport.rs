//! How requests leave this process. Tests bring their own.

use federation::Wire;
pub use federation::{Answer, WireError, WireRequest, WireResponse};
use futures_util::future::BoxFuture;
use ruma::ServerName;

/// What carries requests to other servers.
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer with a status of 200 to 299.
    fn send<'a>(&'a self, to: &'a ServerName, request: WireRequest) -> BoxFuture<'a, Result<WireResponse, WireError>>;

    /// The same; the answer's body is left to be read.
    fn open<'a>(&'a self, to: &'a ServerName, request: WireRequest) -> BoxFuture<'a, Result<Answer, WireError>>;
}

impl Transport for Wire {
    fn send<'a>(&'a self, to: &'a ServerName, request: WireRequest) -> BoxFuture<'a, Result<WireResponse, WireError>> {
        Box::pin(Self::send(self, to, request))
    }

    fn open<'a>(&'a self, to: &'a ServerName, request: WireRequest) -> BoxFuture<'a, Result<Answer, WireError>> {
        Box::pin(Self::open(self, to, request))
    }
}
