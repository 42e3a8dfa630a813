//! A hub whose other servers are played by the test.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ::rules::testing::{Origin, event};
use entities::testing::TestDb;
use futures_util::future::BoxFuture;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::transport::{Answer, Transport, WireError, WireRequest, WireResponse};
use crate::clock::{Clock, TimeSource};
use crate::env::Parts;
use crate::flows::create_room::create_room;
use crate::hub::Hub;
use crate::key::ServerKey;
use crate::rng::Rng;
use crate::room::auth;
use crate::room::commands::{Append, Draft, Incoming, Ingest, Verdict};
use crate::settings::Settings;
use crate::supervisor::Arbiters;

/// A wall clock that the test moves.
#[derive(Clone, Default)]
pub struct Hand(Arc<AtomicI64>);

impl Hand {
    pub fn advance(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl TimeSource for Hand {
    fn now_ms(&self) -> i64 {
        1_000_000 + self.0.load(Ordering::SeqCst)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

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

    pub fn pdus(&self) -> Vec<Value> {
        self.json()["pdus"].as_array().cloned().unwrap_or_default()
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

    /// What one server was sent so far.
    pub fn sent_to(&self, server: &str) -> Vec<Heard> {
        let mut heard = self.heard();
        heard.retain(|heard| heard.server == server && heard.path.starts_with("/_matrix/federation/v1/send/"));
        heard
    }

    /// The texts of the messages in it, and the types of all other events.
    pub fn events_to(&self, server: &str) -> Vec<String> {
        let pdus = self.sent_to(server).iter().flat_map(Heard::pdus).collect::<Vec<_>>();
        let name = |pdu: &Value| {
            pdu["content"]["body"]
                .as_str()
                .or(pdu["type"].as_str())
                .map(str::to_owned)
        };
        pdus.iter().filter_map(name).collect()
    }

    /// The EDUs in it.
    pub fn edus_to(&self, server: &str) -> Vec<Value> {
        let edus = self
            .sent_to(server)
            .into_iter()
            .map(|heard| heard.json()["edus"].clone());
        edus.flat_map(|edus| edus.as_array().cloned().unwrap_or_default())
            .collect()
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

/// One process's way to the wire: cut when the process dies.
#[derive(Clone)]
struct Line {
    wire: Arc<FakeWire>,
    alive: Arc<AtomicBool>,
}

impl Transport for Line {
    fn send<'a>(&'a self, to: &'a ServerName, request: WireRequest) -> BoxFuture<'a, Result<WireResponse, WireError>> {
        match self.alive.load(Ordering::SeqCst) {
            true => self.wire.send(to, request),
            false => Box::pin(std::future::pending()),
        }
    }

    fn open<'a>(&'a self, to: &'a ServerName, request: WireRequest) -> BoxFuture<'a, Result<Answer, WireError>> {
        self.wire.open(to, request)
    }
}

/// A database, and one hub after the other on it.
pub struct World {
    alive: Mutex<Arc<AtomicBool>>,
    pub db: TestDb,
    pub wire: Arc<FakeWire>,
    pub clock: Clock,
    runtime: Arc<tokio::runtime::Runtime>,
    arbiters: Arbiters,
}

impl World {
    /// Starts this server, `x`, as it was when it last ended. A former process is dead: nobody hears of it any more.
    pub async fn hub(&self) -> Arc<Hub> {
        let alive = Arc::new(AtomicBool::new(true));
        let former = std::mem::replace(&mut *self.alive.lock().expect("not poisoned"), alive.clone());
        former.store(false, Ordering::SeqCst);
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
        Hub::open_with(parts, self.arbiters.clone(), Arc::new(Line { wire, alive }))
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
            alive: Mutex::default(),
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

pub fn user(id: &str) -> OwnedUserId {
    UserId::parse(id).expect("a user id")
}

pub fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).expect("serializes")
}

/// A public room of `@alice:x`, with users of other servers.
pub async fn room_with(hub: &Arc<Hub>, others: &[&str]) -> OwnedRoomId {
    let mut request = ruma::api::client::room::create_room::v3::Request::new();
    request.preset = Some("public_chat".into());
    let room = create_room(hub, &user("@alice:x"), &request).await.expect("made");
    for other in others {
        change(hub, &room, other, "join").await;
    }
    room
}

/// A user of another server changes its own membership; some server has told.
pub async fn change(hub: &Hub, room_id: &RoomId, who: &str, membership: &str) {
    changed(hub, room_id, who, membership, false).await;
}

/// The same; `relay`: this server has let it in.
pub async fn changed(hub: &Hub, room_id: &RoomId, who: &str, membership: &str, relay: bool) {
    let pdu = foreign(
        hub,
        room_id,
        who,
        "m.room.member",
        Some(who),
        &json!({ "membership": membership }),
    )
    .await;
    let ingest = Ingest {
        pdus: vec![Incoming { relay, ..pdu }],
        outliers: Vec::new(),
    };
    let verdicts = hub.rooms().ingest(room_id, ingest).await.expect("the room is there");
    assert_eq!(verdicts, [Verdict::Accepted]);
}

/// An event of another server's user, as it arrives.
pub async fn foreign(
    hub: &Hub,
    room_id: &RoomId,
    who: &str,
    kind: &str,
    state_key: Option<&str>,
    content: &Value,
) -> Incoming {
    let room = hub.rooms().existing(room_id).await.expect("the room is there");
    let sender = user(who);
    let lookup = |kind: &str, key: &str| room.state_event(kind, key).cloned();
    let auth = auth::auth_events_for(kind, &sender, state_key, &raw(content), &room.rules, lookup);
    let auth: Vec<_> = auth
        .expect("well-formed")
        .into_iter()
        .map(|event| event.pdu.clone())
        .collect();
    let heads: Vec<_> = room.extremities.iter().map(|end| end.nid).collect();
    let heads = hub.env().rooms.events(&heads).await.expect("the database answers");
    let heads: Vec<_> = heads.into_values().map(|event| event.pdu.clone()).collect();
    let (heads, auth): (Vec<_>, Vec<_>) = (
        heads.iter().map(|pdu| &**pdu).collect(),
        auth.iter().map(|pdu| &**pdu).collect(),
    );
    let ts = hub.env().clock.now_ms();
    let mut fields = event(&room.rules, kind, who, state_key, content.clone(), (&heads, &auth), ts);
    fields["room_id"] = room_id.as_str().into();
    let pdu = Origin::new(sender.server_name().as_str()).pdu(&fields, &room.rules);
    Incoming::of(&pdu)
}

/// `@alice:x` says something.
pub async fn say(hub: &Hub, room_id: &RoomId, body: &str) -> OwnedEventId {
    let draft = Draft::message(user("@alice:x"), "m.room.message", raw(&json!({ "body": body })), None);
    hub.rooms().send(room_id, draft).await.expect("she may")
}

/// `@alice:x` changes somebody's membership.
pub async fn member(hub: &Hub, room_id: &RoomId, who: &str, membership: &str) -> OwnedEventId {
    let content = raw(&json!({ "membership": membership }));
    let draft = Draft::state(user("@alice:x"), "m.room.member", who, content);
    let append = Append { drafts: vec![draft] };
    let appended = hub.rooms().append(room_id, append).await.expect("she may");
    appended.event_ids.into_iter().next().expect("one event")
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
