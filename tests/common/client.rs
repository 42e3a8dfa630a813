//! A small Matrix client: it speaks JSON and lets a test look at every status and body.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{
    Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde_json::{Value, json};

/// How long `sync_until` waits for what it looks for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The password of every user that `User::register` makes.
pub const PASSWORD: &str = "correct horse battery staple";

/// Status and JSON body; the body is `null` if there is none.
pub type Answer = (u16, Value);

pub trait AnswerExt {
    /// The body of a success; anything else fails the test.
    fn ok(self) -> Value;
    /// The body of a refusal with this status and `errcode`; anything else fails the test.
    fn refused(self, status: u16, errcode: &str) -> Value;
}

impl AnswerExt for Answer {
    #[track_caller]
    fn ok(self) -> Value {
        assert_eq!(self.0, 200, "expected a success: {}", self.1);
        self.1
    }

    #[track_caller]
    fn refused(self, status: u16, errcode: &str) -> Value {
        assert_eq!(
            (self.0, self.1["errcode"].as_str()),
            (status, Some(errcode)),
            "{}",
            self.1
        );
        self.1
    }
}

/// A connection pool to one server.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// `http://127.0.0.1:<port>`
    pub base: String,
}

impl Client {
    pub fn new(base: &str) -> Self {
        // reqwest asks for a process-wide provider; a second installation is refused and harmless.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(90))
            .build();
        Self {
            http: http.expect("a client without special settings can be built"),
            base: base.to_owned(),
        }
    }

    /// A path that begins with `/` is taken as it is, any other lies below `/_matrix/client/v3/`.
    /// It must be percent-encoded already (see [`encode`]).
    pub fn url(&self, path: &str) -> String {
        match path.strip_prefix('/') {
            Some(absolute) => format!("{}/{absolute}", self.base),
            None => format!("{}/_matrix/client/v3/{path}", self.base),
        }
    }

