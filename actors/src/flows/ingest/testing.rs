//! Another server, `y`, with a user in a room of this one: it goes on by itself and answers what it is asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use ::rules::testing::{Origin, event};
use entities::server_key;
use ruma::api::client::room::create_room::v3::Request as CreateRequest;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::Outcome;
use crate::flows::create_room::create_room;
use crate::flows::transaction::{Answer, Transaction, receive};
use crate::hub::Hub;
use crate::peer::testing::{FakeWire, Heard, answer, ok, refuse};
use crate::room::auth;
use crate::room::commands::{Incoming, Ingest, Verdict};
use crate::room::event::{Pdu, Status};

/// The other server's name.
pub const NAME: &str = "y";

pub fn alice() -> OwnedUserId {
    UserId::parse("@alice:x").expect("a user id")
}

pub fn yves() -> OwnedUserId {
    UserId::parse("@yves:y").expect("a user id")
}

pub fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("serializes")
}

/// An event as it is sent.
pub fn sent(pdu: &Pdu) -> Box<RawValue> {
    RawValue::from_string(pdu.json.to_string()).expect("PDUs are JSON")
}

/// The state by type and key.
pub type State = BTreeMap<(String, String), Arc<Pdu>>;

/// What the other server can be asked about.
#[derive(Default)]
pub struct Book {
    events: BTreeMap<OwnedEventId, Arc<Pdu>>,
    before: HashMap<OwnedEventId, State>,
    /// Kinds of requests that it refuses, by the first part of the path.
    pub refuses: HashSet<&'static str>,
}

/// The other server.
pub struct Remote {
    pub origin: Origin,
    pub rules: RoomVersionRules,
    pub room_id: OwnedRoomId,
    book: Arc<Mutex<Book>>,
    clock: i64,
    txns: u32,
}

/// Where the other server goes on.
#[derive(Clone)]
pub struct Branch {
    pub prev: Vec<Arc<Pdu>>,
    pub state: State,
}

impl Remote {
    /// Alice's room, into which Yves has come.
    pub async fn enter(hub: &Arc<Hub>, wire: &FakeWire, version: &str) -> Self {
        let mut request = CreateRequest::new();
        request.room_version = Some(version.try_into().expect("a version"));
        request.preset = Some("public_chat".into());
        let room_id = create_room(hub, &alice(), &request).await.expect("made");
        let room = hub.rooms().existing(&room_id).await.expect("there");
        let mut remote = Self {
            origin: Origin::new(NAME),
            rules: (*room.rules).clone(),
            room_id,
            book: Arc::default(),
            clock: room
                .timeline
                .last()
                .map_or(1, |event| i64::from(event.pdu.origin_server_ts.0)),
            txns: 0,
        };
        remote.publish_key(hub).await;
        let mut branch = remote.branch(hub).await;
        let join = remote.state(
            &mut branch,
            "m.room.member",
            yves().as_str(),
            json!({ "membership": "join" }),
        );
        let ingest = Ingest {
            pdus: vec![Incoming::of(&join)],
            outliers: Vec::new(),
        };
        let verdicts = hub.rooms().ingest(&remote.room_id, ingest).await.expect("taken");
        assert_eq!(verdicts, [Verdict::Accepted]);
        let book = remote.book.clone();
        wire.script(move |heard| answer(book.lock().expect("not poisoned").answer(heard)));
        remote
    }

    /// The other server's key is known and does not have to be fetched.
    async fn publish_key(&self, hub: &Hub) {
        let mut keys = ruma::signatures::PublicKeyMap::new();
        self.origin.publish(&mut keys);
        let row = |(id, key): (&String, &ruma::serde::Base64)| server_key::Model {
            server_name: NAME.to_owned(),
            key_id: id.clone(),
            public_key: key.as_bytes().to_vec(),
            valid_until_ts: i64::MAX,
            expired: false,
            fetched_ts: hub.env().clock.now_ms(),
        };
        let rows: Vec<_> = keys[NAME].iter().map(row).collect();
        hub.env()
            .store
            .save_server_keys(NAME, None, &rows)
            .await
            .expect("stored");
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("not poisoned")
    }

    /// The room as this server has it, to go on from.
    pub async fn branch(&self, hub: &Hub) -> Branch {
        let room = hub.rooms().existing(&self.room_id).await.expect("there");
        let ends: Vec<OwnedEventId> = room.extremities.iter().map(|end| end.event_id.clone()).collect();
        let ends = hub.env().rooms.events_by_id(&ends).await.expect("readable");
        let state = room
            .state
            .iter()
            .map(|((kind, key), entry)| ((kind.to_string(), key.to_string()), entry.event.pdu.clone()));
        Branch {
            prev: ends.into_values().map(|event| event.pdu.clone()).collect(),
            state: state.collect(),
        }
    }

