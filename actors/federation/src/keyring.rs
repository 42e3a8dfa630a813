//! The keys of other servers: in memory, in the database, from the servers themselves, and from notaries.
//!
//! A key is good for signatures made until a certain time: that of the document that lists it as in use, at most a week after
//! it was fetched, or the end that the document tells of an old key.

mod document;
mod fetch;
mod notary;
mod own;
mod verify;
mod waits;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use base::cache::ViewCache;
use base::clock::Millis;
use base::error::Outcome;
use base::key::ServerKey;
use entities::server_key;
use entities::store::Store;
use ruma::serde::Base64;
use ruma::signatures::PublicKeyMap;
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

pub use self::document::Known;
use self::fetch::{Lane, Running};
pub use self::notary::{MAX_QUERIES, Query};
pub use self::own::OldKey;
use self::own::Own;
pub use self::verify::SignedRequest;
use self::waits::Waits;
use crate::client::{Tools, Wire};

/// Memory for keys.
const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// Servers that are asked at once: for events, for requests, for others.
const LANES: [usize; 3] = [128, 64, 16];
/// Requests that wait for the keys of who has signed them.
const CHECKS: usize = 256;
/// Requests to this server as a notary that wait for others.
const NOTARIZING: usize = 16;
/// Servers and keys that are remembered as not to be had.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(20_000).expect("not zero");
/// Waits after a server could not be asked.
const DOWN: (Millis, Millis) = (15_000, 10 * 60 * 1_000);
/// Waits after a key was found nowhere.
const MISSING: (Millis, Millis) = (60_000, 60 * 60 * 1_000);
/// Of so many servers the notaries, which answer for many at once, are asked first.
const MANY: usize = 16;
/// How long a search may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Signatures of one server on one object that are looked at.
const MAX_SIGNATURES: usize = 4;

/// What the operator chose.
#[derive(Clone, Debug, Default)]
pub struct KeyRingSettings {
    /// This server's former keys.
    pub old_keys: Vec<OldKey>,
    /// Notaries, in the order to ask them in (`federation.trusted_key_servers`).
    pub trusted_key_servers: Vec<OwnedServerName>,
}

/// A key that a signature was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose.
    pub server: OwnedServerName,
    /// `ed25519:…`
    pub key_id: String,
    /// It has to be good for signatures made then, Unix milliseconds; `None` in room versions that do not ask.
    pub at: Option<Millis>,
}

impl Wanted {
    /// The keys that `servers` have signed an object with, a few of each.
    pub fn of_signatures<'a>(
        object: &CanonicalJsonObject,
        servers: impl IntoIterator<Item = &'a ServerName>,
        at: Option<Millis>,
    ) -> Vec<Self> {
        let of_server = |server: &'a ServerName| {
            let ids = document::signing_keys(object, server).take(MAX_SIGNATURES);
            ids.map(move |id| Self {
                server: server.to_owned(),
                key_id: id.to_owned(),
                at,
            })
        };
        servers.into_iter().flat_map(of_server).collect()
    }
}

/// What is known of one server's keys.
#[derive(Clone, Debug, Default)]
pub struct ServerKeys {
    keys: BTreeMap<String, Known>,
    /// When the server itself told them last; 0: it has not since the start.
    fetched: Millis,
}

impl ServerKeys {
    fn has(&self, wanted: &Wanted) -> bool {
        self.keys
            .get(&wanted.key_id)
            .is_some_and(|key| key.is_valid_at(wanted.at))
    }

    fn weight(&self) -> usize {
        256 + self.keys.keys().map(|id| 128 + id.len()).sum::<usize>()
    }

    fn add(&mut self, row: server_key::Model) {
        if let Ok(public_key) = row.public_key.try_into() {
            let known = Known {
                public_key,
                until: row.valid_until_ts,
                expired: row.expired,
            };
            self.keys.insert(row.key_id, known);
        }
    }
}

/// Keys of several servers.
#[derive(Clone, Debug, Default)]
pub struct Keys(BTreeMap<OwnedServerName, Arc<ServerKeys>>);

impl Keys {
    /// The keys of `servers` that are good for signatures made at `at`, for ruma's checks. `None`: whenever they were made, as
    /// where `RoomVersionRules::enforce_key_validity` is not set.
    pub fn of<'a>(&self, servers: impl IntoIterator<Item = &'a ServerName>, at: Option<Millis>) -> PublicKeyMap {
        let of_server = |server: &ServerName| {
            let valid = self.0.get(server)?.keys.iter().filter(|(_, key)| key.is_valid_at(at));
            let keys = valid.map(|(id, key)| (id.clone(), Base64::new(key.public_key.to_vec())));
            Some((server.to_string(), keys.collect()))
        };
        servers.into_iter().filter_map(of_server).collect()
    }

    /// The same of all servers.
    #[must_use]
    pub fn valid_at(&self, at: Option<Millis>) -> PublicKeyMap {
        self.of(self.0.keys().map(AsRef::as_ref), at)
    }
}

/// The keys. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing(Arc<Ring>);

struct Ring {
    wire: Wire,
    store: Store,
    tools: Tools,
    io: Handle,
    own: Own,
    notaries: Vec<OwnedServerName>,
    known: ViewCache<OwnedServerName, ServerKeys>,
    running: Running,
    /// Servers that did not answer.
    down: Waits<OwnedServerName>,
    /// Keys that were not to be found.
    missing: Waits<(OwnedServerName, String)>,
    /// In the order of [`Lane`].
    lanes: [Semaphore; 3],
    checks: Semaphore,
    notarizing: Semaphore,
    learning: AsyncMutex<()>,
}

