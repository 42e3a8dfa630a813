//! A homeserver inside the test: it has a name, a signing key and a certificate, and does what the test says.

use std::{
    fmt,
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::signatures::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::scenarios::signing::canonical;
use crate::common::{
    authority::Authority,
    client::{Answer as Reply, Client},
    homeserver::{Homeserver, Ours},
    port::Port,
};

pub mod http;
pub mod room;

use http::{Answer, Request, serve};

/// What a test answers itself; `None` leaves the request to the peer's own manners.
type Manner = Box<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

/// What the server and the test share.
struct Shared {
    name: String,
    key: Key,
    manner: Mutex<Option<Manner>>,
    requests: Mutex<Vec<Request>>,
}

/// A peer that runs until it is dropped.
pub struct Remote {
    shared: Arc<Shared>,
    transactions: AtomicU64,
    task: JoinHandle<()>,
    _port: Port,
}

/// A signing key with the part of its id after `ed25519:`.
pub struct Key(pub Ed25519KeyPair);

impl Key {
    pub fn generate(version: &str) -> Self {
        let pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), version.to_owned());
        Self(pair.expect("a generated key is a key"))
    }

    pub fn id(&self) -> String {
        format!("ed25519:{}", self.0.version())
    }

    /// In unpadded base64.
    fn public(&self) -> String {
        STANDARD_NO_PAD.encode(self.0.public_key())
    }

    /// The signature of an object, in unpadded base64.
    pub fn sign(&self, object: &Value) -> String {
        self.0.sign(canonical(object).as_bytes()).base64()
    }

    /// The document about this key that a server of this name publishes, signed.
    pub fn document(&self, server: &str, valid_until_ts: u64) -> Value {
        let mut document = json!({
            "server_name": server,
            "valid_until_ts": valid_until_ts,
            "verify_keys": { self.id(): { "key": self.public() } },
            "old_verify_keys": {},
        });
        document["signatures"] = json!({ server: { self.id(): self.sign(&document) } });
        document
    }
}

impl Shared {
    fn answer(&self, request: &Request) -> Answer {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.clone());
        let manner = self.manner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = manner.as_ref().and_then(|manner| manner(request)) {
            return answer;
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", path) if path.starts_with("/_matrix/key/v2/server") => {
                Answer::Json(200, self.key.document(&self.name, in_an_hour()))
            }
            ("PUT", path) if path.starts_with("/_matrix/federation/v1/send/") => {
                Answer::Json(200, json!({ "pdus": {} }))
            }
            ("GET", "/_matrix/federation/v1/version") => Answer::Json(200, json!({ "server": { "name": "a test" } })),
            _ => Answer::Json(404, json!({ "errcode": "M_UNRECOGNIZED", "error": "not by this peer" })),
        }
    }
}

impl Remote {
    pub async fn start(authority: &Authority) -> Self {
        let port = Port::claim();
        let listener = TcpListener::bind(("127.0.0.1", port.number())).expect("the port was free");
        let shared = Arc::new(Shared {
            name: format!("localhost:{}", port.number()),
            key: Key::generate("peer"),
            manner: Mutex::default(),
            requests: Mutex::default(),
        });
        let answering = shared.clone();
        let task = serve(
            listener,
            authority,
            Arc::new(move |request: &Request| answering.answer(request)),
        );
        Self {
            shared,
            transactions: AtomicU64::default(),
            task,
            _port: port,
        }
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    pub fn key(&self) -> &Key {
        &self.shared.key
    }

    pub fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.name())
    }

    /// From now on the test answers.
    pub fn behave(&self, manner: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) {
        *self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(manner));
    }

    /// What it needs to sign, apart from it.
    pub fn signer(&self) -> Signer {
        Signer(self.shared.clone())
    }

    /// What has been asked so far, below this path.
    pub fn asked(&self, prefix: &str) -> Vec<Request> {
        let requests = self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests
            .iter()
            .filter(|request| request.path.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// A signed request; a body is JSON.
    pub async fn request(&self, to: &Ours, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let header = self.header(to, method, path, body);
        submit(to.client(), method, path, &header, body.map(Value::to_string)).await
    }

    /// The `Authorization` header of a request.
    pub fn header(&self, to: &Ours, method: &str, path: &str, body: Option<&Value>) -> String {
        Credentials::of(self, to).header(method, path, body)
    }

    pub async fn get(&self, to: &Ours, path: &str) -> Reply {
        self.request(to, "GET", path, None).await
    }

    pub async fn put(&self, to: &Ours, path: &str, body: &Value) -> Reply {
        self.request(to, "PUT", path, Some(body)).await
    }

    /// A transaction with an id of its own.
    pub async fn send(&self, to: &Ours, pdus: &[Value], edus: &[Value]) -> Reply {
        let id = self.transactions.fetch_add(1, Ordering::Relaxed);
        self.send_as(to, &format!("txn{id}"), pdus, edus).await
    }

    pub async fn send_as(&self, to: &Ours, id: &str, pdus: &[Value], edus: &[Value]) -> Reply {
        let body = self.transaction(pdus, edus);
        self.put(to, &format!("/_matrix/federation/v1/send/{id}"), &body).await
    }

    pub fn transaction(&self, pdus: &[Value], edus: &[Value]) -> Value {
        json!({ "origin": self.name(), "origin_server_ts": now(), "pdus": pdus, "edus": edus })
    }
}

/// The name and key of a peer.
#[derive(Clone)]
pub struct Signer(Arc<Shared>);

impl Signer {
    /// An event of another server with this peer's signature beside the others.
    pub fn countersign(&self, event: &Value) -> Value {
        room::countersign(&self.0.name, &self.0.key, event)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// Who a request says it is from and for, and whose key signs it.
pub struct Credentials<'a> {
    pub origin: String,
    /// `None` leaves it out of the header; it is signed all the same.
    pub destination: Option<String>,
    pub signed_destination: String,
    pub key: &'a Key,
    pub key_id: String,
}

impl<'a> Credentials<'a> {
    /// The right ones.
    pub fn of(remote: &'a Remote, to: &Ours) -> Self {
        Self {
            origin: remote.name().to_owned(),
            destination: Some(to.name().to_owned()),
            signed_destination: to.name().to_owned(),
            key: remote.key(),
            key_id: remote.key().id(),
        }
    }

    /// The `Authorization` header.
    pub fn header(&self, method: &str, path: &str, body: Option<&Value>) -> String {
        let mut object = json!({
            "method": method,
            "uri": path,
            "origin": self.origin,
            "destination": self.signed_destination,
        });
        if let Some(body) = body {
            object["content"] = body.clone();
        }
        let destination = self.destination.as_ref().map(|name| format!("destination=\"{name}\","));
        format!(
            "X-Matrix origin=\"{}\",{}key=\"{}\",sig=\"{}\"",
            self.origin,
            destination.unwrap_or_default(),
            self.key_id,
            self.key.sign(&object)
        )
    }
}

/// Sends a request with this `Authorization` header and this text as its body.
pub async fn submit(client: &Client, method: &str, path: &str, header: &str, body: Option<String>) -> Reply {
    let answer = client.signed(method, path, header, body).await;
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// Unix milliseconds.
#[expect(
    clippy::disallowed_methods,
    reason = "a peer has its own clock, and the server's is the machine's"
)]
pub fn now() -> u64 {
    let passed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is right");
    u64::try_from(passed.as_millis()).expect("milliseconds of this age fit")
}

pub fn in_an_hour() -> u64 {
    now() + 3_600_000
}
