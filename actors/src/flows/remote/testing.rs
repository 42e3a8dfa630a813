//! Another server, `y`, that is in rooms this one is not in: it lets users in and out as the test wants.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use ::rules::testing::{Origin, create, event};
use entities::server_key;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::hub::Hub;
use crate::peer::testing::{Heard, World, answer, ok, refuse, unreachable, with_world};
use crate::peer::transport::{WireError, WireResponse};
use crate::room::event::Pdu;
use crate::room::rules::rules_of;
use crate::room::{auth, parse};

/// The other server's name.
pub const NAME: &str = "y";

pub fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:x")).expect("a user id")
}

/// The maker of the room.
pub fn yves() -> OwnedUserId {
    UserId::parse("@yves:y").expect("a user id")
}

pub fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("serializes")
}

/// An event as it is sent.
pub fn sent(pdu: &Pdu) -> Value {
    serde_json::from_str(&pdu.json).expect("PDUs are JSON")
}

/// Runs a test against a hub on a fresh database of each kind, with a room on another server.
pub fn with_resident<F: Future<Output = ()> + Send + 'static>(
    version: &'static str,
    test: impl Fn(Arc<World>, Arc<Hub>, Resident) -> F + Send + Sync + Clone + 'static,
) {
    with_world(&Clock::system(), move |world| {
        let test = test.clone();
        async move {
            let hub = world.hub().await;
            let resident = Resident::open(&world, &hub, version).await;
            // The database goes with the world.
            test(world.clone(), hub, resident).await;
            drop(world);
        }
    });
}

/// What the test changes about an answer: the request's kind, and the answer.
type Twist = Box<dyn Fn(&str, &mut Value) + Send>;

/// A room on `y`.
pub struct Room {
    pub origin: Origin,
    pub rules: Arc<RoomVersionRules>,
    pub version: &'static str,
    pub room_id: OwnedRoomId,
    pub state: BTreeMap<(String, String), Arc<Pdu>>,
    last: Arc<Pdu>,
    events: HashMap<OwnedEventId, Arc<Pdu>>,
    clock: i64,
    /// Requests that get no answer, by the first part of the path.
    pub silent: HashSet<&'static str>,
    /// Requests that are refused.
    pub refused: HashMap<&'static str, (u16, &'static str)>,
    /// Whether the second versions of endpoints are not known.
    pub old: bool,
    pub twist: Option<Twist>,
}

/// The other server, which answers requests.
#[derive(Clone)]
pub struct Resident(Arc<Mutex<Room>>);

impl Resident {
    /// A room with Yves alone in it, open to everybody. Requests to `y` are answered from now on; other servers are down.
    pub async fn open(world: &World, hub: &Hub, version: &'static str) -> Self {
        let resident = Self(Arc::new(Mutex::new(Room::new(version))));
        publish_key(hub, &Origin::new(NAME)).await;
        let handed = resident.clone();
        world.wire.script(move |heard| {
            answer(if heard.server == NAME {
                handed.room().answer(heard)
            } else {
                unreachable()
            })
        });
        resident
    }

    pub fn room(&self) -> MutexGuard<'_, Room> {
        self.0.lock().expect("not poisoned")
    }
}

/// The other server's key is known and does not have to be fetched.
async fn publish_key(hub: &Hub, origin: &Origin) {
    let mut keys = ruma::signatures::PublicKeyMap::new();
    origin.publish(&mut keys);
    let row = |(id, key): (&String, &ruma::serde::Base64)| server_key::Model {
        server_name: origin.name.clone(),
        key_id: id.clone(),
        public_key: key.as_bytes().to_vec(),
        valid_until_ts: i64::MAX,
        expired: false,
        fetched_ts: hub.env().clock.now_ms(),
    };
    let rows: Vec<_> = keys[&origin.name].iter().map(row).collect();
    hub.env()
        .store
        .save_server_keys(&origin.name, None, &rows)
        .await
        .expect("stored");
}

impl Room {
    fn new(version: &'static str) -> Self {
        let (origin, rules) = (Origin::new(NAME), rules_of(version).expect("supported"));
        let made = Arc::new(create(&origin, &rules, version, yves().as_str()));
        let mut room = Self {
            room_id: made.room_id.clone(),
            state: BTreeMap::from([(("m.room.create".to_owned(), String::new()), made.clone())]),
            events: HashMap::from([(made.event_id.clone(), made.clone())]),
            last: made,
            clock: 1_000,
            silent: HashSet::new(),
            refused: HashMap::new(),
            old: false,
            twist: None,
            origin,
            rules,
            version,
        };
        room.set(
            "m.room.member",
            yves().as_str(),
            json!({ "membership": "join", "displayname": "Yves" }),
        );
        let privileged = room.rules.authorization.explicitly_privilege_room_creators;
        let users = if privileged {
            json!({})
        } else {
            json!({ "@yves:y": 100 })
        };
        room.set("m.room.power_levels", "", json!({ "users": users }));
        room.set("m.room.join_rules", "", json!({ "join_rule": "public" }));
        room.set("m.room.name", "", json!({ "name": "The room" }));
        room
    }

    /// A state event of Yves.
    pub fn set(&mut self, kind: &str, key: &str, content: Value) -> Arc<Pdu> {
        let event = self.event(&yves(), kind, Some(key), &content);
        let pdu = Arc::new(self.origin.pdu(&event, &self.rules));
        self.add(&pdu);
        pdu
    }

