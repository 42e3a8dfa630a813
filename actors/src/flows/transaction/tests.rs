//! Transactions of another server: what each part of them does, and that each counts once.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::canonical_json::CanonicalJsonObject;
use ruma::{DeviceId, OwnedServerName, user_id};
use serde_json::{Value, json};

use super::{MAX_EDUS, MAX_PDUS, Transaction, receive};
use crate::clock::Clock;
use crate::error::{DomainError, Outcome};
use crate::flows::ingest::testing::{Remote, alice, json_of, raw, staged, status, yves};
use crate::hub::Hub;
use crate::peer::testing::{World, until, with_world};
use crate::room::commands::Draft;
use crate::room::event::{Pdu, Status};
use crate::session::account::{NewDevice, Refreshing, Registration};

fn with_remote<F: Future<Output = ()> + Send + 'static>(
    test: impl Fn(Arc<World>, Arc<Hub>, Remote) -> F + Send + Sync + Clone + 'static,
) {
    with_world(&Clock::system(), move |world| {
        let test = test.clone();
        async move {
            let hub = world.hub().await;
            let remote = Remote::enter(&hub, &world.wire, "11").await;
            // The database is there as long as the world is.
            test(world.clone(), hub, remote).await;
            drop(world);
        }
    });
}

async fn worked_off(hub: &Hub, remote: &Remote) {
    let left = || staged(hub, &remote.room_id);
    until!(
        "the staged events are worked off",
        // What is committed is shown a moment later.
        (left().await == 0 && !hub.env().ingests.is_busy(&remote.room_id)).then_some(())
    );
}

fn code<T: std::fmt::Debug>(outcome: Outcome<T>) -> String {
    outcome.expect_err("a refusal").errcode().unwrap_or("none").to_owned()
}

async fn timeline(hub: &Hub, remote: &Remote) -> Vec<String> {
    let room = hub.rooms().existing(&remote.room_id).await.expect("there");
    room.timeline
        .iter()
        .map(|event| event.pdu.event_id.to_string())
        .collect()
}

/// An event that differs from a signed one.
fn changed(pdu: &Pdu, change: impl FnOnce(&mut Value)) -> Value {
    let mut value: Value = serde_json::from_str(&pdu.json).expect("PDUs are JSON");
    change(&mut value);
    value
}

fn error_of<'a>(answer: &'a Value, pdu: &Pdu) -> &'a str {
    answer["pdus"][pdu.event_id.as_str()]["error"]
        .as_str()
        .unwrap_or("none")
}

#[test]
fn a_transaction_counts_once() {
    with_remote(|world, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let pdus = remote.texts(&mut branch, 2);
        let txn = remote.txn(&pdus, &[]);
        // Two copies at the same time, one later, one to the next process.
        let (one, other) = tokio::join!(receive(&hub, txn.clone()), receive(&hub, txn.clone()));
        let answer = json_of(&one.expect("taken"));
        assert_eq!(answer["pdus"].as_object().map(serde_json::Map::len), Some(2));
        assert_eq!(json_of(&other.expect("the same")), answer);
        worked_off(&hub, &remote).await;
        let shown = timeline(&hub, &remote).await;
        assert_eq!(json_of(&receive(&hub, txn.clone()).await.expect("the same")), answer);
        let hub = world.hub().await;
        // Even with another content it is the same transaction.
        let mut other = txn.clone();
        other.pdus.pop();
        assert_eq!(json_of(&receive(&hub, other).await.expect("the same")), answer);
        // The same events in another one have their place already.
        let again = remote.send(&hub, &pdus).await.expect("taken");
        assert_eq!(again, answer);
        worked_off(&hub, &remote).await;
        assert_eq!(timeline(&hub, &remote).await, shown);
    });
}

