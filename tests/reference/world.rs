//! A server with people, a room and a peer, of whom each endpoint of the reference is asked in turn.

use std::collections::BTreeMap;

use reqwest::{Method, header, redirect::Policy};
use serde_json::{Map, Value, json};

use super::{
    book::Book,
    shapes::{Shape, faults, section},
};
use crate::{
    common::{
        authority::Authority,
        client::{User, encode},
        db::Backend,
        homeserver::{Homeserver as _, Ours},
        mail::Mailbox,
    },
    federation::remote::Remote,
};

/// What the example requests of the reference are about.
pub struct World {
    pub ours: Ours,
    pub remote: Remote,
    pub book: Book,
    /// For the parameters of a path and the identifiers in the examples, by the name or identifier that the reference has.
    pub names: BTreeMap<&'static str, String>,
    pub admin: User,
    /// `None` until they are registered.
    pub alice: Option<User>,
    pub bob: Option<User>,
    pub mail: Mailbox,
    http: reqwest::Client,
    _authority: Authority,
}

/// Who asks.
enum By {
    /// As the reference says: nobody, `alice`, the administrator, or the peer.
    Documented,
    User(String),
    Nobody,
}

/// A request that is being put together.
pub struct Ask<'a> {
    world: &'a mut World,
    method: String,
    template: String,
    path: String,
    by: By,
    auth: String,
    body: Option<Value>,
    expected: Option<Value>,
    statuses: Vec<u16>,
    errcode: Option<&'static str>,
    behaviour: &'static str,
}

/// An answer as it came.
pub struct Seen {
    pub status: u16,
    pub headers: header::HeaderMap,
    pub bytes: Vec<u8>,
}

impl Seen {
    /// The body as JSON; anything else is `null`.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    pub fn header(&self, name: header::HeaderName) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }
}

impl World {
    pub async fn start(backend: Backend) -> Self {
        let authority = Authority::create();
        let mail = Mailbox::open().await;
        let ours = Ours::start_with(backend, &authority, "127.0.0.1", |config| {
            super::configure(config, mail.port())
        })
        .await;
        let remote = Remote::start(&authority).await;
        let admin = ours.administrator().await;
        let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build();
        Self {
            remote,
            book: Book::default(),
            names: BTreeMap::from([
                ("example.com", ours.name().to_owned()),
                ("user@example.com", MAIL.to_owned()),
            ]),
            admin,
            alice: None,
            bob: None,
            mail,
            ours,
            http: http.expect("a client without special settings can be built"),
            _authority: authority,
        }
    }

    pub fn alice(&self) -> &User {
        self.alice.as_ref().expect("alice is registered first")
    }

    pub fn bob(&self) -> &User {
        self.bob.as_ref().expect("bob is registered first")
    }

    pub fn name(&mut self, known_as: &'static str, is: &str) {
        self.names.insert(known_as, is.to_owned());
    }