    /// One request; an error means that no complete answer came back.
    pub async fn try_request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Answer, reqwest::Error> {
        let method = Method::from_bytes(method.as_bytes()).expect("a test names a valid method");
        let mut request = self.http.request(method, self.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        let body = match serde_json::from_slice(&bytes) {
            Ok(value) => value,
            Err(_) if bytes.is_empty() => Value::Null,
            Err(_) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
        };
        Ok((status, body))
    }

    pub async fn request(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let answer = self.try_request(method, path, token, body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// A POST that a proxy passes on for an address.
    pub async fn post_from(&self, address: &str, path: &str, body: &Value) -> Answer {
        let request = self.http.post(self.url(path)).header("X-Forwarded-For", address);
        let response = request.json(body).send().await;
        let response = response.unwrap_or_else(|error| panic!("{path}: {error}"));
        let status = response.status().as_u16();
        let body = response.json().await;
        (status, body.unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, None, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.request("POST", path, None, Some(&body)).await
    }

    /// A request whose body is sent as it is; returns status, `Content-Type` and body.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<(&str, Vec<u8>)>,
    ) -> (u16, String, Vec<u8>) {
        let method = Method::from_bytes(method.as_bytes()).expect("a test names a valid method");
        let mut request = self.http.request(method, self.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some((content_type, body)) = body {
            request = request.header(CONTENT_TYPE, content_type).body(body);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let (status, content_type) = (response.status().as_u16(), content_type.unwrap_or_default().to_owned());
        let bytes = response.bytes().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        (status, content_type, bytes.to_vec())
    }

    /// A request with an `Authorization` header that is sent as it is, and perhaps a body of JSON text.
    pub async fn signed(
        &self,
        method: &str,
        path: &str,
        authorization: &str,
        body: Option<String>,
    ) -> Result<Answer, reqwest::Error> {
        let method = Method::from_bytes(method.as_bytes()).expect("a test names a valid method");
        let mut request = self.http.request(method, self.url(path));
        request = request.header(AUTHORIZATION, authorization);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Registers an account with `m.login.dummy`; returns the answer to the last step.
    pub async fn register(&self, mut body: Value) -> Answer {
        let first = self.post("register", body.clone()).await;
        if first.0 != 401 {
            return first;
        }
        body["auth"] = json!({ "type": "m.login.dummy", "session": first.1["session"] });
        self.post("register", body).await
    }
}

/// One logged-in device.
#[derive(Clone, Debug)]
pub struct User {
    pub client: Client,
    pub user_id: String,
    pub device_id: String,
    pub token: String,
    transactions: Arc<AtomicU64>,
}

impl User {
    pub async fn register(client: &Client, localpart: &str) -> Self {
        let answer = client
            .register(json!({ "username": localpart, "password": PASSWORD }))
            .await
            .ok();
        Self::from_login(client, &answer)
    }

    /// A further device of an account that `register` made.
    pub async fn login(client: &Client, localpart: &str) -> Self {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": localpart },
            "password": PASSWORD,
        });
        let answer = client.post("login", body).await.ok();
        Self::from_login(client, &answer)
    }

    /// From the answer to a registration or login.
    pub fn from_login(client: &Client, answer: &Value) -> Self {
        Self {
            client: client.clone(),
            user_id: text(answer, "user_id"),
            device_id: text(answer, "device_id"),
            token: text(answer, "access_token"),
            transactions: Arc::default(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.client.request("GET", path, Some(&self.token), None).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.client.request("PUT", path, Some(&self.token), Some(&body)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.client.request("POST", path, Some(&self.token), Some(&body)).await
    }

    pub async fn delete(&self, path: &str, body: Option<Value>) -> Answer {
        self.client
            .request("DELETE", path, Some(&self.token), body.as_ref())
            .await
    }

    /// A transaction id that this device has not used yet.
    pub fn next_txn_id(&self) -> String {
        format!("txn{}", self.transactions.fetch_add(1, Ordering::Relaxed))
    }

    /// `options` as for `POST /createRoom`; returns the room id.
    pub async fn create_room(&self, options: Value) -> String {
        text(&self.post("createRoom", options).await.ok(), "room_id")
    }

    pub async fn invite(&self, room_id: &str, user_id: &str) {
        self.post(
            &format!("rooms/{}/invite", encode(room_id)),
            json!({ "user_id": user_id }),
        )
        .await
        .ok();
    }

    pub async fn join(&self, room_id: &str) {
        self.post(&format!("rooms/{}/join", encode(room_id)), json!({}))
            .await
            .ok();
    }

    pub async fn leave(&self, room_id: &str) {
        self.post(&format!("rooms/{}/leave", encode(room_id)), json!({}))
            .await
            .ok();
    }

    /// Sends an event; returns its id.
    pub async fn send(&self, room_id: &str, event_type: &str, content: Value) -> String {
        let path = format!("rooms/{}/send/{event_type}/{}", encode(room_id), self.next_txn_id());
        text(&self.put(&path, content).await.ok(), "event_id")
    }

    pub async fn send_text(&self, room_id: &str, body: &str) -> String {
        self.send(room_id, "m.room.message", json!({ "msgtype": "m.text", "body": body }))
            .await
    }

    /// Sends a state event; returns its id.
    pub async fn set_state(&self, room_id: &str, event_type: &str, state_key: &str, content: Value) -> String {
        let path = format!("rooms/{}/state/{event_type}/{}", encode(room_id), encode(state_key));
        text(&self.put(&path, content).await.ok(), "event_id")
    }

    /// `filter` is an id or, as JSON text, a filter itself.
    pub async fn sync(&self, since: Option<&str>, timeout_ms: u64, filter: Option<&str>) -> Value {
        let mut path = format!("sync?timeout={timeout_ms}");
        for (name, value) in [("since", since), ("filter", filter)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", encode(value)));
            }
        }
        self.get(&path).await.ok()
    }

    /// Syncs on from `since` until a response satisfies the predicate; returns that response.
    pub async fn sync_until(&self, since: Option<&str>, mut predicate: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut since = since.map(str::to_owned);
        loop {
            let response = self.sync(since.as_deref(), 2_000, None).await;
            if predicate(&response) {
                return response;
            }
            assert!(
                Instant::now() < deadline,
                "what {} waits for did not come; last: {response:#}",
                self.user_id
            );
            since = Some(text(&response, "next_batch"));
        }
    }
}

/// A string of a response by its key.
#[track_caller]
pub fn text(value: &Value, key: &str) -> String {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no string at {key}: {value}"))
        .to_owned()
}

/// The timeline of a joined room in a /sync response.
pub fn timeline<'a>(sync: &'a Value, room_id: &str) -> &'a [Value] {
    let events = sync["rooms"]["join"][room_id]["timeline"]["events"].as_array();
    events.map_or(&[], Vec::as_slice)
}

/// Percent-encodes one path segment or query value.
pub fn encode(segment: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            byte if plain(byte) => encoded.push(byte.into()),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
