//! What must reach other servers: messages to devices, news of devices and keys. The test plays the other servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use entities::outbound_edu;
use entities::store::rows::Rows;
use ruma::OwnedUserId;
use serde_json::{Value, json};

use super::testing::{Hand, World, answer, ok, raw, room_with, unreachable, until, user, with_world};
use crate::clock::Clock;
use crate::hub::Hub;
use crate::session::account::{NewDevice, Refreshing, Registration};
use crate::session::keys::check::testing::Pair;
use crate::session::keys::{CrossSigningUpload, Upload};
use crate::session::to_device::Messages;
use crate::stream::journal::Submission;

const MINUTE: i64 = 60_000;
const ALICE: &str = "@alice:x";

fn device(id: &str) -> NewDevice {
    NewDevice {
        device_id: Some(id.into()),
        display_name: Some(format!("{id}'s name")),
        refreshing: Refreshing::No,
        password_proved: true,
        ip: None,
        user_agent: None,
    }
}

/// Alice with the device `A`, in a room with two other servers.
async fn alice(world: &World) -> Arc<Hub> {
    let hub = world.hub().await;
    let new = Registration {
        password_hash: None,
        guest: false,
        admin: false,
        displayname: None,
        device: Some(device("A")),
    };
    hub.sessions()
        .register(&user(ALICE), new)
        .await
        .expect("the name is free");
    room_with(&hub, &["@p:peer.example", "@q:other.example"]).await;
    hub
}

fn edus(world: &World, server: &str, kind: &str) -> Vec<Value> {
    let edus = world.wire.edus_to(server).into_iter();
    edus.filter(|edu| edu["edu_type"] == *kind)
        .map(|edu| edu["content"].clone())
        .collect()
}

fn updates(world: &World, server: &str) -> Vec<Value> {
    edus(world, server, "m.device_list_update")
}

async fn send(hub: &Hub, txn: &str, contents: BTreeMap<OwnedUserId, BTreeMap<String, Value>>) {
    let of_user = |devices: BTreeMap<String, Value>| devices.into_iter().map(|(id, content)| (id, raw(&content)));
    let messages = Messages {
        device_id: "A".into(),
        event_type: "m.test".to_owned(),
        txn_id: txn.to_owned(),
        contents: contents
            .into_iter()
            .map(|(user, devices)| (user, of_user(devices).collect()))
            .collect(),
    };
    hub.sessions()
        .send_to_device(&user(ALICE), messages)
        .await
        .expect("sent");
}

fn to(who: &str, device: &str, body: &Value) -> BTreeMap<OwnedUserId, BTreeMap<String, Value>> {
    BTreeMap::from([(user(who), BTreeMap::from([(device.to_owned(), body.clone())]))])
}

#[test]
fn messages_to_devices_survive_a_crash_and_keep_their_ids() {
    let hand = Hand::default();
    with_world(&Clock::from_source(hand.clone()), move |world| {
        let hand = hand.clone();
        async move {
            let hub = alice(&world).await;
            world.wire.script(|_| answer(unreachable()));
            send(&hub, "t1", to("@p:peer.example", "D", &json!({ "n": 1 }))).await;
            send(&hub, "t1", to("@p:peer.example", "D", &json!({ "n": 1 }))).await;
            let tried = until!("it is tried", edus(&world, "peer.example", "m.direct_to_device").pop());
            // A crash.
            let hub = world.hub().await;
            hand.advance(2 * MINUTE);
            world.wire.script(|_| answer(ok(&json!({ "pdus": {} }))));
            hub.peers()
                .reset("peer.example".try_into().expect("a name"))
                .await
                .expect("it is a server");
            let sent = until!("it arrives", {
                let edus = edus(&world, "peer.example", "m.direct_to_device");
                (edus.len() > 1).then_some(edus)
            });
            assert!(sent.iter().all(|edu| *edu == tried), "{sent:?}");
            assert_eq!((&tried["sender"], &tried["type"]), (&json!(ALICE), &json!("m.test")));
            assert_eq!(tried["messages"], json!({ "@p:peer.example": { "D": { "n": 1 } } }));
            assert!(
                tried["message_id"]
                    .as_str()
                    .is_some_and(|id| (1..=32).contains(&id.len()))
            );
            until!("nothing waits any more", {
                let rows = hub
                    .env()
                    .store
                    .outbound_edus("peer.example", 9)
                    .await
                    .expect("it answers");
                rows.is_empty().then_some(())
            });
            let edus = edus(&world, "other.example", "m.direct_to_device");
            assert!(edus.is_empty(), "it is for one server: {edus:?}");
        }
    });
}