    /// A documented endpoint, with its example request.
    pub fn section(&mut self, number: &str) -> Ask<'_> {
        let shape: &'static Shape = section(number);
        let statuses = shape.status_codes.first().copied().into_iter().collect();
        let body = shape.request_example.as_ref().map(|example| self.translate(example));
        let expected = shape.response_example.clone();
        self.ask(&shape.method, &shape.path, &shape.auth, body, expected, statuses)
    }

    /// One that the reference only counts; `behaviour` is what it does here, for the documentation.
    pub fn counted(&mut self, method: &str, path: &str, behaviour: &'static str) -> Ask<'_> {
        let auth = match path {
            path if path.starts_with("/_matrix/federation") => "federation-signature",
            path if path.starts_with("/_matrix/key") || path.contains("/download/") => "none",
            path if path.starts_with("/_synapse/admin") => "admin",
            _ => "user",
        };
        let mut ask = self.ask(method, path, auth, None, None, Vec::new());
        ask.behaviour = behaviour;
        ask
    }

    fn ask(
        &mut self,
        method: &str,
        path: &str,
        auth: &str,
        body: Option<Value>,
        expected: Option<Value>,
        statuses: Vec<u16>,
    ) -> Ask<'_> {
        let filled = self.fill(path);
        let body = body.or_else(|| matches!(method, "POST" | "PUT").then(|| json!({})));
        Ask {
            method: method.to_owned(),
            template: path.to_owned(),
            path: filled,
            by: By::Documented,
            auth: auth.to_owned(),
            body,
            expected,
            statuses: if statuses.is_empty() { vec![200] } else { statuses },
            errcode: None,
            behaviour: "",
            world: self,
        }
    }

    /// Puts what is known by a parameter's name in its place.
    fn fill(&self, path: &str) -> String {
        let mut filled = path.to_owned();
        for (name, value) in &self.names {
            filled = filled.replace(&format!("{{{name}}}"), &encode(value));
        }
        filled
    }

    /// An example with the identifiers of this server.
    fn translate(&self, example: &Value) -> Value {
        match example {
            Value::String(text) => Value::String(self.translated(text)),
            Value::Array(items) => items.iter().map(|item| self.translate(item)).collect(),
            Value::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(key, value)| (self.translated(key), self.translate(value)));
                Value::Object(fields.collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    fn translated(&self, text: &str) -> String {
        // What is written like this names a parameter, or a field.
        let is_identifier = text.bytes().any(|byte| !byte.is_ascii_lowercase() && byte != b'_');
        let known = self.names.get(text).filter(|_| is_identifier);
        known.cloned().unwrap_or_else(|| text.to_owned())
    }
}

/// Where a mail of this test goes to.
pub const MAIL: &str = "alice@mail.example";

impl Ask<'_> {
    /// Another value for a parameter of the path.
    pub fn with(self, parameter: &str, value: &str) -> Self {
        self.with_all(&[(parameter, value)])
    }

    /// Other values for parameters of the path.
    pub fn with_all(mut self, parameters: &[(&str, &str)]) -> Self {
        let mut named = self.template.clone();
        for (parameter, value) in parameters {
            let value = match value.strip_suffix(":example.com") {
                Some(here) => format!("{here}:{}", self.world.names["example.com"]),
                None => (*value).to_owned(),
            };
            named = named.replace(&format!("{{{parameter}}}"), &encode(&value));
        }
        self.path = self.world.fill(&named);
        self
    }

    pub fn query(mut self, query: &str) -> Self {
        self.path = format!("{}?{query}", self.path);
        self
    }

    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// The example request, with the identifiers of this server.
    pub fn example(&self) -> Value {
        self.body.clone().unwrap_or_default()
    }

    /// The example request with one field as the test needs it.
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.body.get_or_insert_with(|| json!({}))[name] = value;
        self
    }

    pub fn by(mut self, user: &User) -> Self {
        self.by = By::User(user.token.clone());
        self
    }

    pub fn by_bob(self) -> Self {
        let bob = self.world.bob().clone();
        self.by(&bob)
    }

    pub fn by_nobody(mut self) -> Self {
        self.by = By::Nobody;
        self
    }

    /// What the answer must have, in place of the reference's example.
    pub fn like(mut self, expected: Value) -> Self {
        self.expected = Some(expected);
        self
    }

    /// Asks, and holds the answer against the example.
    pub async fn done(self) -> Value {
        self.seen().await.json()
    }

    /// Asks for a refusal, which carries the three fields of the reference's errors.
    pub async fn refused(mut self, status: u16, errcode: &'static str) {
        self.statuses = vec![status];
        self.errcode = Some(errcode);
        self.expected = Some(json!({ "errcode": "M", "error": "text", "status": "error" }));
        self.seen().await;
    }

    /// As [`Self::done`], with status and headers.
    pub async fn seen(self) -> Seen {
        let seen = self.send().await;
        let asked = format!("{} {}", self.method, self.path);
        let text = String::from_utf8_lossy(&seen.bytes).into_owned();
        let book = &mut self.world.book;
        if !self.statuses.contains(&seen.status) {
            book.faults.push(format!("{asked}: {} {text}", seen.status));
        } else if let Some(expected) = &self.expected {
            let answer = match expected {
                Value::String(_) => Value::String(text),
                _ => seen.json(),
            };
            let faults = faults(expected, &answer);
            if self.errcode.is_some_and(|errcode| answer["errcode"] != errcode) {
                book.faults
                    .push(format!("{asked}: {:?} expected: {answer}", self.errcode));
            }
            if !faults.is_empty() {
                book.faults.push(format!("{asked}: {faults:#?}\n{answer:#}"));
            }
        }
        book.note(&self.method, &self.template, seen.status, self.behaviour);
        seen
    }

    async fn send(&self) -> Seen {
        let method = Method::from_bytes(self.method.as_bytes()).expect("the reference has valid methods");
        let mut request = self
            .world
            .http
            .request(method, format!("{}{}", self.world.ours.client().base, self.path));
        let signed = match (&self.by, self.auth.as_str()) {
            (By::User(token), _) => Some(format!("Bearer {token}")),
            (By::Documented, "user") => Some(format!("Bearer {}", self.world.alice().token)),
            (By::Documented, "admin") => Some(format!("Bearer {}", self.world.admin.token)),
            (By::Documented, "federation-signature") => {
                let to = &self.world.ours;
                Some(
                    self.world
                        .remote
                        .header(to, &self.method, &self.path, self.body.as_ref()),
                )
            }
            (By::Documented | By::Nobody, _) => None,
        };
        if let Some(header) = signed {
            request = request.header(header::AUTHORIZATION, header);
        }
        if let Some(body) = &self.body {
            request = request.json(body);
        }
        let asked = format!("{} {}", self.method, self.path);
        let answer = request.send().await.unwrap_or_else(|error| panic!("{asked}: {error}"));
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let bytes = answer.bytes().await.unwrap_or_else(|error| panic!("{asked}: {error}"));
        Seen {
            status,
            headers,
            bytes: bytes.to_vec(),
        }
    }
}
