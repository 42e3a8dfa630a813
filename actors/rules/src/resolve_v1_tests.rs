use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::resolve::EventMap;
use crate::rules::rules_of;
use crate::testing::{Origin, create, event};

/// Events at chosen depths, and states of them.
struct Room {
    rules: Arc<RoomVersionRules>,
    origin: Origin,
    events: EventMap,
    base: StateIds,
}

impl Room {
    /// `@a` has level 100 and is joined, `@b` and `@c` are joined; anybody may join.
    fn new() -> Self {
        let rules = rules_of("1").expect("supported");
        let origin = Origin::new("one");
        let create = Arc::new(create(&origin, &rules, "1", "@a:one"));
        let mut room = Self {
            rules,
            origin,
            events: HashMap::new(),
            base: StateIds::new(),
        };
        room.base
            .insert(state_key("m.room.create", ""), create.event_id.clone());
        room.events.insert(create.event_id.clone(), create);
        let join = || json!({ "membership": "join" });
        for (depth, user) in [(2, "@a:one"), (5, "@b:one"), (6, "@c:one")] {
            room.put(depth, "m.room.member", user, user, join());
        }
        room.put(
            3,
            "m.room.power_levels",
            "@a:one",
            "",
            json!({ "users": { "@a:one": 100 } }),
        );
        room.put(4, "m.room.join_rules", "@a:one", "", json!({ "join_rule": "public" }));
        room
    }

    fn event(
        &mut self,
        depth: i64,
        kind: &str,
        sender: &str,
        key: &str,
        content: Value,
    ) -> (StateKey, ruma::OwnedEventId) {
        let mut json = event(&self.rules, kind, sender, Some(key), content, (&[], &[]), 1);
        json["depth"] = json!(depth);
        json["room_id"] = json!("!room:one");
        json["event_id"] = json!(format!("$d{depth}n{}:one", self.events.len()));
        let pdu = Arc::new(self.origin.pdu(&json, &self.rules));
        let id = pdu.event_id.clone();
        self.events.insert(id.clone(), pdu);
        (state_key(kind, key), id)
    }

    fn put(&mut self, depth: i64, kind: &str, sender: &str, key: &str, content: Value) {
        let (key, id) = self.event(depth, kind, sender, key, content);
        self.base.insert(key, id);
    }

    fn state(&self, changes: &[&(StateKey, ruma::OwnedEventId)]) -> StateIds {
        let mut state = self.base.clone();
        state.extend(changes.iter().map(|(key, id)| (key.clone(), id.clone())));
        state
    }

    /// Resolved in both orders of the states, which must not matter.
    fn resolve(&self, a: &[&(StateKey, ruma::OwnedEventId)], b: &[&(StateKey, ruma::OwnedEventId)]) -> StateIds {
        let (a, b) = (self.state(a), self.state(b));
        let of = |states: &[StateIds]| resolve(&self.rules, &Split::of(states), &self.events);
        let resolved = of(&[a.clone(), b.clone()]);
        assert_eq!(resolved, of(&[b, a]));
        resolved
    }
}

#[test]
fn what_only_one_state_has_is_kept() {
    let mut room = Room::new();
    let topic = room.event(7, "m.room.topic", "@a:one", "", json!({ "topic": "t" }));
    let name = room.event(8, "m.room.name", "@a:one", "", json!({ "name": "n" }));
    assert_eq!(room.resolve(&[&topic], &[&name]), room.state(&[&topic, &name]));
}

#[test]
fn the_deepest_allowed_event_wins() {
    let mut room = Room::new();
    let topics = [(7, "@a:one"), (9, "@a:one"), (11, "@b:one")];
    let [shallow, deep, not_allowed] =
        topics.map(|(depth, sender)| room.event(depth, "m.room.topic", sender, "", json!({ "topic": "t" })));
    assert_eq!(room.resolve(&[&shallow], &[&deep]), room.state(&[&deep]));
    assert_eq!(room.resolve(&[&deep], &[&not_allowed]), room.state(&[&deep]));
}

#[test]
fn of_equal_depths_the_lowest_hash_wins() {
    let mut room = Room::new();
    let topics: Vec<_> = (0..6)
        .map(|_| room.event(7, "m.room.topic", "@a:one", "", json!({ "topic": "t" })))
        .collect();
    let lowest = topics
        .iter()
        .min_by_key(|(_, id)| Sha1::digest(id.as_bytes()))
        .expect("some");
    let states: Vec<StateIds> = topics.iter().map(|topic| room.state(&[topic])).collect();
    assert_eq!(
        resolve(&room.rules, &Split::of(&states), &room.events),
        room.state(&[lowest])
    );
}

#[test]
fn power_levels_follow_each_other_until_one_is_not_allowed() {
    let mut room = Room::new();
    let levels = |b: i64| json!({ "users": { "@a:one": 100, "@b:one": b } });
    let by_a = room.event(7, "m.room.power_levels", "@a:one", "", levels(60));
    let by_b = room.event(8, "m.room.power_levels", "@b:one", "", levels(50));
    // Allowed only because the event of `@a` before it gave `@b` the power.
    assert_eq!(room.resolve(&[&by_a], &[&by_b]), room.state(&[&by_b]));
    let too_much = room.event(9, "m.room.power_levels", "@b:one", "", levels(90));
    assert_eq!(room.resolve(&[&by_a], &[&too_much]), room.state(&[&by_a]));
}

#[test]
fn members_are_settled_by_the_resolved_power_and_join_rules() {
    let mut room = Room::new();
    let closed = room.event(7, "m.room.join_rules", "@a:one", "", json!({ "join_rule": "invite" }));
    let open = room.event(8, "m.room.join_rules", "@b:one", "", json!({ "join_rule": "public" }));
    let left = room.event(9, "m.room.member", "@c:one", "@c:one", json!({ "membership": "leave" }));
    let back = room.event(10, "m.room.member", "@c:one", "@c:one", json!({ "membership": "join" }));
    // `@b` may not open the room, so `@c` may not come back.
    assert_eq!(
        room.resolve(&[&closed, &left], &[&open, &back]),
        room.state(&[&closed, &left])
    );
}

#[test]
fn where_nothing_is_allowed_the_shallowest_stays() {
    let mut room = Room::new();
    let [a, b] = [7, 8].map(|depth| room.event(depth, "m.room.topic", "@b:one", "", json!({ "topic": "t" })));
    assert_eq!(room.resolve(&[&a], &[&b]), room.state(&[&a]));
}
