//! A room of many members, whose answers must take few statements and little time.

use std::sync::Arc;
use std::time::Instant;

use entities::ids::{EventNid, RoomNid, StateGroupId, StateKeyNid, StreamPos};
use entities::store::Store;
use entities::store::rows::Rows;
use entities::testing::each_backend;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use super::world::{read, y};
use crate::flows::hosting::{Accepted, join};
use crate::room::commit::tests::env;
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::export::answers;
use crate::room::state_group::{FullMap, NewGroup};
use crate::room::testing::{Origin, create, event};
use crate::room::{parse, rules};

const MEMBERS: usize = 10_000;

/// Writes a room that `MEMBERS` users have joined, each after an invite, and answers its newest event.
async fn store_room(store: &Store) -> (OwnedRoomId, Pdu) {
    let rules = rules::rules_of("11").expect("supported");
    let origin = Origin::new("x");
    let alice = "@alice:x";
    let create = create(&origin, &rules, "11", alice);
    let room_id: OwnedRoomId = RoomId::parse("!room:x").expect("a room id");
    let mut at = 1;
    // Nobody looks at the signatures of stored events.
    let mut make = |kind: &str, sender: &str, key: Option<&str>, content: Value, prev: &Pdu, auth: &[&Pdu]| {
        at += 1;
        let mut object = event(&rules, kind, sender, key, content, (&[prev], auth), at);
        object["room_id"] = json!(room_id);
        object["hashes"] = json!({ "sha256": "x".repeat(43) });
        object["signatures"] = json!({ "x": { "ed25519:1": "y".repeat(86) } });
        let object = serde_json::from_value(object).expect("canonical JSON");
        parse::pdu_from_object(&object, &rules, None).expect("well-formed")
    };
    let joined = json!({ "membership": "join" });
    let first = make("m.room.member", alice, Some(alice), joined.clone(), &create, &[&create]);
    let levels = json!({ "users": { alice: 100 } });
    let levels = make(
        "m.room.power_levels",
        alice,
        Some(""),
        levels,
        &first,
        &[&create, &first],
    );
    let rule = json!({ "join_rule": "invite" });
    let rule = make(
        "m.room.join_rules",
        alice,
        Some(""),
        rule,
        &levels,
        &[&create, &first, &levels],
    );
    let mut pdus = vec![create.clone(), first.clone(), levels.clone(), rule.clone()];
    for n in 0..MEMBERS {
        let user = format!("@user{n}:{}", if n % 2 == 0 { "y" } else { "z" });
        let invite = json!({ "membership": "invite" });
        let auth = [&create, &levels, &rule, &first];
        let last = pdus.last().expect("there").clone();
        let invite = make("m.room.member", alice, Some(&user), invite, &last, &auth);
        let join = json!({ "membership": "join", "displayname": format!("User {n}") });
        let auth = [&create, &levels, &rule, &invite];
        let join = make("m.room.member", &user, Some(&user), join, &invite, &auth);
        pdus.extend([invite, join]);
    }
    let last = pdus.last().expect("there").clone();
    let text = make(
        "m.room.message",
        alice,
        None,
        json!({ "body": "x" }),
        &last,
        &[&create, &levels, &first],
    );
    pdus.push(text.clone());
    import(store, &room_id, pdus).await;
    (room_id, text)
}

async fn import(store: &Store, room_id: &RoomId, pdus: Vec<Pdu>) {
    let mut rows = Rows {
        rooms: vec![entities::room::Model {
            nid: 1,
            room_id: room_id.to_string(),
            version: "11".to_owned(),
            creator: "@alice:x".to_owned(),
            created_ts: 1,
        }],
        ..Rows::default()
    };
    let mut keys: std::collections::HashMap<(String, String), i64> = std::collections::HashMap::new();
    let mut map = std::collections::BTreeMap::new();
    let group = StateGroupId(1);
    for (at, pdu) in (1_i64..).zip(pdus) {
        if let Some(key) = pdu.state_key.as_deref() {
            let next = i64::try_from(keys.len()).expect("few") + 1;
            let key = *keys.entry((pdu.kind.to_string(), key.to_owned())).or_insert(next);
            map.insert(StateKeyNid(key), EventNid(at));
        }
        let stored = StoredEvent {
            nid: EventNid(at),
            room_nid: RoomNid(1),
            pos: Some(StreamPos(at)),
            state_group: Some(group),
            status: Status::Accepted,
            redacted_by: None,
            txn: None,
            unsigned: None,
            pdu: Arc::new(pdu),
        };
        rows.events.push(stored.to_row());
    }
    let newest = rows.events.last().expect("there");
    rows.room_heads.push(entities::room_head::Model {
        room_nid: 1,
        extremities: json!([[newest.nid, newest.event_id, newest.depth]]).to_string(),
        state_group: group.0,
        pos: newest.nid,
    });
    rows.state_keys
        .extend(keys.into_iter().map(|((kind, key), nid)| entities::state_key::Model {
            nid,
            r#type: kind,
            state_key: key,
        }));
    let map = FullMap::from_entries(map);
    let full = NewGroup::full(&map).expect("sorted");
    rows.state_groups.push(full.to_row(group, RoomNid(1)));
    store.import(&rows).await.expect("stored");
}

fn len(value: &Value) -> usize {
    value.as_array().expect("a list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_of_a_large_room() {
    each_backend(|db| async move {
        let store = db.store().await;
        let (room_id, text) = store_room(&store).await;
        let env = env(store.clone(), 21).await;
        for turn in ["cold", "warm"] {
            let begin = Instant::now();
            let ids = read(answers::state_ids(&env, y(), &room_id, &text.event_id).await);
            eprintln!("{:?}, {turn}: state_ids {:?}", store.backend(), begin.elapsed());
            assert_eq!(len(&ids["pdu_ids"]), MEMBERS + 4);
            // Create, levels, rules, the inviter and all invites; nobody names the joins.
            assert_eq!(len(&ids["auth_chain_ids"]), MEMBERS + 4);
            let begin = Instant::now();
            let answer = answers::state(&env, y(), &room_id, &text.event_id).await;
            let bytes: usize = answer.expect("an answer").pieces().map(|piece| piece.len()).sum();
            eprintln!(
                "{:?}, {turn}: state {:?}, {bytes} bytes",
                store.backend(),
                begin.elapsed()
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_to_a_large_room() {
    each_backend(|db| async move {
        let store = db.store().await;
        let (room_id, text) = store_room(&store).await;
        let env = env(store.clone(), 22).await;
        let before = env.rooms.view(&room_id).await.expect("readable").expect("there");
        let event = env
            .rooms
            .event_by_id(&text.event_id)
            .await
            .expect("readable")
            .expect("there");
        let accepted = Accepted { before, event };
        for (omit, state, chain) in [(false, MEMBERS + 4, MEMBERS + 4), (true, 9, 5)] {
            let begin = Instant::now();
            let answer = join(&env, &accepted, omit).await;
            let bytes = answer.expect("an answer").into_bytes();
            eprintln!(
                "{:?}: join, omit {omit}: {:?}, {} bytes",
                store.backend(),
                begin.elapsed(),
                bytes.len()
            );
            let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
            // Without members: create, levels, rules and the five whom the room is named after, and the sender.
            assert_eq!(
                (len(&answer["state"]), len(&answer["auth_chain"])),
                (state, chain),
                "omit {omit}"
            );
            assert_eq!(answer["servers_in_room"], json!(["x", "y", "z"]));
        }
    })
    .await;
}