    fn add(
        &mut self,
        branch: &mut Branch,
        sender: &UserId,
        kind: &str,
        key: Option<&str>,
        content: &Value,
    ) -> Arc<Pdu> {
        let keys = auth::auth_keys(kind, sender, key, &raw(content), &self.rules).expect("well-formed");
        let auth: Vec<Arc<Pdu>> = keys.iter().filter_map(|key| branch.state.get(key).cloned()).collect();
        self.add_with(branch, sender, (kind, key), content, &auth)
    }

    /// With auth events of the test's choice.
    pub fn add_with(
        &mut self,
        branch: &mut Branch,
        sender: &UserId,
        (kind, key): (&str, Option<&str>),
        content: &Value,
        auth: &[Arc<Pdu>],
    ) -> Arc<Pdu> {
        self.clock += 1;
        let prev: Vec<&Pdu> = branch.prev.iter().map(|pdu| &**pdu).collect();
        let auth: Vec<&Pdu> = auth.iter().map(|pdu| &**pdu).collect();
        let mut event = event(
            &self.rules,
            kind,
            sender.as_str(),
            key,
            content.clone(),
            (&prev, &auth),
            self.clock,
        );
        event["room_id"] = self.room_id.as_str().into();
        let pdu = Arc::new(self.origin.pdu(&event, &self.rules));
        let mut book = self.book.lock().expect("not poisoned");
        book.before.insert(pdu.event_id.clone(), branch.state.clone());
        for known in branch.state.values().chain([&pdu]) {
            book.events.insert(known.event_id.clone(), known.clone());
        }
        if let Some(key) = key {
            branch.state.insert((kind.to_owned(), key.to_owned()), pdu.clone());
        }
        branch.prev = vec![pdu.clone()];
        pdu
    }

    /// A state event of Yves.
    pub fn state(&mut self, branch: &mut Branch, kind: &str, key: &str, content: Value) -> Arc<Pdu> {
        self.add(branch, &yves(), kind, Some(key), &content)
    }

    /// A message of Yves.
    pub fn text(&mut self, branch: &mut Branch, body: &str) -> Arc<Pdu> {
        self.add(branch, &yves(), "m.room.message", None, &json!({ "body": body }))
    }

    pub fn texts(&mut self, branch: &mut Branch, count: usize) -> Vec<Arc<Pdu>> {
        (0..count).map(|n| self.text(branch, &format!("message {n}"))).collect()
    }

    /// The next transaction of the other server.
    pub fn txn(&mut self, pdus: &[Arc<Pdu>], edus: &[Value]) -> Transaction {
        self.txns += 1;
        let origin = OwnedServerName::try_from(NAME).expect("a server name");
        Transaction {
            claimed_origin: origin.clone(),
            origin,
            txn_id: self.txns.to_string(),
            pdus: pdus.iter().map(|pdu| sent(pdu)).collect(),
            edus: edus.iter().map(raw).collect(),
        }
    }

    /// Sends events in a transaction of their own.
    pub async fn send(&mut self, hub: &Arc<Hub>, pdus: &[Arc<Pdu>]) -> Outcome<Value> {
        let txn = self.txn(pdus, &[]);
        receive(hub, txn).await.map(|answer| json_of(&answer))
    }

    /// Sends ephemeral messages in a transaction of their own.
    pub async fn send_edus(&mut self, hub: &Arc<Hub>, edus: &[Value]) -> Outcome<Value> {
        let txn = self.txn(&[], edus);
        receive(hub, txn).await.map(|answer| json_of(&answer))
    }
}

pub fn json_of(answer: &Answer) -> Value {
    serde_json::from_str(answer).expect("answers are JSON")
}

/// How an event stands here; `None` if it is not stored.
pub async fn status(hub: &Hub, event_id: &EventId) -> Option<Status> {
    let event = hub.env().rooms.event_by_id(event_id).await.expect("readable");
    event.map(|event| event.status)
}

/// How many events are staged for a room.
pub async fn staged(hub: &Hub, room_id: &RoomId) -> usize {
    let staged = hub.env().store.staged_in(room_id.as_str(), 10_000).await;
    staged.expect("readable").len()
}

