//! Asks `/.well-known/matrix/server` and remembers what it said.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::clock::Clock;
use lru::LruCache;
use ruma::OwnedServerName;
use tokio::sync::Mutex as AsyncMutex;
use url::Url;

use crate::discovery::{Found, Known, delegate, lifetime};
use crate::error::WireError;
use crate::outbound::{self, OutboundRequest};
use crate::transport::Transport;

/// Hosts that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(20_000).expect("not zero");
/// Far more than such a document needs.
const MAX_BYTES: usize = 50 * 1024;
/// For the document, redirects included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Delegations by host.
pub(crate) struct WellKnown {
    transport: Transport,
    clock: Clock,
    /// Each with a lock, so that a host is asked once at a time.
    hosts: Mutex<LruCache<String, Arc<AsyncMutex<Known>>>>,
}

impl WellKnown {
    pub fn new(transport: Transport, clock: Clock) -> Self {
        Self {
            transport,
            clock,
            hosts: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    /// Whom the host delegates to.
    pub async fn delegate(&self, host: &str) -> Option<OwnedServerName> {
        let known = {
            // An entry is put in whole, so a panic elsewhere cannot have left half of one.
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            hosts.get_or_insert(host.to_owned(), Arc::default).clone()
        };
        let mut known = known.lock().await;
        if self.clock.now_ms() >= known.until {
            let found = self.ask(host).await;
            *known = known.after(found, self.clock.now_ms());
            tracing::debug!(host, delegate = ?known.delegate, until = known.until, "delegation looked up");
        }
        known.delegate.clone()
    }

    async fn ask(&self, host: &str) -> Found {
        let Ok(url) = Url::parse(&format!("https://{host}/.well-known/matrix/server")) else {
            return Found::None;
        };
        let request = OutboundRequest::get(url, TIMEOUT, MAX_BYTES);
        let answered = async { outbound::open(&self.transport, request).await?.whole().await };
        match answered.await {
            Ok(answer) if answer.status.is_success() => match delegate(&answer.body) {
                Some(name) => Found::Delegate(name, lifetime(&answer.headers, self.clock.now_ms())),
                None => Found::None,
            },
            Ok(answer) if answer.status.is_server_error() || answer.status.as_u16() == 429 => Found::Failed,
            Ok(_) | Err(WireError::Invalid(_)) => Found::None,
            Err(_) => Found::Failed,
        }
    }
}
