//! Where another server is (server-server API, "Resolving server names"): the decisions, without any I/O.
//!
//! A server name leads to an *authority*, which is a server name as well: the one that stands in the `Host` header. It is the
//! name itself (steps 1, 2, 4 to 6) or what `/.well-known/matrix/server` delegates to (step 3). From there on everything
//! depends on the authority alone: its host is whom the certificate must name, and [`dial`] says what to connect to.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL, DATE, EXPIRES};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use base::clock::Millis;

use crate::network::Service;

/// The port of servers that name none.
pub const DEFAULT_PORT: u16 = 8448;

/// The SRV services to ask for, the deprecated one last.
pub const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];

const HOUR: Millis = 60 * 60 * 1_000;
/// How long a delegation without cache headers is believed.
pub const DEFAULT_LIFETIME: Millis = 24 * HOUR;
/// How long a delegation is believed at most.
pub const MAX_LIFETIME: Millis = 48 * HOUR;
/// How long it is believed at least, so that a server that forbids caching is not asked with each request.
pub const MIN_LIFETIME: Millis = 5 * 60 * 1_000;
/// How long it is believed that there is none, and the longest wait after failures.
pub const ERROR_LIFETIME: Millis = HOUR;
/// The wait after a first failure; each further one doubles it.
const FIRST_WAIT: Millis = 60 * 1_000;

/// Whether `/.well-known/matrix/server` is to be asked: neither for IP literals nor where there is a port (steps 1 to 3).
#[must_use]
pub fn asks_well_known(server: &ServerName) -> bool {
    !server.is_ip_literal() && server.port().is_none()
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dial<'a> {
    /// This address.
    Address(SocketAddr),
    /// The addresses of a host.
    Host(&'a str, u16),
    /// What SRV records of the host say, or else its addresses and the default port.
    Service(&'a str),
}

/// What to connect to for an authority. `None`: the name has no usable port.
#[must_use]
pub fn dial(authority: &ServerName) -> Option<Dial<'_>> {
    let host = authority.host();
    let port = match authority.as_str()[host.len()..].strip_prefix(':') {
        None => None,
        // Parsing a number would take a sign as well.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|&port| port > 0)?)
        }
        Some(_) => return None,
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Some(match (bare.parse::<IpAddr>(), port) {
        (Ok(address), port) => Dial::Address(SocketAddr::new(address, port.unwrap_or(DEFAULT_PORT))),
        (Err(_), Some(port)) => Dial::Host(host, port),
        (Err(_), None) => Dial::Service(host),
    })
}

/// The order in which to try SRV records: by priority, and among equals by chance in proportion to their weights (RFC 2782).
/// `below(n)` answers a random number below `n`.
#[must_use]
pub fn ordered(mut services: Vec<Service>, mut below: impl FnMut(u64) -> u64) -> Vec<Service> {
    services.sort_by_key(|service| (service.priority, service.weight));
    let mut order = Vec::with_capacity(services.len());
    while let Some(first) = services.first() {
        let equals = services
            .iter()
            .filter(|service| service.priority == first.priority)
            .count();
        let total: u64 = services[..equals].iter().map(|service| u64::from(service.weight)).sum();
        let chosen = below(total + 1);
        let mut sum = 0;
        let at = services[..equals].iter().position(|service| {
            sum += u64::from(service.weight);
            sum >= chosen
        });
        order.push(services.remove(at.unwrap_or(0)));
    }
    order
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

/// Whom a `/.well-known/matrix/server` document delegates to; `None` if it is invalid.
#[must_use]
pub fn delegate(body: &[u8]) -> Option<OwnedServerName> {
    let document: Document = serde_json::from_slice(body).ok()?;
    dial(&document.server).is_some().then_some(document.server)
}

/// How long an answer may be believed, from its `Cache-Control`, `Age` and `Expires` headers; milliseconds.
#[must_use]
pub fn lifetime(headers: &HeaderMap, now: Millis) -> Millis {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let seconds = |text: &str| {
        text.trim()
            .trim_matches('"')
            .parse::<u32>()
            .ok()
            .map(|secs| Millis::from(secs) * 1_000)
    };
    let mut told = None;
    for value in headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
    {
        for directive in value.split(',').map(|directive| directive.trim().to_ascii_lowercase()) {
            if directive == "no-store" || directive == "no-cache" {
                return MIN_LIFETIME;
            }
            if let Some(age) = directive.strip_prefix("max-age=") {
                // More seconds than fit are more than enough.
                told = Some(seconds(age).unwrap_or(MAX_LIFETIME));
            }
        }
    }
    let told = match told {
        Some(max_age) => Some(max_age - text(AGE).and_then(seconds).unwrap_or(0)),
        None => text(EXPIRES).map(|expires| {
            let sent = text(DATE).and_then(http_date).unwrap_or(now);
            // A date that is none, such as 0, lies in the past.
            http_date(expires).map_or(0, |expires| expires.saturating_sub(sent))
        }),
    };
    told.unwrap_or(DEFAULT_LIFETIME).clamp(MIN_LIFETIME, MAX_LIFETIME)
}

fn http_date(text: &str) -> Option<Millis> {
    let since = httpdate::parse_http_date(text)
        .ok()?
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    Millis::try_from(since.as_millis()).ok()
}

/// What came of asking for a delegation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// To whom, and for how long that holds, milliseconds.
    Delegate(OwnedServerName, Millis),
    /// The server says that there is none, or something that makes no sense.
    None,
    /// There was no answer, or one of a broken server.
    Failed,
}

/// What is known of a host's delegation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// To whom.
    pub delegate: Option<OwnedServerName>,
    /// When `delegate` was told.
    told: Millis,
    /// Until when nobody is to be asked.
    pub until: Millis,
    failures: u32,
}

impl Known {
    /// What is known after having asked once more. A delegation that cannot be confirmed is kept for up to 48 hours.
    #[must_use]
    pub fn after(&self, found: Found, now: Millis) -> Self {
        match found {
            Found::Delegate(delegate, lifetime) => Self {
                delegate: Some(delegate),
                told: now,
                until: now + lifetime,
                failures: 0,
            },
            Found::None => Self {
                until: now + ERROR_LIFETIME,
                ..Self::default()
            },
            Found::Failed => {
                let kept = self.delegate.clone().filter(|_| now - self.told < MAX_LIFETIME);
                Self {
                    delegate: kept,
                    told: self.told,
                    until: now + (FIRST_WAIT << self.failures.min(16)).min(ERROR_LIFETIME),
                    failures: self.failures.saturating_add(1),
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;
