use serde_json::{Value, json};

use super::*;
use crate::rules::rules_of;
use crate::testing::{Origin, create, event};

/// A chain of events of which each names all before it that authorize it.
struct Room {
    rules: Arc<RoomVersionRules>,
    origin: Origin,
    events: EventMap,
    state: StateIds,
    ts: i64,
}

impl Room {
    fn new(version: &str) -> Self {
        let rules = rules_of(version).expect("supported");
        let origin = Origin::new("one");
        let create = Arc::new(create(&origin, &rules, version, "@a:one"));
        let state = StateIds::unit(state_key("m.room.create", ""), create.event_id.clone());
        let events = EventMap::from([(create.event_id.clone(), create)]);
        let mut room = Self {
            rules,
            origin,
            events,
            state,
            ts: 1,
        };
        room.state = room.send(
            &room.state.clone(),
            "m.room.member",
            "@a:one",
            "@a:one",
            json!({ "membership": "join" }),
        );
        room
    }

    /// The state after a new event in `state`.
    fn send(&mut self, state: &StateIds, kind: &str, sender: &str, key: &str, content: Value) -> StateIds {
        self.ts += 1;
        let user = <&ruma::UserId>::try_from(sender).expect("a user");
        let raw = serde_json::value::to_raw_value(&content).expect("JSON");
        let keys = auth::auth_keys(kind, user, Some(key), &raw, &self.rules).expect("enough content");
        let auth: Vec<&Pdu> = keys
            .iter()
            .filter_map(|(kind, key)| state.get(&state_key(kind, key)))
            .map(|id| &*self.events[id])
            .collect();
        let create = &*self.events[&state[&state_key("m.room.create", "")]];
        let mut json = event(
            &self.rules,
            kind,
            sender,
            Some(key),
            content,
            (&[create], &auth),
            self.ts,
        );
        json["room_id"] = json!(create.room_id.as_str());
        let pdu = Arc::new(self.origin.pdu(&json, &self.rules));
        let mut after = state.clone();
        after.insert(state_key(kind, key), pdu.event_id.clone());
        self.events.insert(pdu.event_id.clone(), pdu);
        after
    }

    fn resolve(&self, states: &[&StateIds]) -> StateIds {
        let states: Vec<StateIds> = states.iter().copied().cloned().collect();
        resolve_state(&self.rules, &states, &self.events).expect("every event is here")
    }
}

#[test]
fn equal_states_need_nothing() {
    for version in ["1", "11", "12"] {
        let room = Room::new(version);
        assert_eq!(room.resolve(&[]), StateIds::new());
        assert_eq!(room.resolve(&[&room.state, &room.state]), room.state);
        let states = [room.state.clone(), room.state.clone()];
        assert!(needed_for_resolution(&room.rules, &states, &EventMap::new(), &HashSet::new()).is_empty());
    }
}

#[test]
fn a_ban_beats_what_the_banned_did_meanwhile() {
    for version in ["2", "6", "11", "12"] {
        let mut room = Room::new(version);
        let base = room.send(
            &room.state.clone(),
            "m.room.join_rules",
            "@a:one",
            "",
            json!({ "join_rule": "public" }),
        );
        let base = room.send(
            &base,
            "m.room.member",
            "@b:one",
            "@b:one",
            json!({ "membership": "join" }),
        );
        let mut users = json!({ "@b:one": 50 });
        if version != "12" {
            users["@a:one"] = json!(100);
        }
        let base = room.send(&base, "m.room.power_levels", "@a:one", "", json!({ "users": users }));
        let banned = room.send(
            &base,
            "m.room.member",
            "@a:one",
            "@b:one",
            json!({ "membership": "ban" }),
        );
        let topic = room.send(&base, "m.room.topic", "@b:one", "", json!({ "topic": "t" }));
        assert_eq!(room.resolve(&[&banned, &topic]), banned, "version {version}");
        assert_eq!(room.resolve(&[&topic, &banned]), banned, "version {version}");
        let by_a = room.send(&base, "m.room.topic", "@a:one", "", json!({ "topic": "t" }));
        let mut both = banned.clone();
        both.extend(by_a.iter().map(|(key, id)| (key.clone(), id.clone())));
        both.extend(
            banned
                .iter()
                .filter(|(key, _)| *key.0 == *"m.room.member")
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        assert_eq!(room.resolve(&[&banned, &by_a]), both, "version {version}");
    }
}

#[test]
fn the_subgraph_is_what_lies_between() {
    let mut room = Room::new("12");
    let base = room.state.clone();
    let rules = |rule: &str| json!({ "join_rule": rule });
    let open = room.send(&base, "m.room.join_rules", "@a:one", "", rules("public"));
    let joined = room.send(
        &open,
        "m.room.member",
        "@b:one",
        "@b:one",
        json!({ "membership": "join" }),
    );
    let again = room.send(
        &joined,
        "m.room.member",
        "@b:one",
        "@b:one",
        json!({ "membership": "join", "displayname": "b" }),
    );
    let id = |state: &StateIds, kind: &str, key: &str| state[&state_key(kind, key)].clone();
    let ends = [
        id(&open, "m.room.join_rules", ""),
        id(&again, "m.room.member", "@b:one"),
    ];
    let between = between(&ends.iter().collect(), &room.events);
    let middle = id(&joined, "m.room.member", "@b:one");
    assert_eq!(between, ends.iter().chain([&middle]).collect());
}

#[test]
fn absent_events_are_not_asked_for_again() {
    let mut room = Room::new("11");
    let base = room.state.clone();
    let a = room.send(&base, "m.room.topic", "@a:one", "", json!({ "topic": "a" }));
    let b = room.send(&base, "m.room.topic", "@a:one", "", json!({ "topic": "b" }));
    let states = [a.clone(), b.clone()];
    let ask =
        |events: &EventMap, absent: &HashSet<OwnedEventId>| needed_for_resolution(&room.rules, &states, events, absent);
    let first: HashSet<OwnedEventId> = ask(&EventMap::new(), &HashSet::new()).into_iter().collect();
    let topics: HashSet<OwnedEventId> = [&a, &b]
        .map(|state| state[&state_key("m.room.topic", "")].clone())
        .into();
    assert_eq!(first, topics);
    assert!(ask(&EventMap::new(), &topics).is_empty());
    // One of two topics is lost: the other stands.
    let lost = b[&state_key("m.room.topic", "")].clone();
    let mut events = room.events.clone();
    events.remove(&lost);
    assert_eq!(
        resolve_state(&room.rules, &states, &events).expect("the rest is here"),
        a
    );
}