#[test]
fn too_much_and_foreign_transactions_are_refused() {
    with_remote(|_, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let pdus = remote.texts(&mut branch, MAX_PDUS + 1);
        assert_eq!(code(remote.send(&hub, &pdus).await), "M_INVALID_PARAM");
        assert_eq!(staged(&hub, &remote.room_id).await, 0);
        let edu = json!({ "edu_type": "z", "content": {} });
        let edus = vec![edu; MAX_EDUS + 1];
        assert_eq!(code(remote.send_edus(&hub, &edus).await), "M_INVALID_PARAM");
        let foreign = Transaction {
            claimed_origin: OwnedServerName::try_from("z").expect("a server name"),
            ..remote.txn(&pdus[..1], &[])
        };
        assert_eq!(code(receive(&hub, foreign).await), "M_FORBIDDEN");
        remote.send(&hub, &pdus[..MAX_PDUS]).await.expect("just enough");
        worked_off(&hub, &remote).await;
    });
}

#[test]
fn each_bad_event_is_an_error_of_its_own() {
    with_remote(|_, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let pdus = remote.texts(&mut branch, 2);
        let mut other = branch.clone();
        let forged = remote.text(&mut other, "forged");
        let nameless = remote.text(&mut other, "nameless");
        let mut elsewhere = remote.text(&mut other, "elsewhere");
        let mut txn = remote.txn(&pdus, &[]);
        txn.pdus.push(raw(&changed(&forged, |pdu| {
            pdu["signatures"]["y"]["ed25519:1"] = json!("c2ln");
        })));
        txn.pdus.push(raw(&changed(&nameless, |pdu| {
            drop(pdu.as_object_mut().map(|pdu| pdu.remove("type")))
        })));
        txn.pdus.push(raw(&json!(["no", "event"])));
        let foreign = changed(&elsewhere, |pdu| pdu["room_id"] = json!("!elsewhere:z"));
        let signed: CanonicalJsonObject = remote.origin.sign(&foreign, &remote.rules);
        Arc::make_mut(&mut elsewhere).event_id =
            crate::room::parse::event_id_of(&signed, &remote.rules).expect("it can be named");
        txn.pdus.push(raw(&serde_json::to_value(&signed).expect("JSON")));
        let answer = json_of(&receive(&hub, txn).await.expect("the transaction is good"));
        assert_eq!(
            answer["pdus"].as_object().map(serde_json::Map::len),
            Some(4),
            "{answer}"
        );
        assert_eq!(answer["pdus"][pdus[0].event_id.as_str()], json!({}));
        assert!(error_of(&answer, &forged).contains("signature"), "{answer}");
        assert!(error_of(&answer, &elsewhere).contains("not in the room"), "{answer}");
        worked_off(&hub, &remote).await;
        assert_eq!(status(&hub, &pdus[1].event_id).await, Some(Status::Accepted));
        assert_eq!(status(&hub, &forged.event_id).await, None);
    });
}

#[test]
fn an_event_whose_content_is_not_what_was_hashed_is_redacted() {
    with_remote(|_, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let text = remote.text(&mut branch, "what I said");
        let twisted = changed(&text, |pdu| pdu["content"]["body"] = json!("what I did not say"));
        let mut txn = remote.txn(&[], &[]);
        txn.pdus.push(raw(&twisted));
        let answer = json_of(&receive(&hub, txn).await.expect("taken"));
        assert_eq!(answer["pdus"][text.event_id.as_str()], json!({}));
        worked_off(&hub, &remote).await;
        let stored = hub
            .env()
            .rooms
            .event_by_id(&text.event_id)
            .await
            .expect("readable")
            .expect("there");
        assert_eq!((stored.status, stored.pdu.content.get()), (Status::Accepted, "{}"));
    });
}