impl KeyRing {
    /// `key` is this server's; `io` the runtime that fetches run on.
    #[must_use]
    pub fn new(
        wire: Wire,
        key: Arc<ServerKey>,
        settings: KeyRingSettings,
        store: Store,
        tools: Tools,
        io: Handle,
    ) -> Self {
        let own = Own {
            server: wire.server_name().to_owned(),
            key,
            old: settings.old_keys,
        };
        Self(Arc::new(Ring {
            notaries: settings.trusted_key_servers,
            own,
            wire,
            store,
            tools,
            io,
            known: ViewCache::new(MAX_BYTES, ServerKeys::weight),
            running: Running::default(),
            down: Waits::new(REMEMBERED, DOWN.0, DOWN.1),
            missing: Waits::new(REMEMBERED, MISSING.0, MISSING.1),
            lanes: LANES.map(Semaphore::new),
            checks: Semaphore::new(CHECKS),
            notarizing: Semaphore::new(NOTARIZING),
            learning: AsyncMutex::new(()),
        }))
    }

    /// What is known of the keys of the servers in `wanted`, after looking for those that are not: half a minute at most.
    ///
    /// # Errors
    /// `Unavailable` without the database: then nothing can be said of keys. A key that is not to be had is no error.
    pub async fn keys(&self, wanted: &[Wanted]) -> Outcome<Keys> {
        self.keys_within(wanted, PATIENCE).await
    }

    /// [`KeyRing::keys`] with another patience. What is still under way then goes on and is there the next time.
    ///
    /// # Errors
    /// As above.
    pub async fn keys_within(&self, wanted: &[Wanted], patience: Duration) -> Outcome<Keys> {
        self.look_up(wanted, patience, Lane::Events).await
    }

    async fn look_up(&self, wanted: &[Wanted], patience: Duration, lane: Lane) -> Outcome<Keys> {
        let ring = &self.0;
        if let Ok(found) = tokio::time::timeout(patience, ring.search(wanted, lane)).await {
            found?;
        }
        let servers = wanted.iter().map(|wanted| wanted.server.clone()).collect();
        ring.stored(servers).await.map(Keys)
    }

    /// This server's key document.
    ///
    /// # Errors
    /// `Internal` only.
    pub fn own_document(&self) -> Outcome<CanonicalJsonObject> {
        self.0.own.document(self.0.tools.clock.now_ms())
    }
}

impl Ring {
    async fn search(self: &Arc<Self>, wanted: &[Wanted], lane: Lane) -> Outcome<()> {
        let mut lacking = self.lacking(wanted).await?;
        lacking.retain(|wanted| !self.is_down(&wanted.server, lane));
        let servers = |lacking: &[Wanted]| -> BTreeSet<OwnedServerName> {
            lacking.iter().map(|wanted| wanted.server.clone()).collect()
        };
        let many = servers(&lacking).len() > MANY;
        if many && !self.notaries.is_empty() {
            self.ask_notaries(lacking.clone()).await;
            lacking = self.lacking(&lacking).await?;
        }
        if lacking.is_empty() {
            return Ok(());
        }
        self.refresh(servers(&lacking), lane).await;
        lacking = self.lacking(&lacking).await?;
        if !many && !self.notaries.is_empty() && !lacking.is_empty() {
            self.ask_notaries(lacking.clone()).await;
            lacking = self.lacking(&lacking).await?;
        }
        let now = self.tools.clock.now_ms();
        for wanted in lacking {
            // A server that is away has its own wait.
            if !self.is_down(&wanted.server, lane) {
                self.missing.failed((wanted.server, wanted.key_id), now);
            }
        }
        Ok(())
    }

    /// Those that are not known and worth looking for.
    async fn lacking(&self, wanted: &[Wanted]) -> Outcome<Vec<Wanted>> {
        let known = self
            .stored(wanted.iter().map(|wanted| wanted.server.clone()).collect())
            .await?;
        let now = self.tools.clock.now_ms();
        let lacks = |wanted: &&Wanted| {
            !known.get(&wanted.server).is_some_and(|keys| keys.has(wanted))
                && wanted.server != self.own.server
                && !self
                    .missing
                    .is_waiting(&(wanted.server.clone(), wanted.key_id.clone()), now)
        };
        Ok(wanted.iter().filter(lacks).cloned().collect())
    }

    /// What memory and database know of some servers.
    async fn stored(&self, servers: BTreeSet<OwnedServerName>) -> Outcome<BTreeMap<OwnedServerName, Arc<ServerKeys>>> {
        let others: Vec<OwnedServerName> = servers
            .iter()
            .filter(|server| **server != self.own.server)
            .cloned()
            .collect();
        let load = |missing: Vec<OwnedServerName>| async move {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let mut loaded: HashMap<OwnedServerName, ServerKeys> = missing
                .into_iter()
                .map(|server| (server, ServerKeys::default()))
                .collect();
            for row in self.store.server_keys(&names).await? {
                let server = <&ServerName>::try_from(row.server_name.as_str());
                if let Some(keys) = server.ok().and_then(|server| loaded.get_mut(server)) {
                    keys.add(row);
                }
            }
            Ok(loaded)
        };
        let mut found: BTreeMap<_, _> = self.known.get_or_load_many(&others, load).await?.into_iter().collect();
        for server in others {
            // One that has changed meanwhile is in memory now.
            if !found.contains_key(&server)
                && let Some(keys) = self.known.get(&server)
            {
                found.insert(server, keys);
            }
        }
        if servers.contains(&self.own.server) {
            let own = ServerKeys {
                keys: self.own.keys(),
                ..ServerKeys::default()
            };
            found.insert(self.own.server.clone(), Arc::new(own));
        }
        Ok(found)
    }
}

#[cfg(test)]
#[path = "keyring/tests.rs"]
mod tests;