    /// Takes an event into the room.
    pub fn add(&mut self, pdu: &Arc<Pdu>) {
        self.last = pdu.clone();
        self.events.insert(pdu.event_id.clone(), pdu.clone());
        if let Some(key) = &pdu.state_key {
            self.state.insert((pdu.kind.to_string(), key.to_string()), pdu.clone());
        }
    }

    /// The room's next event, not signed.
    pub fn event(&mut self, sender: &UserId, kind: &str, key: Option<&str>, content: &Value) -> Value {
        self.clock += 1;
        let keys = auth::auth_keys(kind, sender, key, &raw(content), &self.rules).expect("well-formed");
        let auth: Vec<&Pdu> = keys
            .iter()
            .filter_map(|key| self.state.get(key))
            .map(|pdu| &**pdu)
            .collect();
        let mut event = event(
            &self.rules,
            kind,
            sender.as_str(),
            key,
            content.clone(),
            (&[&self.last], &auth),
            self.clock,
        );
        event["room_id"] = self.room_id.as_str().into();
        event
    }

    pub fn answer(&mut self, heard: &Heard) -> Result<WireResponse, WireError> {
        let path = heard.path.split('?').next().unwrap_or_default();
        let parts: Vec<String> = path
            .split('/')
            .skip(3)
            .filter_map(|part| url::form_urlencoded::parse(part.as_bytes()).next())
            .map(|(part, _)| part.into_owned())
            .collect();
        let [version, kind, rest @ ..] = parts.as_slice() else {
            return refuse(404, "M_UNRECOGNIZED");
        };
        if self.silent.contains(kind.as_str()) {
            return unreachable();
        }
        if let Some((status, errcode)) = self.refused.get(kind.as_str()) {
            return refuse(*status, errcode);
        }
        if self.old && version == "v2" {
            return refuse(404, "M_UNRECOGNIZED");
        }
        if rest
            .first()
            .is_some_and(|room| kind != "query" && **room != *self.room_id)
        {
            return refuse(404, "M_NOT_FOUND");
        }
        let mut body = match (kind.as_str(), rest) {
            ("make_join", [_, user]) => self.template(user, "join"),
            ("make_leave", [_, user]) => self.template(user, "leave"),
            ("make_knock", [_, user]) => self.template(user, "knock"),
            ("send_join", [_, _]) => self.joined(heard),
            ("send_leave", [_, _]) => {
                self.take(heard);
                json!({})
            }
            ("send_knock", [_, _]) => {
                self.take(heard);
                let told = ["m.room.create", "m.room.name", "m.room.join_rules"];
                let state: Vec<_> = told
                    .iter()
                    .map(|kind| sent(&self.state[&((*kind).to_owned(), String::new())]))
                    .collect();
                json!({ "knock_room_state": state })
            }
            ("invite", [_, _]) => self.signed(heard),
            ("query", [what]) if what == "directory" => json!({ "room_id": self.room_id, "servers": ["z", "x"] }),
            _ => return refuse(404, "M_UNRECOGNIZED"),
        };
        if let Some(twist) = &self.twist {
            twist(kind, &mut body);
        }
        let listed = version == "v1" && matches!(kind.as_str(), "send_join" | "send_leave" | "invite");
        if listed { ok(&json!([200, body])) } else { ok(&body) }
    }

    fn template(&mut self, user: &str, membership: &str) -> Value {
        let user = UserId::parse(user).expect("a user id");
        let mut content = json!({ "membership": membership });
        let restricted = self.state[&("m.room.join_rules".to_owned(), String::new())]
            .content
            .get()
            .contains("restricted");
        if restricted && membership == "join" {
            content["join_authorised_via_users_server"] = yves().as_str().into();
        }
        let mut event = self.event(&user, "m.room.member", Some(user.as_str()), &content);
        event["origin"] = NAME.into();
        json!({ "room_version": self.version, "event": event })
    }

    /// Takes an event that was sent; answers it as it is then.
    fn take(&mut self, heard: &Heard) -> Value {
        let given = heard.json();
        let mut object = parse::canonical(&heard.body).expect("canonical");
        if given["content"].get("join_authorised_via_users_server").is_some() {
            object = self.origin.sign(&given, &self.rules);
        }
        let pdu = parse::pdu_from_object(&object, &self.rules, None).expect("a PDU");
        self.add(&Arc::new(pdu));
        serde_json::to_value(&object).expect("JSON")
    }

    fn joined(&mut self, heard: &Heard) -> Value {
        // In no helpful order.
        let state: Vec<Value> = self.state.values().rev().map(|pdu| sent(pdu)).collect();
        let event = self.take(heard);
        let chain = self.chain();
        json!({ "state": state, "auth_chain": chain, "event": event, "origin": NAME })
    }

    /// The auth chains of the state and the newest event.
    fn chain(&self) -> Vec<Value> {
        let mut seen = HashSet::new();
        let mut open: Vec<OwnedEventId> = self.state.values().flat_map(|pdu| pdu.auth_events.clone()).collect();
        let mut chain = Vec::new();
        while let Some(id) = open.pop() {
            if seen.insert(id.clone()) {
                let pdu = &self.events[&id];
                open.extend(pdu.auth_events.iter().cloned());
                chain.push(sent(pdu));
            }
        }
        chain
    }

    /// The invite with this server's signature.
    fn signed(&self, heard: &Heard) -> Value {
        let mut given = heard.json();
        let mut event = if given.get("event").is_some() {
            given["event"].take()
        } else {
            given
        };
        event.as_object_mut().expect("an object").remove("unsigned");
        json!({ "event": self.origin.sign(&event, &self.rules) })
    }
}