#[test]
fn a_server_that_is_kept_out_is_not_heard() {
    with_remote(|_, hub, mut remote| async move {
        let acl = raw(&json!({ "allow": ["*"], "deny": ["Y"] }));
        let acl = Draft::state(alice(), "m.room.server_acl", "", acl);
        hub.rooms().send(&remote.room_id, acl).await.expect("sent");
        let mut branch = remote.branch(&hub).await;
        let text = remote.text(&mut branch, "let me in");
        let typing = json!({ "room_id": remote.room_id, "user_id": yves(), "typing": true });
        let event = hub.rooms().existing(&remote.room_id).await.expect("there").timeline[0]
            .pdu
            .event_id
            .clone();
        let read = json!({ "m.read": { "@yves:y": { "event_ids": [event], "data": { "ts": 1 } } } });
        let receipts = json!({ (remote.room_id.as_str()): read });
        let edus = [
            json!({ "edu_type": "m.typing", "content": typing }),
            json!({ "edu_type": "m.receipt", "content": receipts }),
        ];
        let txn = remote.txn(std::slice::from_ref(&text), &edus);
        let answer = json_of(&receive(&hub, txn).await.expect("taken"));
        assert!(error_of(&answer, &text).contains("access control"), "{answer}");
        let room = hub.rooms().existing(&remote.room_id).await.expect("there");
        assert!(hub.rooms().typing(room.nid).0.is_empty());
        let kept = hub
            .env()
            .store
            .receipts_of_user("@yves:y", &[room.nid.0])
            .await
            .expect("readable");
        assert!(kept.is_empty());
        assert_eq!(staged(&hub, &remote.room_id).await, 0);
    });
}

#[test]
fn typing_and_receipts_of_members_are_told() {
    with_remote(|_, hub, mut remote| async move {
        let room = hub.rooms().existing(&remote.room_id).await.expect("there");
        let room_id = remote.room_id.clone();
        let typing = |user: &str, typing: bool| {
            let content = json!({ "room_id": room_id, "user_id": user, "typing": typing });
            json!({ "edu_type": "m.typing", "content": content })
        };
        let edus = [
            typing("@alice:x", true),
            typing("@zoe:y", true),
            typing("@yves:y", true),
            json!({ "edu_type": 7 }),
        ];
        remote.send_edus(&hub, &edus).await.expect("taken");
        assert_eq!(
            hub.rooms().typing(room.nid).0,
            [yves()],
            "each speaks for itself, from inside"
        );
        let edus = [typing("@yves:y", false)];
        remote.send_edus(&hub, &edus).await.expect("taken");
        assert!(hub.rooms().typing(room.nid).0.is_empty());

        // A receipt may come with the event that it points at.
        let mut branch = remote.branch(&hub).await;
        let pdus = remote.texts(&mut branch, 2);
        let read = |pdu: &Pdu, thread: Option<&str>| {
            let mut data = json!({ "ts": 1_234 });
            if let Some(thread) = thread {
                data["thread_id"] = json!(thread);
            }
            let by_user = json!({
                "@yves:y": { "event_ids": [pdu.event_id], "data": data },
                "@alice:x": { "event_ids": [pdu.event_id], "data": { "ts": 1 } },
                "nobody": 7,
            });
            json!({ "edu_type": "m.receipt", "content": {
                (room_id.as_str()): { "m.read": by_user, "m.read.private": by_user }, "!none:z": {},
            } })
        };
        let edus = [
            read(&pdus[1], None),
            read(&pdus[0], Some("main")),
            read(&pdus[0], Some("no thread")),
        ];
        let txn = remote.txn(&pdus, &edus);
        receive(&hub, txn).await.expect("taken");
        let store = &hub.env().store;
        let rows = until!("the receipts moved", {
            let rows = store
                .receipts_of_user("@yves:y", &[room.nid.0])
                .await
                .expect("readable");
            (rows.len() > 1).then_some(rows)
        });
        let mut kept: Vec<_> = rows
            .iter()
            .map(|row| (row.receipt_type.as_str(), row.thread_id.as_str(), row.ts))
            .collect();
        kept.sort_unstable();
        assert_eq!(kept, [("m.read", "", 1_234), ("m.read", "main", 1_234)]);
        let own = hub
            .env()
            .store
            .receipts_of_user("@alice:x", &[room.nid.0])
            .await
            .expect("readable");
        assert!(own.is_empty(), "another server does not read for alice");
    });
}