impl Book {
    fn answer(&self, heard: &Heard) -> Result<crate::peer::transport::WireResponse, crate::peer::transport::WireError> {
        let (path, query) = heard.path.split_once('?').unwrap_or((&heard.path, ""));
        let parts: Vec<String> = path
            .split('/')
            .skip(4)
            .filter_map(|part| url::form_urlencoded::parse(part.as_bytes()).next())
            .map(|(part, _)| part.into_owned())
            .collect();
        let Some((kind, rest)) = parts.split_first() else {
            return refuse(404, "M_UNRECOGNIZED");
        };
        if self.refuses.contains(kind.as_str()) {
            return refuse(403, "M_FORBIDDEN");
        }
        let asked = url::form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "event_id")
            .map(|(_, value)| value.into_owned());
        let named = |at: usize| rest.get(at).and_then(|id| EventId::parse(id.as_str()).ok());
        let body = match kind.as_str() {
            "send" => Some(json!({ "pdus": {} })),
            "get_missing_events" => Some(self.missing_events(&heard.json())),
            "state_ids" => asked.and_then(|id| self.state_ids(&EventId::parse(id).ok()?)),
            "state" => asked.and_then(|id| self.whole_state(&EventId::parse(id).ok()?)),
            "event" => named(0).and_then(|id| self.one(&id)),
            "event_auth" => named(1).and_then(|id| self.event_auth(&id)),
            _ => None,
        };
        body.map_or_else(|| refuse(404, "M_NOT_FOUND"), |body| ok(&body))
    }

    fn missing_events(&self, request: &Value) -> Value {
        let ids =
            |name: &str| -> Vec<OwnedEventId> { serde_json::from_value(request[name].clone()).expect("a list of ids") };
        let limit = request["limit"].as_u64().unwrap_or(10);
        let mut seen: HashSet<OwnedEventId> = ids("earliest_events").into_iter().collect();
        let mut open: std::collections::VecDeque<OwnedEventId> = ids("latest_events").into();
        let mut found = Vec::new();
        while let Some(id) = open.pop_front() {
            for parent in self.events.get(&id).into_iter().flat_map(|pdu| &pdu.prev_events) {
                let Some(pdu) = self.events.get(parent) else { continue };
                if (found.len() as u64) < limit && seen.insert(parent.clone()) {
                    found.push(sent(pdu));
                    open.push_back(parent.clone());
                }
            }
        }
        found.reverse();
        json!({ "events": found })
    }

    fn chain(&self, of: &[OwnedEventId]) -> BTreeMap<OwnedEventId, Arc<Pdu>> {
        let mut chain = BTreeMap::new();
        let mut open: Vec<OwnedEventId> = of.to_vec();
        while let Some(id) = open.pop() {
            for auth in self.events.get(&id).into_iter().flat_map(|pdu| &pdu.auth_events) {
                if let Some(pdu) = self.events.get(auth)
                    && chain.insert(auth.clone(), pdu.clone()).is_none()
                {
                    open.push(auth.clone());
                }
            }
        }
        chain
    }

    fn state_ids(&self, of: &EventId) -> Option<Value> {
        let state: Vec<OwnedEventId> = self.before.get(of)?.values().map(|pdu| pdu.event_id.clone()).collect();
        let chain: Vec<_> = self.chain(&state).into_keys().collect();
        Some(json!({ "pdu_ids": state, "auth_chain_ids": chain }))
    }

    fn whole_state(&self, of: &EventId) -> Option<Value> {
        let state: Vec<&Arc<Pdu>> = self.before.get(of)?.values().collect();
        let ids: Vec<OwnedEventId> = state.iter().map(|pdu| pdu.event_id.clone()).collect();
        let chain: Vec<_> = self.chain(&ids).values().map(|pdu| sent(pdu)).collect();
        let state: Vec<_> = state.into_iter().map(|pdu| sent(pdu)).collect();
        Some(json!({ "pdus": state, "auth_chain": chain }))
    }

    fn one(&self, id: &EventId) -> Option<Value> {
        let pdu = sent(self.events.get(id)?);
        Some(json!({ "origin": NAME, "origin_server_ts": 1, "pdus": [pdu] }))
    }

    fn event_auth(&self, id: &EventId) -> Option<Value> {
        let chain: Vec<_> = self.chain(&[id.to_owned()]).values().map(|pdu| sent(pdu)).collect();
        Some(json!({ "auth_chain": chain }))
    }

    /// Gives this in place of the event.
    pub fn replace(&mut self, id: &EventId, pdu: Arc<Pdu>) {
        self.events.insert(id.to_owned(), pdu);
    }
}
