//! The only way in for everything outside this crate: the environment and the handles on the actors.

use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::error::StoreError;

use crate::env::{Env, Parts};
use crate::error::{DomainError, Outcome};
use crate::flows;
use crate::janitor;
use crate::media;
use crate::peer::handle::Peers;
use crate::peer::transport::Transport;
use crate::presence;
use crate::room::handle::Rooms;
use crate::session::handle::Sessions;
use crate::stats::Registry;
use crate::supervisor::{Arbiters, Fabric, Settings, Watchdog, WatchdogSettings};

/// Built once at start.
pub struct Hub {
    env: Arc<Env>,
    rooms: Rooms,
    sessions: Sessions,
    peers: Peers,
    fabric: Fabric,
    _watchdog: Watchdog,
}

/// Weight (devices and one for each user) of the sessions in memory.
const SESSION_WEIGHT: u64 = 1_000_000;

/// How often the process looks whether it still owns the database.
const OWNERSHIP_LOOK: Duration = Duration::from_secs(1);

impl Hub {
    /// Takes the database over from any former process and starts everything that works by itself.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer; `Internal` when the system gives no thread.
    pub async fn open(parts: Parts, arbiters: Arbiters) -> Outcome<Arc<Self>> {
        let env = Env::open(parts).await?;
        let wire = Arc::new(env.wire.clone());
        Self::start(env, arbiters, wire).await
    }

    /// The same with another way to other servers.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(parts: Parts, arbiters: Arbiters, transport: Arc<dyn Transport>) -> Outcome<Arc<Self>> {
        Self::start(Env::open(parts).await?, arbiters, transport).await
    }

    async fn start(env: Arc<Env>, arbiters: Arbiters, transport: Arc<dyn Transport>) -> Outcome<Arc<Self>> {
        let fabric = Fabric {
            io: env.io.clone(),
            clock: env.clock.clone(),
            rng: env.rng.clone(),
            arbiters,
            registry: Arc::new(Registry::default()),
        };
        let settings = Settings {
            idle: Duration::from_secs(env.settings.room_idle_secs),
            weight_capacity: env.settings.room_cache_bytes,
            ..Settings::default()
        };
        let rooms = Rooms::start(&fabric, env.clone(), settings);
        let settings = Settings {
            idle: Duration::from_secs(env.settings.session_idle_secs),
            weight_capacity: SESSION_WEIGHT,
            ..Settings::default()
        };
        let sessions = Sessions::start(&fabric, env.clone(), settings);
        let settings = Settings {
            idle: Duration::from_secs(env.settings.peer_idle_secs),
            ..Settings::default()
        };
        let peers = Peers::start(&fabric, env.clone(), transport, settings);
        env.policies.connect(&peers);
        let watchdog = Watchdog::start(fabric.clone(), WatchdogSettings::default())
            .map_err(|error| DomainError::internal(format!("watchdog: {error}")))?;
        let hub = Arc::new(Self {
            env,
            rooms,
            sessions,
            peers,
            fabric,
            _watchdog: watchdog,
        });
        media::clear_unfinished(hub.env()).await;
        presence::start(hub.env());
        janitor::start(hub.env());
        flows::remote_devices::start(hub.env());
        hub.env().io.spawn(watch_ownership(Arc::downgrade(hub.env())));
        // First: rooms that are half deleted must not come back.
        flows::admin::tasks::resume(&hub).await?;
        flows::deactivate::resume(&hub).await?;
        flows::profile::resume(&hub).await?;
        flows::upgrade::resume(&hub).await?;
        flows::ingest::resume(&hub).await?;
        flows::remote::unfinished::start(&hub);
        flows::friends::start(&hub);
        flows::delayed::start(&hub);
        Ok(hub)
    }

    /// The rooms.
    #[must_use]
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// The local users.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The other servers.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The figures of all actors.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.fabric.registry
    }

    /// How late the newest no-op task of each arbiter ran, microseconds.
    #[must_use]
    pub fn arbiter_lags_us(&self) -> Vec<u128> {
        self.fabric.arbiters.lags().iter().map(Duration::as_micros).collect()
    }

    /// What actors and readers share.
    #[must_use]
    pub fn env(&self) -> &Arc<Env> {
        &self.env
    }

    /// The server is about to stop: whoever waits for news gets an answer now. Requests still work.
    pub fn begin_drain(&self) {
        self.env.feeds.close();
    }

    /// Whether the server is about to stop: whoever waits answers at once.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.env.feeds.is_closed()
    }

    /// Whether another process has taken the database over: what this one knows is old.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.env.store.is_fenced()
    }

    /// Finishes what has been accepted, for at most `patience`. Call when nothing new comes in any more.
    pub async fn drain(&self, patience: Duration) {
        let left = self.sessions.actors().drain(patience).await;
        if left > 0 {
            tracing::warn!(left, "sessions were not done in time");
        }
        let left = self.rooms.actors().drain(patience).await;
        if left > 0 {
            tracing::warn!(left, "rooms were not done in time");
        }
        if tokio::time::timeout(patience, self.env.journal.idle()).await.is_err() {
            tracing::warn!("the journal was not done in time");
        }
        // Last: what users and rooms did until now is theirs to carry.
        let left = self.peers.drain(patience).await;
        if left > 0 {
            tracing::warn!(left, "peers were not done in time");
        }
    }
}

/// Ends long-polls soon after another process has taken the database over, also where nobody writes.
async fn watch_ownership(weak: Weak<Env>) {
    loop {
        tokio::time::sleep(OWNERSHIP_LOOK).await;
        let Some(env) = weak.upgrade() else { return };
        if env.store.check_owned().await == Err(StoreError::Fenced) {
            tracing::error!("another process took over the database, this one answers no requests any more");
            env.feeds.close();
            return;
        }
    }
}
