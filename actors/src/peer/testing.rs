//! A hub whose other servers are played by the test.

use std::sync::{Arc, Mutex};

use entities::testing::TestDb;
use futures_util::future::BoxFuture;
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value, json};

use super::transport::{Answer, Transport, WireError, WireRequest, WireResponse};
use crate::clock::Clock;
use crate::env::Parts;
use crate::hub::Hub;
use crate::key::ServerKey;
use crate::rng::Rng;
use crate::settings::Settings;
use crate::supervisor::Arbiters;

/// A request as a server received it.
#[derive(Clone, Debug)]
pub struct Heard {
    pub server: OwnedServerName,
    pub method: http::Method,
    pub path: String,
    /// Byte for byte.
    pub body: String,
}

impl Heard {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("bodies are JSON")
    }
}

type Reply = BoxFuture<'static, Result<WireResponse, WireError>>;
type Script = dyn Fn(&Heard) -> Reply + Send + Sync;

/// Answers as the test wants and remembers what was asked.
pub struct FakeWire {
    script: Mutex<Arc<Script>>,
    heard: Mutex<Vec<Heard>>,
}

impl Default for FakeWire {
    fn default() -> Self {
        Self {
            script: Mutex::new(Arc::new(|_| answer(ok(&json!({ "pdus": {} }))))),
            heard: Mutex::default(),
        }
    }
}

/// An answer that is there at once.
pub fn answer(outcome: Result<WireResponse, WireError>) -> Reply {
    Box::pin(async move { outcome })
}

/// A good answer.
pub fn ok(body: &Value) -> Result<WireResponse, WireError> {
    Ok(WireResponse {
        status: http::StatusCode::OK,
        headers: http::HeaderMap::new(),
        body: body.to_string().into(),
    })
}

/// No answer.
pub fn unreachable() -> Result<WireResponse, WireError> {
    Err(WireError::Unreachable("no route to host".to_owned()))
}

/// A refusal.
pub fn refuse(status: u16, errcode: &str) -> Result<WireResponse, WireError> {
    Err(WireError::Refused {
        status,
        errcode: Some(errcode.to_owned()),
        error: "no".to_owned(),
        retry_after_ms: None,
        body: Value::Null,
    })
}

impl FakeWire {
    /// Answers like this from now on.
    pub fn script(&self, script: impl Fn(&Heard) -> Reply + Send + Sync + 'static) {
        *self.script.lock().expect("not poisoned") = Arc::new(script);
    }

    /// What was asked so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("not poisoned").clone()
    }

    /// What one server was asked so far.
    pub fn heard_by(&self, server: &str) -> Vec<Heard> {
        let mut heard = self.heard();
        heard.retain(|heard| heard.server == server);
        heard
    }
}

impl Transport for FakeWire {
    fn send<'a>(&'a self, to: &'a ServerName, request: WireRequest) -> BoxFuture<'a, Result<WireResponse, WireError>> {
        let heard = Heard {
            server: to.to_owned(),
            method: request.method,
            path: request.path,
            body: request.body.map(|body| body.get().to_owned()).unwrap_or_default(),
        };
        self.heard.lock().expect("not poisoned").push(heard.clone());
        let script = Arc::clone(&self.script.lock().expect("not poisoned"));
        script(&heard)
    }

    fn open<'a>(&'a self, _: &'a ServerName, _: WireRequest) -> BoxFuture<'a, Result<Answer, WireError>> {
        Box::pin(async { Err(WireError::Unreachable("nothing streams here".to_owned())) })
    }
}

/// A database, and one hub after the other on it.
pub struct World {
    pub db: TestDb,
    pub wire: Arc<FakeWire>,
    pub clock: Clock,
    runtime: Arc<tokio::runtime::Runtime>,
    arbiters: Arbiters,
}

impl World {
    /// Starts this server, `x`, as it was when it last ended.
    pub async fn hub(&self) -> Arc<Hub> {
        let parts = Parts {
            settings: Settings::default(),
            server_name: "x".try_into().expect("a server name"),
            key: ServerKey::new(&[7; 32], "a"),
            store: self.db.store().await,
            clock: self.clock.clone(),
            rng: Rng::seeded(1),
            io: self.runtime.handle().clone(),
        };
        let wire = Arc::clone(&self.wire);
        Hub::open_with(parts, self.arbiters.clone(), wire)
            .await
            .expect("the database answers")
    }
}

/// Runs a test on a fresh database of each kind.
pub fn with_world<F: Future<Output = ()> + Send + 'static>(
    clock: &Clock,
    test: impl Fn(Arc<World>) -> F + Send + Sync + 'static,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = Arc::new(runtime.expect("a runtime"));
    let system = actix_rt::System::with_tokio_rt(|| runtime.clone());
    let databases = runtime.block_on(async { [Some(TestDb::sqlite().await), TestDb::postgres().await] });
    for db in databases.into_iter().flatten() {
        let arbiters = system.block_on(async { Arbiters::start(&runtime, 2) });
        let world = Arc::new(World {
            db,
            wire: Arc::default(),
            clock: clock.clone(),
            runtime: runtime.clone(),
            arbiters: arbiters.clone(),
        });
        runtime.block_on(runtime.spawn(test(world))).expect("the test passes");
        arbiters.stop();
    }
}

/// Evaluates an expression until it is `Some`, 20 s at most.
macro_rules! until {
    ($what:literal, $look:expr) => {
        tokio::time::timeout(std::time::Duration::from_secs(20), async {
            loop {
                if let Some(found) = $look {
                    break found;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("in vain: {}", $what))
    };
}
pub(crate) use until;
