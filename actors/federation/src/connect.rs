//! Connections: from the authority of a URI to a TCP stream. Every address passes the guard right before it is connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base::rng::Rng;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join};
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::rt::TokioIo;
use ruma::ServerName;
use tokio::net::TcpStream;
use tower_service::Service as Tower;

use crate::discovery::{DEFAULT_PORT, Dial, SERVICES, dial, ordered};
use crate::guard::Guard;
use crate::network::{Network, Service};

/// A connection, with TLS, has to stand by then.
const DEADLINE: Duration = Duration::from_secs(10);
/// After so long without success the next address is tried as well.
const STAGGER: Duration = Duration::from_millis(300);
/// SRV records that are looked at.
const MAX_SERVICES: usize = 8;
/// Addresses that are tried.
const MAX_ADDRESSES: usize = 16;

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// All addresses are in the blocklist.
    #[error("{0} has only addresses that must not be connected to")]
    Blocked(String),
    /// In words.
    #[error("{0}")]
    Failed(String),
}

/// How an authority is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// As that of a homeserver, with SRV records and port 8448.
    Federation,
    /// As that of a web page.
    Web,
}

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub network: Arc<dyn Network>,
    pub guard: Guard,
    pub rng: Rng,
    pub how: How,
}

impl Tower<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Self::Response, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.connect(&uri).await.map(TokioIo::new) })
    }
}

impl Dialer {
    async fn connect(&self, uri: &Uri) -> Result<TcpStream, DialError> {
        let name = uri.authority().map_or("", |authority| authority.as_str());
        let found = match self.how {
            How::Federation => self.federation(name).await,
            How::Web => self.web(uri).await,
        };
        let found = found.map_err(|error| DialError::Failed(format!("{name}: {error}")))?;
        if found.is_empty() {
            return Err(DialError::Failed(format!("{name} has no address")));
        }
        let mut allowed: Vec<SocketAddr> = Vec::new();
        for address in found {
            if self.guard.allows(address.ip()) && !allowed.contains(&address) {
                allowed.push(address);
            }
        }
        if allowed.is_empty() {
            return Err(DialError::Blocked(name.to_owned()));
        }
        allowed.truncate(MAX_ADDRESSES);
        let stream = first_to_answer(&*self.network, allowed).await;
        stream.map_err(|error| DialError::Failed(format!("{name}: {error}")))
    }

    async fn web(&self, uri: &Uri) -> io::Result<Vec<SocketAddr>> {
        let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(default);
        self.addresses(uri.host().unwrap_or_default(), port).await
    }

    async fn federation(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let malformed = || io::Error::other("not a server name with a usable port");
        let authority = <&ServerName>::try_from(name).map_err(|_| malformed())?;
        match dial(authority).ok_or_else(malformed)? {
            Dial::Address(address) => Ok(vec![address]),
            Dial::Host(host, port) => self.addresses(host, port).await,
            Dial::Service(host) => match self.services(host).await? {
                Some(found) => Ok(found),
                None => self.addresses(host, DEFAULT_PORT).await,
            },
        }
    }

    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let found = match bare.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.network.addresses(host).await?,
        };
        Ok(found
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }

    /// The addresses that the SRV records of a host lead to; `None` if it has no records.
    async fn services(&self, host: &str) -> io::Result<Option<Vec<SocketAddr>>> {
        let [current, deprecated] = SERVICES.map(|service| format!("{service}.{host}"));
        let records = async |name: &str| -> Vec<Service> {
            let found = self.network.services(name).await;
            // Name servers that cannot answer for SRV records exist; a wrong guess fails at the certificate.
            found.unwrap_or_else(|error| {
                tracing::debug!(name, %error, "SRV records not found out");
                Vec::new()
            })
        };
        let (current, deprecated) = join(records(&current), records(&deprecated)).await;
        let records = if current.is_empty() { deprecated } else { current };
        if records.is_empty() {
            return Ok(None);
        }
        let mut found = Vec::new();
        let mut failure = io::Error::other("its SRV records lead nowhere");
        for service in ordered(records, |n| self.rng.below(n)).into_iter().take(MAX_SERVICES) {
            if service.target.is_empty() || service.port == 0 {
                continue;
            }
            match self.addresses(&service.target, service.port).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => failure = error,
            }
        }
        if found.is_empty() {
            Err(failure)
        } else {
            Ok(Some(found))
        }
    }
}

/// Tries one address after the other, the next one before the last has failed if that takes long.
async fn first_to_answer(network: &dyn Network, addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    let mut failure = io::Error::other("no address");
    loop {
        match waiting.next() {
            Some(address) => tries.push(network.connect(address)),
            None if tries.is_empty() => return Err(failure),
            None => {}
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(done) = tries.next() => match done {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Gives up on a connection that takes too long, TLS included.
#[derive(Clone)]
pub(crate) struct Timed<C>(pub C);

impl<C> Tower<Uri> for Timed<C>
where
    C: Tower<Uri, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let name = uri
            .authority()
            .map_or(String::new(), |authority| authority.as_str().to_owned());
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let late = |_| DialError::Failed(format!("{name}: no connection within {} s", DEADLINE.as_secs()));
            tokio::time::timeout(DEADLINE, connecting)
                .await
                .map_err(late)?
                .map_err(Into::into)
        })
    }
}
