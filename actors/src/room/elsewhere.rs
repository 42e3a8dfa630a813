//! A room that other servers have, for tests: its events are made here and given to the server under test.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ruma::room_version_rules::RoomVersionRules;
use ruma::{OwnedEventId, OwnedRoomId, UserId};
use serde_json::{Value, json};

use super::auth;
use super::commands::{Import, Incoming};
use super::event::Pdu;
use super::resolve::state_key;
use super::rules::rules_of;
use super::snapshot::StateKey;
use super::testing::{Origin, event};

/// States by key.
pub type State = BTreeMap<StateKey, Arc<Pdu>>;

/// Rooms of different versions share nothing, not even ids.
fn create(origin: &Origin, rules: &RoomVersionRules, version: &str) -> Pdu {
    let content = json!({ "room_version": version, "creator": "@yves:y" });
    let mut create = event(rules, "m.room.create", "@yves:y", Some(""), content, (&[], &[]), 1);
    if rules.event_format.require_room_create_room_id {
        create["room_id"] = json!(format!("!v{version}:y"));
    }
    if rules.event_format.require_event_id {
        create["event_id"] = json!(format!("$create{version}:y"));
    }
    origin.pdu(&create, rules)
}

/// The room. `@yves:y` made it.
pub struct Elsewhere {
    pub version: String,
    pub rules: Arc<RoomVersionRules>,
    pub room_id: OwnedRoomId,
    pub origin: Origin,
    /// Everything, oldest first.
    pub events: Vec<Arc<Pdu>>,
    /// The state before each event.
    pub before: HashMap<OwnedEventId, State>,
    /// The state after the newest event of the main line.
    pub state: State,
    /// The newest event of the main line.
    pub head: Arc<Pdu>,
    clock: i64,
}

impl Elsewhere {
    /// A public room.
    pub fn new(version: &str) -> Self {
        let rules = rules_of(version).expect("supported");
        let origin = Origin::new("y");
        let create = Arc::new(create(&origin, &rules, version));
        let mut room = Self {
            version: version.to_owned(),
            room_id: create.room_id.clone(),
            rules,
            origin,
            events: vec![create.clone()],
            before: HashMap::from([(create.event_id.clone(), State::new())]),
            state: State::from([(state_key("m.room.create", ""), create.clone())]),
            head: create,
            clock: 1_000,
        };
        room.join("@yves:y");
        let mut levels = json!({ "users": { "@yves:y": 100 }, "events_default": 0 });
        if room.rules.authorization.explicitly_privilege_room_creators {
            levels = json!({});
        }
        room.send("m.room.power_levels", "@yves:y", Some(""), &levels);
        let public = json!({ "join_rule": "public" });
        room.send("m.room.join_rules", "@yves:y", Some(""), &public);
        room
    }

    /// An event on top of `prev`, authorized by `state`; nobody has it yet.
    pub fn event_on(
        &mut self,
        prev: &[&Pdu],
        state: &State,
        kind: &str,
        sender: &str,
        key: Option<&str>,
        content: &Value,
    ) -> Pdu {
        self.clock += 1;
        let user = <&UserId>::try_from(sender).expect("a user id");
        let raw = serde_json::value::to_raw_value(content).expect("serializes");
        let keys = auth::auth_keys(kind, user, key, &raw, &self.rules).expect("well-formed");
        let named = keys.iter().filter_map(|(kind, key)| state.get(&state_key(kind, key)));
        let named: Vec<&Pdu> = named.map(|event| &**event).collect();
        let mut json = event(
            &self.rules,
            kind,
            sender,
            key,
            content.clone(),
            (prev, &named),
            self.clock,
        );
        json["room_id"] = json!(self.room_id.as_str());
        if self.rules.event_format.require_event_id {
            json["event_id"] = json!(format!("$e{}v{}:y", self.clock, self.version));
        }
        self.origin.pdu(&json, &self.rules)
    }

    /// The next event of the main line.
    pub fn send(&mut self, kind: &str, sender: &str, key: Option<&str>, content: &Value) -> Arc<Pdu> {
        let (head, state) = (self.head.clone(), self.state.clone());
        let pdu = Arc::new(self.event_on(&[&head], &state, kind, sender, key, content));
        self.append(pdu.clone());
        pdu
    }

    /// An event follows the main line.
    pub fn append(&mut self, pdu: Arc<Pdu>) {
        self.before.insert(pdu.event_id.clone(), self.state.clone());
        if let Some(key) = pdu.key() {
            self.state.insert(key, pdu.clone());
        }
        self.events.push(pdu.clone());
        self.head = pdu;
    }

    pub fn text(&mut self, sender: &str, body: &str) -> Arc<Pdu> {
        self.send("m.room.message", sender, None, &json!({ "body": body }))
    }

    pub fn join(&mut self, user: &str) -> Arc<Pdu> {
        let join = json!({ "membership": "join" });
        self.send("m.room.member", user, Some(user), &join)
    }

    pub fn member(&mut self, sender: &str, user: &str, membership: &str) -> Arc<Pdu> {
        let content = json!({ "membership": membership });
        self.send("m.room.member", sender, Some(user), &content)
    }

    /// The ids of the state before an event.
    pub fn ids_before(&self, pdu: &Pdu) -> Arc<[OwnedEventId]> {
        let before = &self.before[&pdu.event_id];
        before.values().map(|event| event.event_id.clone()).collect()
    }

    /// What a user of another server gets with its join, which is the newest event then.
    pub fn import(&mut self, user: &str) -> Import {
        let before = self.state.clone();
        let join = self.join(user);
        Import {
            version: self.version.clone(),
            state: before.values().map(|event| event.event_id.clone()).collect(),
            events: self
                .chain(&before, &join)
                .iter()
                .map(|event| Incoming::of(event))
                .collect(),
            join: Incoming::of(&join),
            partial: None,
        }
    }

    /// The events of a state and everything that authorizes them and `last`, parents first.
    pub fn chain(&self, state: &State, last: &Pdu) -> Vec<Arc<Pdu>> {
        let by_id: HashMap<&OwnedEventId, &Arc<Pdu>> =
            self.events.iter().map(|event| (&event.event_id, event)).collect();
        let mut wanted: Vec<OwnedEventId> = state.values().map(|event| event.event_id.clone()).collect();
        wanted.extend(last.auth_events.iter().cloned());
        let mut seen = std::collections::HashSet::new();
        while let Some(id) = wanted.pop() {
            if seen.insert(id.clone()) {
                wanted.extend(by_id[&id].auth_events.iter().cloned());
            }
        }
        let needed = self.events.iter().filter(|event| seen.contains(&event.event_id));
        needed.cloned().collect()
    }
}