#[test]
fn many_messages_are_parted_and_all_arrive() {
    with_world(&Clock::system(), |world| async move {
        let hub = alice(&world).await;
        let body = json!({ "text": "x".repeat(20_000) });
        let devices = (0..8).map(|n| (format!("D{n}"), body.clone())).collect();
        let mut contents = BTreeMap::from([(user("@p:peer.example"), devices)]);
        contents.extend(to("@q:other.example", "*", &json!({})));
        send(&hub, "t1", contents).await;
        until!("all arrive", {
            let edus = edus(&world, "peer.example", "m.direct_to_device");
            let devices = edus
                .iter()
                .filter_map(|edu| edu["messages"]["@p:peer.example"].as_object());
            (devices.map(serde_json::Map::len).sum::<usize>() == 8).then_some(())
        });
        let parts = edus(&world, "peer.example", "m.direct_to_device");
        let ids: std::collections::BTreeSet<_> = parts.iter().map(|edu| edu["message_id"].to_string()).collect();
        assert!(
            ids.len() == parts.len() && parts.len() > 1,
            "a part is a message of its own"
        );
        assert!(parts.iter().all(|edu| edu.to_string().len() < 65_536));
        let other = until!(
            "the other one arrives",
            edus(&world, "other.example", "m.direct_to_device").pop()
        );
        assert_eq!(other["messages"], json!({ "@q:other.example": { "*": {} } }));
    });
}

#[test]
fn changes_of_devices_are_a_chain() {
    with_world(&Clock::system(), |world| async move {
        let hub = alice(&world).await;
        let sessions = hub.sessions();
        for id in ["B", "C"] {
            sessions.login(&user(ALICE), device(id)).await.expect("she may");
        }
        sessions
            .rename_device(&user(ALICE), "B".into(), Some("new".to_owned()))
            .await
            .expect("it is hers");
        sessions
            .delete_devices(&user(ALICE), vec!["B".into(), "C".into()])
            .await
            .expect("they are hers");
        for server in ["peer.example", "other.example"] {
            until!("all updates arrive", (updates(&world, server).len() == 5).then_some(()));
            let told = updates(&world, server);
            let devices: Vec<_> = told
                .iter()
                .map(|edu| edu["device_id"].as_str().expect("an id"))
                .collect();
            assert_eq!(devices, ["B", "C", "B", "B", "C"]);
            assert!(told.iter().all(|edu| edu["user_id"] == ALICE));
            for pair in told.windows(2) {
                assert_eq!(pair[1]["prev_id"], json!([pair[0]["stream_id"]]), "{told:?}");
            }
            assert_eq!((&told[3]["deleted"], &told[4]["deleted"]), (&json!(true), &json!(true)));
            let newest = hub
                .env()
                .store
                .newest_device_list_change(ALICE)
                .await
                .expect("it answers");
            assert_eq!(
                told[4]["stream_id"],
                json!(newest),
                "what a query answers goes on from there"
            );
        }
    });
}

