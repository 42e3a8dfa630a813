//! A server that can be restarted, with a clock that stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use entities::testing::TestDb;
use ruma::{OwnedUserId, UserId};

use crate::clock::{Clock, Millis, TimeSource};
use crate::env::{Env, Parts};
use crate::hub::Hub;
use crate::key::ServerKey;
use crate::rng::Rng;
use crate::session::account::{NewDevice, Refreshing, Registration};
use crate::settings::Settings;
use crate::supervisor::Arbiters;

/// Stands still until it is set on.
#[derive(Clone)]
struct Still(Arc<AtomicI64>);

impl TimeSource for Still {
    fn now_ms(&self) -> Millis {
        self.0.load(Ordering::Relaxed)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// The server.
pub struct World {
    pub hub: Arc<Hub>,
    db: Arc<TestDb>,
    arbiters: Arbiters,
    time: Still,
}

impl World {
    async fn start(db: Arc<TestDb>, arbiters: Arbiters) -> Self {
        let time = Still(Arc::new(AtomicI64::new(1_700_000_000_000)));
        let hub = Self::open(&db, &arbiters, &time).await;
        Self {
            hub,
            db,
            arbiters,
            time,
        }
    }

    async fn open(db: &TestDb, arbiters: &Arbiters, time: &Still) -> Arc<Hub> {
        let parts = Parts {
            settings: Settings::default(),
            server_name: "x".try_into().expect("a server name"),
            key: ServerKey::new(&[7; 32], "a"),
            store: db.store().await,
            clock: Clock::from_source(time.clone()),
            rng: Rng::system(),
            io: tokio::runtime::Handle::current(),
        };
        Hub::open(parts, arbiters.clone()).await.expect("the database answers")
    }

    /// A new process on the same database: nothing is left in memory.
    pub async fn restart(&mut self) {
        self.hub.drain(std::time::Duration::from_secs(10)).await;
        self.hub = Self::open(&self.db, &self.arbiters, &self.time).await;
    }

    pub fn env(&self) -> &Arc<Env> {
        self.hub.env()
    }

    pub fn tick(&self) {
        self.time.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Registers a user with some devices.
    pub async fn register(&self, name: &str, devices: &[&str]) -> OwnedUserId {
        let user = user(name);
        let new = Registration {
            password_hash: None,
            guest: false,
            admin: false,
            displayname: Some(name.to_owned()),
            device: None,
        };
        self.hub.sessions().register(&user, new).await.expect("a new user");
        for device in devices {
            let new = NewDevice {
                device_id: Some((*device).into()),
                display_name: None,
                refreshing: Refreshing::No,
                password_proved: true,
                ip: None,
                user_agent: None,
            };
            self.hub.sessions().login(&user, new).await.expect("a new device");
        }
        user
    }
}

pub fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:x")).expect("a user id")
}

/// Runs a test on a server over a fresh database of each kind.
pub fn with_world<F: Future<Output = ()> + Send + 'static>(test: impl Fn(World) -> F + Send + Sync + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = Arc::new(runtime.expect("a runtime"));
    let system = actix_rt::System::with_tokio_rt(|| runtime.clone());
    let test = Arc::new(test);
    let databases = runtime.block_on(async { [Some(TestDb::sqlite().await), TestDb::postgres().await] });
    for db in databases.into_iter().flatten() {
        let arbiters = system.block_on(async { Arbiters::start(&runtime, 2) });
        let (test, handed) = (test.clone(), arbiters.clone());
        // On the io runtime, where requests are handled.
        let done = runtime.spawn(async move {
            let world = World::start(Arc::new(db), handed).await;
            test(world).await;
        });
        runtime.block_on(done).expect("the test passes");
        arbiters.stop();
    }
}
