//! What is asked of the network: names and connections. Tests bring their own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::net::TcpStream;

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// A host name without the dot at its end; empty: the service is decidedly not there.
    pub target: String,
    /// Where it listens.
    pub port: u16,
    /// Lower ones are tried first.
    pub priority: u16,
    /// The share among those of equal priority.
    pub weight: u16,
}

/// Names and connections.
pub trait Network: Send + Sync + 'static {
    /// The addresses of a host; empty if it has none.
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
    /// The SRV records of a name; empty if there are none.
    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<Service>>>;
    /// A TCP connection.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// The machine's network: `/etc/hosts` and the name servers of `/etc/resolv.conf`, as they were at the start. Where the latter
/// names none, the name server on this machine, as resolv.conf(5) has it.
pub struct SystemNetwork {
    resolver: TokioResolver,
}

/// Answers kept in memory.
const CACHED_ANSWERS: u64 = 16_384;
/// One try on one name server. A whole connection has 10 s.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// An answer that there is nothing is not believed for longer.
const NEGATIVE_TTL: Duration = Duration::from_secs(10 * 60);
/// An answer is not believed for longer.
const POSITIVE_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Questions under way on one connection to a name server.
const QUESTIONS: usize = 1_024;

impl SystemNetwork {
    /// Reads the two files.
    ///
    /// # Errors
    /// When the resolver cannot be set up.
    pub fn open() -> io::Result<Self> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name servers in /etc/resolv.conf, asking the one on this machine");
            let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let config = ResolverConfig::from_name_servers(vec![local]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        options.timeout = options.timeout.min(QUERY_TIMEOUT);
        options.attempts = options.attempts.min(2);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Always;
        options.cache_size = CACHED_ANSWERS;
        options.max_active_requests = QUESTIONS;
        options.negative_max_ttl = Some(NEGATIVE_TTL);
        options.positive_max_ttl = Some(POSITIVE_TTL);
        let resolver = builder.build().map_err(io::Error::other)?;
        Ok(Self { resolver })
    }
}

/// With the dot at its end, or else the machine's search domains would be tried as well.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

/// That there is nothing is an answer.
fn or_none<T>(answer: Result<Vec<T>, NetError>) -> io::Result<Vec<T>> {
    match answer {
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        answer => answer.map_err(io::Error::other),
    }
}

impl Network for SystemNetwork {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let answer = self.resolver.lookup_ip(absolute(host)).await;
            or_none(answer.map(|found| found.iter().collect()))
        })
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<Service>>> {
        Box::pin(async move {
            let answer = self.resolver.srv_lookup(absolute(name)).await;
            let service = |data: &RData| match data {
                RData::SRV(record) => Some(Service {
                    target: record.target.to_ascii().trim_end_matches('.').to_owned(),
                    port: record.port,
                    priority: record.priority,
                    weight: record.weight,
                }),
                _ => None,
            };
            or_none(answer.map(|found| {
                found
                    .answers()
                    .iter()
                    .filter_map(|record| service(&record.data))
                    .collect()
            }))
        })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_is_known_by_name() {
        let network = SystemNetwork::open().expect("the resolver can be set up");
        let found = network.addresses("localhost").await.expect("no name server is needed");
        assert!(found.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{found:?}");
    }
}
