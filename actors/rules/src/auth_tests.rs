use serde_json::{Value, json};

use super::*;
use crate::rules::rules_of;
use crate::testing::{Origin, create, event as new_event};

/// A small room of one server.
struct Room {
    rules: Arc<RoomVersionRules>,
    origin: Origin,
    state: HashMap<(String, String), Arc<Pdu>>,
    last: Arc<Pdu>,
}

impl Room {
    fn new(version: &str) -> Self {
        let rules = rules_of(version).expect("supported");
        let origin = Origin::new("one");
        let last = Arc::new(create(&origin, &rules, version, "@a:one"));
        let state = HashMap::from([(("m.room.create".to_owned(), String::new()), last.clone())]);
        let mut room = Self {
            rules,
            origin,
            state,
            last,
        };
        room.send(
            "m.room.member",
            "@a:one",
            Some("@a:one"),
            json!({ "membership": "join" }),
        )
        .expect("the creator joins");
        room
    }

    fn get(&self, kind: &str, key: &str) -> Option<Arc<Pdu>> {
        self.state.get(&(kind.to_owned(), key.to_owned())).cloned()
    }

    fn draft(&self, kind: &str, sender: &str, key: Option<&str>, content: Value) -> Pdu {
        let sender = <&UserId>::try_from(sender).expect("a user");
        let raw = serde_json::value::to_raw_value(&content).expect("JSON");
        let keys = auth_keys(kind, sender, key, &raw, &self.rules).expect("enough content");
        let auth: Vec<Arc<Pdu>> = keys.iter().filter_map(|(kind, key)| self.get(kind, key)).collect();
        let auth: Vec<&Pdu> = auth.iter().map(AsRef::as_ref).collect();
        let ts = self.last.depth + 1;
        let mut event = new_event(
            &self.rules,
            kind,
            sender.as_str(),
            key,
            content,
            (&[&self.last], &auth),
            ts,
        );
        event["room_id"] = json!(self.last.room_id.as_str());
        self.origin.pdu(&event, &self.rules)
    }

    fn send(&mut self, kind: &str, sender: &str, key: Option<&str>, content: Value) -> Result<Arc<Pdu>, String> {
        let pdu = Arc::new(self.draft(kind, sender, key, content));
        check_auth(&pdu, &self.rules, |kind, key| self.get(kind, key))?;
        if let Some(key) = key {
            self.state.insert((kind.to_owned(), key.to_owned()), pdu.clone());
        }
        self.last = pdu.clone();
        Ok(pdu)
    }
}

#[test]
fn only_who_may_does() {
    for version in crate::rules::supported() {
        let mut room = Room::new(version.as_str());
        let text = || json!({ "body": "x" });
        let join = || json!({ "membership": "join" });
        assert!(
            room.send("m.room.message", "@b:one", None, text()).is_err(),
            "not a member"
        );
        assert!(
            room.send("m.room.member", "@b:one", Some("@b:one"), join()).is_err(),
            "not public"
        );
        room.send(
            "m.room.join_rules",
            "@a:one",
            Some(""),
            json!({ "join_rule": "public" }),
        )
        .expect("the creator may");
        room.send("m.room.member", "@b:one", Some("@b:one"), join())
            .expect("public");
        room.send("m.room.message", "@b:one", None, text()).expect("a member");
        assert!(
            room.send("m.room.topic", "@b:one", Some(""), json!({ "topic": "t" }))
                .is_err()
        );
        let ban = json!({ "membership": "ban" });
        assert!(
            room.send("m.room.member", "@b:one", Some("@a:one"), ban.clone())
                .is_err()
        );
        room.send("m.room.member", "@a:one", Some("@b:one"), ban)
            .expect("the creator may");
        assert!(
            room.send("m.room.member", "@b:one", Some("@b:one"), join()).is_err(),
            "banned"
        );
    }
}

#[test]
fn auth_events_are_checked() {
    let mut room = Room::new("11");
    room.send(
        "m.room.join_rules",
        "@a:one",
        Some(""),
        json!({ "join_rule": "public" }),
    )
    .expect("the creator may");
    let pdu = room.draft("m.room.message", "@a:one", None, json!({ "body": "x" }));
    let all: HashMap<OwnedEventId, Arc<Pdu>> = room
        .state
        .values()
        .map(|event| (event.event_id.clone(), event.clone()))
        .collect();
    let known = |id: &EventId| all.get(id).cloned();
    check_auth_events(&pdu, &room.rules, known).expect("its own auth events");
    assert_eq!(
        pdu.auth_events.len(),
        2,
        "create and membership; there are no power levels"
    );

    let unknown = check_auth_events(&pdu, &room.rules, |_| None).expect_err("unknown");
    assert!(unknown.contains("failed to find"), "{unknown}");
    let rejected = |id: &EventId| {
        all.get(id).map(|event| {
            Arc::new(Pdu {
                rejected: true,
                ..(**event).clone()
            })
        })
    };
    assert!(check_auth_events(&pdu, &room.rules, rejected).is_err());
    let with = |ids: &[&OwnedEventId]| Pdu {
        auth_events: ids.iter().map(|id| (*id).clone()).collect(),
        ..pdu.clone()
    };
    let [create, member] = [0, 1].map(|at| &pdu.auth_events[at]);
    assert!(
        check_auth_events(&with(&[create, member, member]), &room.rules, known).is_err(),
        "twice"
    );
    let rules_event = room.get("m.room.join_rules", "").expect("sent").event_id.clone();
    assert!(
        check_auth_events(&with(&[create, member, &rules_event]), &room.rules, known).is_err(),
        "not wanted"
    );
}

#[test]
fn version_12_leaves_the_create_event_out() {
    let mut room = Room::new("12");
    let pdu = room
        .send("m.room.message", "@a:one", None, json!({ "body": "x" }))
        .expect("the creator may");
    assert_eq!(
        pdu.auth_events,
        [room.get("m.room.member", "@a:one").expect("joined").event_id.clone()]
    );
    let create = room.get("m.room.create", "").expect("created");
    assert!(ruma::state_res::Event::room_id(&create).is_none() && ruma::state_res::Event::room_id(&pdu).is_some());
}

#[test]
fn levels() {
    let user = |id: &'static str| <&UserId>::try_from(id).expect("a user");
    for (version, privileged) in [("10", false), ("12", true)] {
        let mut room = Room::new(version);
        let power = |room: &Room| Power::of(&room.rules, |kind, key| room.get(kind, key)).expect("created");
        assert!(power(&room).may_redact(user("@a:one")) && !power(&room).may_redact(user("@b:one")));
        assert!(power(&room).may_invite(user("@b:one")));
        let mut users = json!({ "@b:one": 50 });
        if !privileged {
            users["@a:one"] = json!(100);
        }
        let content = json!({ "users": users, "events": { "m.room.topic": 60 }, "invite": 51, "events_default": 1 });
        room.send("m.room.power_levels", "@a:one", Some(""), content)
            .expect("the creator may");
        let power = power(&room);
        assert_eq!(power.user(user("@a:one")) == UserPowerLevel::Infinite, privileged);
        assert!(power.may_redact(user("@b:one")) && !power.may_invite(user("@b:one")));
        assert!(!power.may_send(user("@b:one"), "m.room.topic", true));
        assert!(power.may_send(user("@b:one"), "m.room.name", true));
        assert!(!power.may_send(user("@c:one"), "m.room.message", false));
        assert!(power.may_ban(user("@b:one"), user("@c:one")) && !power.may_kick(user("@b:one"), user("@a:one")));
    }
}