fn cross(usage: &str, seed: u8) -> Value {
    let public = Pair::new(seed).public();
    json!({ "user_id": ALICE, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

#[test]
fn keys_are_told_as_they_are_when_they_are_sent() {
    with_world(&Clock::system(), |world| async move {
        let hub = alice(&world).await;
        let (user, sessions) = (user(ALICE), hub.sessions());
        let mut keys = json!({
            "user_id": ALICE, "device_id": "A", "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { "ed25519:A": Pair::new(9).public(), "curve25519:A": Pair::new(8).public() },
        });
        Pair::new(9).sign(&mut keys, ALICE, "A");
        let upload = Upload {
            device_id: "A".into(),
            device_keys: Some(raw(&keys)),
            one_time_keys: BTreeMap::new(),
            fallback_keys: BTreeMap::new(),
        };
        sessions.upload_keys(&user, upload).await.expect("good keys");
        let update = until!("the device is told", updates(&world, "peer.example").pop());
        assert_eq!(
            (&update["keys"], &update["device_display_name"]),
            (&keys, &json!("A's name"))
        );
        assert_eq!(update.get("deleted"), None);

        let (master, mut own) = (cross("master", 1), cross("self_signing", 2));
        Pair::new(1).sign(&mut own, ALICE, &Pair::new(1).public());
        let upload = CrossSigningUpload {
            master_key: Some(raw(&master)),
            self_signing_key: Some(raw(&own)),
            user_signing_key: None,
            proved: true,
        };
        sessions.upload_cross_signing(&user, upload).await.expect("good keys");
        let told = until!(
            "the keys are told",
            edus(&world, "peer.example", "m.signing_key_update").pop()
        );
        assert_eq!(
            told,
            json!({ "user_id": ALICE, "master_key": master, "self_signing_key": own })
        );

        // As clients do it at once: the device signs the master key, the self-signing key the device.
        let (mut signed_device, mut signed_master) = (keys.clone(), master.clone());
        Pair::new(2).sign(&mut signed_device, ALICE, &Pair::new(2).public());
        Pair::new(9).sign(&mut signed_master, ALICE, "A");
        let signed = BTreeMap::from([
            ("A".to_owned(), raw(&signed_device)),
            (Pair::new(1).public(), raw(&signed_master)),
        ]);
        let failures = sessions
            .upload_signatures(&user, BTreeMap::from([(user.clone(), signed)]))
            .await;
        assert!(failures.expect("good signatures").is_empty());
        until!("the signed device is told", {
            let update = updates(&world, "peer.example").pop();
            update.filter(|update| update["keys"] == signed_device)
        });
        until!("the signed key is told", {
            let told = edus(&world, "peer.example", "m.signing_key_update").pop();
            told.filter(|told| told["master_key"] == signed_master)
        });
    });
}

#[test]
fn servers_without_a_common_room_are_told_nothing() {
    with_world(&Clock::system(), |world| async move {
        let hub = alice(&world).await;
        let new = Registration {
            password_hash: None,
            guest: false,
            admin: false,
            displayname: None,
            device: Some(device("A")),
        };
        let loner = user("@loner:x");
        hub.sessions().register(&loner, new).await.expect("the name is free");
        hub.sessions()
            .rename_device(&loner, "A".into(), None)
            .await
            .expect("it is theirs");
        hub.sessions().login(&user(ALICE), device("B")).await.expect("she may");
        until!("hers is told", updates(&world, "peer.example").pop());
        assert!(
            updates(&world, "peer.example")
                .iter()
                .all(|edu| edu["user_id"] == ALICE)
        );
        let waiting = hub.env().store.servers_waiting().await.expect("it answers");
        assert!(
            !waiting.contains(&"x".to_owned()),
            "nothing for this very server: {waiting:?}"
        );
    });
}

#[test]
fn what_cannot_be_signed_holds_nothing_else_up() {
    with_world(&Clock::system(), |world| async move {
        let hub = alice(&world).await;
        let fraction = json!({ "sender": ALICE, "type": "m.test", "message_id": "f", "messages": { "@p:peer.example": { "D": 0.5 } } });
        let rows = Rows {
            outbound_edus: vec![outbound_edu::Model {
                pos: 0,
                server_name: "peer.example".to_owned(),
                edu_type: "m.direct_to_device".to_owned(),
                json: fraction.to_string(),
            }],
            ..Rows::default()
        };
        let submission = Submission {
            rows,
            positions: 1,
            publish: Box::new(|_| Vec::new()),
        };
        hub.env().journal.submit(submission).await.expect("written");
        send(&hub, "t1", to("@p:peer.example", "D", &json!({ "n": 1 }))).await;
        until!("nothing waits any more", {
            let rows = hub.env().store.outbound_edus("peer.example", 9).await;
            rows.expect("it answers").is_empty().then_some(())
        });
        let sent = edus(&world, "peer.example", "m.direct_to_device");
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!(sent[0]["messages"], json!({ "@p:peer.example": { "D": { "n": 1 } } }));
    });
}
