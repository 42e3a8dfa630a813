//! Format, signatures and hashes of many events at once.

use std::sync::Arc;

use ::rules::testing::{Origin, create, event};
use entities::server_key;
use ruma::server_name;
use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;
use crate::flows::ingest::testing::raw;
use crate::peer::testing::with_world;
use crate::room::rules::rules_of;

const VALID_UNTIL: i64 = 1_000;

/// The key of `y` was good until then.
async fn learn_key(hub: &Hub, origin: &Origin) {
    let mut keys = ruma::signatures::PublicKeyMap::new();
    origin.publish(&mut keys);
    let key = keys["y"].values().next().expect("one key").as_bytes().to_vec();
    let row = server_key::Model {
        server_name: "y".to_owned(),
        key_id: "ed25519:1".to_owned(),
        public_key: key,
        valid_until_ts: VALID_UNTIL,
        expired: true,
        fetched_ts: hub.env().clock.now_ms(),
    };
    hub.env()
        .store
        .save_server_keys("y", None, &[row])
        .await
        .expect("stored");
}

struct Maker {
    origin: Origin,
    rules: Arc<RoomVersionRules>,
    create: Pdu,
}

impl Maker {
    fn new(version: &str) -> Self {
        let (origin, rules) = (Origin::new("y"), rules_of(version).expect("supported"));
        let create = create(&origin, &rules, version, "@yves:y");
        Self { origin, rules, create }
    }

    fn text(&self, ts: i64, change: impl FnOnce(&mut Value)) -> Box<RawValue> {
        let content = json!({ "body": ts });
        let refs = ([&self.create], [&self.create]);
        let mut event = event(
            &self.rules,
            "m.room.message",
            "@yves:y",
            None,
            content,
            (&refs.0, &refs.1),
            ts,
        );
        event["room_id"] = self.create.room_id.as_str().into();
        change(&mut event);
        let signed = self.origin.sign(&event, &self.rules);
        raw(&serde_json::to_value(&signed).expect("JSON"))
    }
}

async fn bodies(hub: &Hub, maker: &Maker, pdus: Vec<Box<RawValue>>) -> Vec<i64> {
    let good = verified(hub.env(), &maker.rules, pdus, server_name!("y"))
        .await
        .expect("checked");
    let body = |pdu: &Pdu| pdu.content_as::<Value>().expect("an object")["body"].as_i64();
    good.iter().filter_map(body).collect()
}

#[test]
fn many_events_are_checked_in_order() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let maker = Maker::new("11");
        learn_key(&hub, &maker.origin).await;
        let pdus: Vec<_> = (1..=200).map(|ts| maker.text(ts, |_| {})).collect();
        assert_eq!(bodies(&hub, &maker, pdus).await, (1..=200).collect::<Vec<_>>());
    });
}

#[test]
fn keys_must_have_been_valid_where_the_version_says_so() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        for (version, good) in [("4", vec![VALID_UNTIL, VALID_UNTIL + 1]), ("5", vec![VALID_UNTIL])] {
            let maker = Maker::new(version);
            learn_key(&hub, &maker.origin).await;
            let pdus = vec![maker.text(VALID_UNTIL, |_| {}), maker.text(VALID_UNTIL + 1, |_| {})];
            assert_eq!(bodies(&hub, &maker, pdus).await, good, "version {version}");
        }
    });
}

#[test]
fn bad_events_are_dropped_alone() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let maker = Maker::new("10");
        learn_key(&hub, &maker.origin).await;
        let stranger = Maker {
            origin: Origin::new("z"),
            ..Maker::new("10")
        };
        let pdus = vec![
            maker.text(1, |_| {}),
            maker.text(2, |event| event["type"] = json!("no\u{0}thing")),
            maker.text(3, |event| event["sender"] = json!("@zoe:z")),
            stranger.text(4, |event| event["sender"] = json!("@zoe:z")),
            maker.text(5, |event| event["prev_events"] = json!(vec!["$a"; 21])),
            maker.text(6, |event| event["depth"] = json!(-1)),
            raw(&json!({ "type": "m.room.message", "depth": 1.5 })),
            raw(&json!(7)),
            maker.text(8, |_| {}),
        ];
        assert_eq!(bodies(&hub, &maker, pdus).await, [1, 8]);
    });
}
