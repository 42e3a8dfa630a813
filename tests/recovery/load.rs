//! Writes of all kinds at once, each kind in order, until the server is gone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::common::{
    client::{AnswerExt, PASSWORD, User, encode, text},
    server::TestServer,
};

pub const ALGORITHM: &str = "signed_curve25519";
const BACKUP: &str = "m.megolm_backup.v1.curve25519-aes-sha2";
const PATIENCE: Duration = Duration::from_secs(60);

/// A request and what came back for it.
#[derive(Clone, Debug)]
pub struct Write {
    pub user: User,
    method: &'static str,
    path: String,
    pub body: Value,
    /// Of a success; `None` while nobody knows.
    pub answer: Option<Value>,
    /// Whether an answer came only to a repetition.
    pub repeated: bool,
    /// Whether the first attempt ended without any answer, on a connection that had been made.
    pub broken: bool,
}

impl Write {
    fn new(user: &User, method: &'static str, path: String, body: Value) -> Self {
        Self {
            user: user.clone(),
            method,
            path,
            body,
            answer: None,
            repeated: false,
            broken: false,
        }
    }

    async fn ask(&mut self) -> Option<(u16, Value)> {
        let token = Some(self.user.token.as_str());
        let answer = self
            .user
            .client
            .try_request(self.method, &self.path, token, Some(&self.body));
        match answer.await {
            Ok(answer) => Some(answer).filter(|(status, _)| *status < 500),
            Err(error) => {
                self.broken |= !self.repeated && !error.is_connect();
                None
            }
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The membership that comes of it.
    pub fn leads_to(&self) -> &'static str {
        match self.action() {
            "join" => "join",
            "invite" => "invite",
            _ => "leave",
        }
    }

    /// The last segment of the path.
    pub fn action(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The event that a receipt is on.
    pub fn subject(&self) -> String {
        self.action().replace("%24", "$").replace("%3A", ":")
    }

    /// Once; false when no answer came.
    async fn attempt(&mut self) -> bool {
        match self.ask().await {
            Some((200, body)) => self.answer = Some(body),
            Some((status, body)) => panic!("{} {} was refused with {status}: {body}", self.method, self.path),
            None => {}
        }
        self.answer.is_some()
    }

    /// The same request until it is answered; `settled` are refusals that say it has happened already.
    pub async fn repeat(&mut self, settled: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        self.repeated = true;
        while self.answer.is_none() {
            assert!(
                Instant::now() < deadline,
                "{} {} gets no answer",
                self.method,
                self.path
            );
            match self.ask().await {
                Some((200, body)) => self.answer = Some(body),
                Some((_, body)) if settled.iter().any(|code| body["errcode"] == *code) => self.answer = Some(body),
                Some((status, body)) => panic!("{} {} was refused with {status}: {body}", self.method, self.path),
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// The whole request once more, and its answer.
    pub async fn again(&self) -> Value {
        let mut copy = Self {
            answer: None,
            ..self.clone()
        };
        copy.repeat(&[]).await;
        copy.answer.expect("repeat returns with an answer")
    }
}

/// What is written, by kind, in the order of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Message,
    State,
    Membership,
    Invite,
    Room,
    ToDevice,
    Receipt,
    AccountData,
    KeyUpload,
    Claim,
    Registration,
    Logout,
    Backup,
    Typing,
}

pub type Ledger = BTreeMap<Kind, Vec<Write>>;

impl Kind {
    /// Refusals of a repetition that has happened before.
    pub fn settled(self) -> &'static [&'static str] {
        match self {
            Self::Room => &["M_ROOM_IN_USE"],
            Self::Registration => &["M_USER_IN_USE"],
            Self::Logout => &["M_UNKNOWN_TOKEN"],
            Self::Membership | Self::Invite => &["M_FORBIDDEN"],
            _ => &[],
        }
    }
}

/// Everybody and everything that is there before the first death.
pub struct Cast {
    pub alice: User,
    pub bob: User,
    pub carol: User,
    /// Has one-time keys.
    pub dave: User,
    /// Reads all the time.
    pub watcher: User,
    pub hall: String,
    pub private: String,
    pub backup: String,
    latest: Arc<Mutex<String>>,
    /// Of carol, before anything was written.
    pub carols_token: String,
    /// How many to-device messages carol was given by earlier checks.
    pub fetched: AtomicUsize,
}

impl Cast {
    pub async fn gather(server: &TestServer) -> Arc<Self> {
        let [alice, bob, carol, dave, watcher] = [
            server.register("alice").await,
            server.register("bob").await,
            server.register("carol").await,
            server.register("dave").await,
            server.register("watcher").await,
        ];
        let hall = alice.create_room(json!({ "preset": "public_chat" })).await;
        let private = alice.create_room(json!({ "preset": "private_chat" })).await;
        for user in [&bob, &carol, &watcher] {
            user.join(&hall).await;
        }
        let first = alice.send(&hall, "org.example.first", json!({})).await;
        let version = json!({ "algorithm": BACKUP, "auth_data": { "public_key": "abc" } });
        let backup = text(&alice.post("room_keys/version", version).await.ok(), "version");
        let carols_token = text(&carol.sync(None, 0, None).await, "next_batch");
        Arc::new(Self {
            alice,
            bob,
            carol,
            dave,
            watcher,
            hall,
            private,
            backup,
            latest: Arc::new(Mutex::new(first)),
            carols_token,
            fetched: AtomicUsize::new(0),
        })
    }

    fn latest(&self) -> String {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, answer: &Value) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = text(answer, "event_id");
    }

    /// The `n`-th write of a kind in a round.
    fn write(&self, kind: Kind, round: usize, n: usize) -> Write {
        let hall = format!("rooms/{}", encode(&self.hall));
        let private = format!("rooms/{}", encode(&self.private));
        let name = format!("{round}x{n}");
        let odd = n % 2 == 1;
        match kind {
            Kind::Message => {
                let body = json!({ "msgtype": "m.text", "body": name });
                Write::new(&self.alice, "PUT", format!("{hall}/send/m.room.message/{name}"), body)
            }
            Kind::State => {
                let path = format!("{hall}/state/org.example.count/x");
                Write::new(&self.alice, "PUT", path, json!({ "count": name }))
            }
            Kind::Membership => {
                let path = format!("{hall}/{}", if odd { "join" } else { "leave" });
                Write::new(&self.bob, "POST", path, json!({}))
            }
            Kind::Invite => {
                let path = format!("{private}/{}", if odd { "kick" } else { "invite" });
                Write::new(&self.alice, "POST", path, json!({ "user_id": self.dave.user_id }))
            }
            Kind::Room => {
                let body = json!({ "room_alias_name": name, "visibility": "public", "preset": "public_chat",
                                   "name": name, "invite": [self.carol.user_id] });
                Write::new(&self.alice, "POST", "createRoom".to_owned(), body)
            }
            Kind::Receipt => {
                let path = format!("{hall}/receipt/m.read/{}", encode(&self.latest()));
                Write::new(&self.carol, "POST", path, json!({}))
            }
            Kind::Typing => {
                let path = format!("{hall}/typing/{}", encode(&self.carol.user_id));
                Write::new(&self.carol, "PUT", path, json!({ "typing": odd, "timeout": 30_000 }))
            }
            _ => self.private_write(kind, &name),
        }
    }

    fn private_write(&self, kind: Kind, name: &str) -> Write {
        match kind {
            Kind::ToDevice => {
                let messages = json!({ &self.carol.user_id: { &self.carol.device_id: { "note": name } } });
                let path = format!("sendToDevice/org.example.note/{name}");
                Write::new(&self.bob, "PUT", path, json!({ "messages": messages }))
            }
            Kind::AccountData => {
                let path = format!("user/{}/account_data/org.example.counter", encode(&self.carol.user_id));
                Write::new(&self.carol, "PUT", path, json!({ "count": name }))
            }
            Kind::KeyUpload => {
                let keys = json!({ format!("{ALGORITHM}:{name}"): { "key": name } });
                Write::new(
                    &self.dave,
                    "POST",
                    "keys/upload".to_owned(),
                    json!({ "one_time_keys": keys }),
                )
            }
            Kind::Claim => {
                let wanted = json!({ &self.dave.user_id: { &self.dave.device_id: ALGORITHM } });
                Write::new(
                    &self.bob,
                    "POST",
                    "keys/claim".to_owned(),
                    json!({ "one_time_keys": wanted }),
                )
            }
            Kind::Registration => {
                let body = json!({ "username": format!("user{name}"), "password": PASSWORD });
                Write::new(&self.alice, "POST", "register".to_owned(), body)
            }
            Kind::Backup => {
                let path = format!("room_keys/keys/%21room%3Alocalhost/{name}?version={}", self.backup);
                let body = json!({ "first_message_index": 0, "forwarded_count": 0, "is_verified": false,
                                   "session_data": { "name": name } });
                Write::new(&self.alice, "PUT", path, body)
            }
            _ => unreachable!("the other kinds are written elsewhere"),
        }
    }
}

const IN_ORDER: [Kind; 13] = [
    Kind::Message,
    Kind::State,
    Kind::Membership,
    Kind::Invite,
    Kind::Room,
    Kind::ToDevice,
    Kind::Receipt,
    Kind::AccountData,
    Kind::KeyUpload,
    Kind::Claim,
    Kind::Registration,
    Kind::Backup,
    Kind::Typing,
];

/// All kinds at once until `stop`, or until each has met a request without an answer, which is its last entry.
pub async fn drive(cast: &Arc<Cast>, round: usize, stop: &Arc<AtomicBool>) -> Ledger {
    let mut workers = JoinSet::new();
    for kind in IN_ORDER {
        let (cast, stop) = (cast.clone(), stop.clone());
        workers.spawn(async move { (kind, write_all(&cast, kind, round, &stop).await) });
    }
    let (cast, stop) = (cast.clone(), stop.clone());
    workers.spawn(async move { (Kind::Logout, log_out_all(&cast, &stop).await) });
    workers.join_all().await.into_iter().collect()
}

async fn write_all(cast: &Cast, kind: Kind, round: usize, stop: &AtomicBool) -> Vec<Write> {
    let mut writes = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut write = cast.write(kind, round, n);
        let answered = write.attempt().await;
        if let (Kind::Message, Some(answer)) = (kind, &write.answer) {
            cast.note(answer);
        }
        writes.push(write);
        if !answered {
            break;
        }
        // Rooms and accounts are dear; there need not be hundreds of them.
        if matches!(kind, Kind::Room | Kind::Registration) {
            sleep(Duration::from_millis(30)).await;
        }
    }
    writes
}

/// New devices, each of which logs out again.
async fn log_out_all(cast: &Cast, stop: &AtomicBool) -> Vec<Write> {
    let mut writes = Vec::new();
    let login = json!({ "type": "m.login.password", "password": PASSWORD,
                        "identifier": { "type": "m.id.user", "user": "bob" } });
    while !stop.load(Ordering::Relaxed) {
        let answer = cast.bob.client.try_request("POST", "login", None, Some(&login)).await;
        let Ok((200, answer)) = answer else { break };
        let device = User::from_login(&cast.bob.client, &answer);
        let mut write = Write::new(&device, "POST", "logout".to_owned(), json!({}));
        let answered = write.attempt().await;
        writes.push(write);
        if !answered {
            break;
        }
    }
    writes
}