/// A local user with devices.
async fn register(hub: &Hub, name: &str, devices: &[&str]) {
    let user = ruma::UserId::parse(name).expect("a user id");
    let new = Registration {
        password_hash: None,
        guest: false,
        admin: false,
        displayname: None,
        device: None,
    };
    hub.sessions().register(&user, new).await.expect("a new user");
    for device in devices {
        let new = NewDevice {
            device_id: Some((*device).into()),
            display_name: None,
            refreshing: Refreshing::No,
            password_proved: true,
            ip: None,
            user_agent: None,
        };
        hub.sessions().login(&user, new).await.expect("a new device");
    }
}

async fn inbox(hub: &Hub, user: &str, device: &str) -> Vec<Value> {
    let device = <&DeviceId>::from(device);
    let rows = hub
        .env()
        .store
        .to_device_page(user, device.as_str(), 0, hub.env().visible().0, 100)
        .await;
    let rows = rows.expect("readable");
    rows.iter()
        .map(|row| serde_json::from_str(&row.json).expect("JSON"))
        .collect()
}

#[test]
fn messages_to_devices_arrive_once() {
    with_remote(|world, hub, mut remote| async move {
        register(&hub, "@bob:x", &["ONE", "TWO"]).await;
        register(&hub, "@carol:x", &["C"]).await;
        let message = |id: &str, sender: &str, messages: Value| {
            let content = json!({ "sender": sender, "type": "m.test", "message_id": id, "messages": messages });
            json!({ "edu_type": "m.direct_to_device", "content": content })
        };
        let both = json!({
            "@bob:x": { "*": { "n": 1 } },
            "@carol:x": { "C": { "n": 1 }, "NONE": { "n": 1 } },
            "@nobody:x": { "*": { "n": 1 } },
            "@zoe:z": { "*": { "n": 1 } },
        });
        let edus = [
            message("1", "@yves:y", both.clone()),
            message("1", "@yves:y", both),
            message("2", "@zoe:z", json!({ "@bob:x": { "ONE": { "n": 2 } } })),
            message("3", "@yves:y", json!({ "@bob:x": { "ONE": "no object" } })),
            message(
                "4",
                "@yves:y",
                json!({ "@bob:x": { "*": { "n": 4 }, "TWO": { "n": 5 } } }),
            ),
        ];
        remote.send_edus(&hub, &edus).await.expect("taken");
        let event = |n: i64| json!({ "sender": "@yves:y", "type": "m.test", "content": { "n": n } });
        assert_eq!(inbox(&hub, "@bob:x", "ONE").await, [event(1), event(4)]);
        assert_eq!(inbox(&hub, "@bob:x", "TWO").await, [event(1), event(5)]);
        assert_eq!(inbox(&hub, "@carol:x", "C").await, [event(1)]);
        // Also to another process, in another transaction.
        let hub = world.hub().await;
        remote.send_edus(&hub, &edus[..1]).await.expect("taken");
        assert_eq!(inbox(&hub, "@carol:x", "C").await, [event(1)]);
    });
}

