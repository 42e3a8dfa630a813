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
/// For the document, redirects included. Firewalls swallow what goes to port 443 of many a server that has no delegation, and
/// whoever waits needs time for the request itself.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Delegations by host. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WellKnown(Arc<Inner>);

struct Inner {
    transport: Transport,
    clock: Clock,
    /// Each with a lock, so that a host is asked once at a time.
    hosts: Mutex<LruCache<String, Arc<AsyncMutex<Known>>>>,
}

impl WellKnown {
    pub fn new(transport: Transport, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            transport,
            clock,
            hosts: Mutex::new(LruCache::new(REMEMBERED)),
        }))
    }

    /// Whom the host delegates to. The search goes on when nobody waits for it any more, so that its outcome is remembered.
    pub async fn delegate(&self, host: &str) -> Option<OwnedServerName> {
        let known = {
            // An entry is put in whole, so a panic elsewhere cannot have left half of one.
            let mut hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            hosts.get_or_insert(host.to_owned(), Arc::default).clone()
        };
        if let Ok(known) = known.try_lock()
            && self.0.clock.now_ms() < known.until
        {
            return known.delegate.clone();
        }
        let (inner, host) = (self.0.clone(), host.to_owned());
        let search = tokio::spawn(async move {
            let mut known = known.lock().await;
            if inner.clock.now_ms() >= known.until {
                let found = inner.ask(&host).await;
                *known = known.after(found, inner.clock.now_ms());
                tracing::debug!(host, delegate = ?known.delegate, until = known.until, "delegation looked up");
            }
            known.delegate.clone()
        });
        // A panic is as good as no answer.
        search.await.ok().flatten()
    }
}

impl Inner {
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