#[test]
fn presence_of_those_in_sight_is_told() {
    with_remote(|_, hub, mut remote| async move {
        register(&hub, "@alice:x", &["A"]).await;
        let now = hub.env().clock.now_ms();
        let push = |user: &str, presence: &str, ago: i64| json!({ "user_id": user, "presence": presence, "last_active_ago": ago, "status_msg": "hm" });
        let pushes = [
            push("@yves:y", "online", 5_000),
            push("@zoe:y", "online", 1),
            push("@alice:x", "online", 1),
            json!({ "user_id": 7 }),
        ];
        let edu = |pushes: &[Value]| json!({ "edu_type": "m.presence", "content": { "push": pushes } });
        let feed = hub.env().feeds.open(&alice(), 0);
        let since = hub.env().visible();
        remote.send_edus(&hub, &[edu(&pushes)]).await.expect("taken");
        let users = ["@yves:y", "@zoe:y", "@alice:x"];
        let rows = hub.env().store.presence_of(&users).await.expect("readable");
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.user_id.as_str(), row.state.as_str()), ("@yves:y", "online"));
        assert_eq!(row.status_msg.as_deref(), Some("hm"));
        assert!((row.last_active_ts - (now - 5_000)).abs() < 60_000);
        let changes = feed.changes(since, hub.env().visible()).expect("covered");
        assert!(changes.presence.contains(user_id!("@yves:y")), "alice is told");
        // The same once more is not written.
        let written = row.pos;
        remote
            .send_edus(&hub, &[edu(&[push("@yves:y", "online", 6_000)])])
            .await
            .expect("taken");
        assert_eq!(
            hub.env().store.presence_of(&users).await.expect("readable")[0].pos,
            written
        );
        remote
            .send_edus(&hub, &[edu(&[push("@yves:y", "offline", 6_000)])])
            .await
            .expect("taken");
        assert_eq!(
            hub.env().store.presence_of(&users).await.expect("readable")[0].state,
            "offline"
        );
    });
}

#[test]
fn changed_devices_are_told_to_those_who_share_a_room() {
    with_remote(|_, hub, mut remote| async move {
        register(&hub, "@alice:x", &["A"]).await;
        let update = |kind: &str, user: &str| json!({ "edu_type": kind, "content": { "user_id": user, "device_id": "D", "stream_id": 1 } });
        let since = hub.env().visible();
        let edus = [
            update("m.device_list_update", "@alice:x"),
            update("m.device_list_update", "@zoe:y"),
        ];
        remote.send_edus(&hub, &edus).await.expect("taken");
        let changes = |since: entities::ids::StreamPos| {
            let hub = hub.clone();
            async move {
                let upto = hub.env().visible();
                let changes = crate::session::keys::changes::changes(hub.env(), &alice(), since, upto).await;
                changes.expect("readable").changed
            }
        };
        assert!(changes(since).await.is_empty(), "not theirs to say, and not seen here");
        for kind in ["m.device_list_update", "m.signing_key_update"] {
            let since = hub.env().visible();
            remote.send_edus(&hub, &[update(kind, "@yves:y")]).await.expect("taken");
            assert_eq!(changes(since).await, [yves()], "{kind}");
        }
    });
}

#[test]
fn a_server_whose_events_pile_up_is_told_to_wait() {
    with_remote(|_, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let text = remote.text(&mut branch, "one more");
        let row = |nid: i64| entities::inbound_pdu::Model {
            nid,
            origin: "y".to_owned(),
            room_id: "!nowhere:y".to_owned(),
            event_id: format!("${nid}"),
            json: "{}".to_owned(),
            received_ts: 0,
        };
        // Far above the numbers that the process gives out.
        let first = 1_000_000_000;
        let rows: Vec<_> = (first..first + i64::from(super::MAX_STAGED)).map(row).collect();
        let txn = entities::inbound_txn::Model {
            origin: "y".to_owned(),
            txn_id: "before".to_owned(),
            response: "{}".to_owned(),
            received_ts: 0,
        };
        hub.env().store.stage(&txn, &rows).await.expect("staged");
        let refused = remote.send(&hub, std::slice::from_ref(&text)).await;
        assert!(matches!(refused, Err(DomainError::Overloaded { .. })), "{refused:?}");
        remote.send_edus(&hub, &[]).await.expect("nothing to stage");
        hub.env().store.discard_staged(&[first]).await.expect("one less");
        let answer = remote.send(&hub, std::slice::from_ref(&text)).await.expect("taken");
        assert_eq!(
            answer["pdus"],
            json!(BTreeMap::from([(text.event_id.to_string(), json!({}))]))
        );
        worked_off(&hub, &remote).await;
    });
}
