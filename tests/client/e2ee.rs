//! End-to-end encryption: keys, cross-signing, changes, to-device messages.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, PASSWORD, User, encode, text};

const ALGORITHM: &str = "signed_curve25519";

fn identity(user: &User) -> Value {
    let (id, device) = (&user.user_id, &user.device_id);
    json!({
        "user_id": id,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{device}"): "3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI",
            format!("ed25519:{device}"): "lEuiRJBit0IG6nUf5pUzWTUEsRVVe/HJkoKuEww9ULI",
        },
        "signatures": { id: { format!("ed25519:{device}"): "dSO80A01XiigH3uBiDVx/EjzaoycHcjq9lfQX0uWsqxl2giMIiSPR8a4d291W1ihKJL/a+myXS367WT6NAIcBA" } },
    })
}

fn one_time(ids: &[&str]) -> Value {
    let key = |id: &&str| (format!("{ALGORITHM}:{id}"), json!({ "key": format!("key {id}") }));
    ids.iter().map(key).collect::<serde_json::Map<_, _>>().into()
}

async fn upload(user: &User, body: Value) -> Value {
    user.post("keys/upload", body).await.ok()
}

/// The name of the key that `by` gets of `from`'s device.
async fn claim(by: &User, from: &User) -> Option<String> {
    let body = json!({ "one_time_keys": { &from.user_id: { &from.device_id: ALGORITHM } } });
    let answer = by.post("keys/claim", body).await.ok();
    assert_eq!(answer["failures"], json!({}));
    let keys = answer["one_time_keys"][&from.user_id][&from.device_id].as_object();
    keys.and_then(|keys| keys.keys().next().cloned())
}

async fn query(by: &User, of: &User) -> Value {
    by.post("keys/query", json!({ "device_keys": { &of.user_id: [] } }))
        .await
        .ok()
}

/// The same user with another device's id.
fn another(user: &User, device: &str) -> User {
    let mut user = user.clone();
    user.device_id = device.to_owned();
    user
}

/// Two users in one room.
async fn friends(server: &crate::common::server::TestServer) -> (User, User) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    (alice, bob)
}

fn changed(sync: &Value) -> Vec<&str> {
    let list = sync["device_lists"]["changed"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn inbox(sync: &Value) -> Vec<&Value> {
    sync["to_device"]["events"].as_array().into_iter().flatten().collect()
}

async fn send(from: &User, txn: &str, to: &User, device: &str, content: Value) {
    let body = json!({ "messages": { &to.user_id: { device: content } } });
    from.put(&format!("sendToDevice/m.test/{txn}"), body).await.ok();
}

both_databases! {
    async fn keys_are_counted_and_claimed_once(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let body = json!({
            "device_keys": identity(&alice),
            "one_time_keys": one_time(&["B", "C"]),
            "fallback_keys": one_time(&["F"]),
        });
        let counts = upload(&alice, body).await;
        assert_eq!(counts["one_time_key_counts"][ALGORITHM], 2);
        upload(&alice, json!({ "one_time_keys": one_time(&["A"]) })).await;

        let sync = alice.sync(None, 0, None).await;
        assert_eq!(sync["device_one_time_keys_count"][ALGORITHM], 3, "{sync}");
        assert_eq!(sync["device_unused_fallback_key_types"], json!([ALGORITHM]));
        let since = text(&sync, "next_batch");

        let mut claimed = Vec::new();
        for _ in 0..3 {
            claimed.extend(claim(&bob, &alice).await);
        }
        assert_eq!(claimed[2], format!("{ALGORITHM}:A"), "the later upload comes later");
        claimed.sort();
        assert_eq!(claimed, ["A", "B", "C"].map(|id| format!("{ALGORITHM}:{id}")));
        let sync = alice.sync_until(Some(&since), |sync| sync["device_one_time_keys_count"][ALGORITHM] == 0).await;
        assert_eq!(sync["device_unused_fallback_key_types"], json!([ALGORITHM]));

        for _ in 0..2 {
            assert_eq!(claim(&bob, &alice).await, Some(format!("{ALGORITHM}:F")));
        }
        let sync = alice.sync(None, 0, None).await;
        assert_eq!(sync["device_unused_fallback_key_types"], json!([]), "{sync}");
        upload(&alice, json!({ "fallback_keys": one_time(&["G"]) })).await;
        let sync = alice.sync(None, 0, None).await;
        assert_eq!(sync["device_unused_fallback_key_types"], json!([ALGORITHM]));
    }

    async fn simultaneous_claims_get_different_keys(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let ids: Vec<String> = (0..10).map(|i| format!("K{i}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        upload(&alice, json!({ "one_time_keys": one_time(&ids) })).await;
        let claims: Vec<_> = (0..15)
            .map(|_| {
                let (alice, bob) = (alice.clone(), bob.clone());
                tokio::spawn(async move { claim(&bob, &alice).await })
            })
            .collect();
        let mut got = Vec::new();
        for claim in claims {
            got.extend(claim.await.expect("no panic"));
        }
        got.sort();
        got.dedup();
        assert_eq!(got.len(), 10);
    }

    async fn a_waiting_sync_returns_when_a_key_is_claimed(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        upload(&alice, json!({ "one_time_keys": one_time(&["A"]) })).await;
        let since = text(&alice.sync(None, 0, None).await, "next_batch");
        let waiting = {
            let alice = alice.clone();
            tokio::spawn(async move {
                let mut since = since;
                loop {
                    let sync = alice.sync(Some(&since), 30_000, None).await;
                    if sync["device_one_time_keys_count"][ALGORITHM] == 0 {
                        return;
                    }
                    since = text(&sync, "next_batch");
                }
            })
        };
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let started = std::time::Instant::now();
        claim(&bob, &alice).await;
        waiting.await.expect("no panic");
        assert!(started.elapsed().as_secs() < 10);
    }

    async fn keys_must_fit_the_device(server) {
        let alice = server.register("alice").await;
        let mut other = identity(&alice);
        other["device_id"] = json!("OTHER");
        alice.post("keys/upload", json!({ "device_keys": other })).await.refused(400, "M_INVALID_PARAM");
        let unnamed = json!({ "one_time_keys": { "nameless": {} } });
        alice.post("keys/upload", unnamed).await.refused(400, "M_INVALID_PARAM");
        let body = json!({ "one_time_keys": one_time(&["A"]) });
        for _ in 0..2 {
            assert_eq!(upload(&alice, body.clone()).await["one_time_key_counts"][ALGORITHM], 1);
        }
        let other = json!({ "one_time_keys": { format!("{ALGORITHM}:A"): { "key": "another" } } });
        alice.post("keys/upload", other).await.refused(400, "M_UNKNOWN");
        alice.post("keys/upload", json!({ "device_keys": [] })).await.refused(400, "M_BAD_JSON");
        let path = format!("/_matrix/client/r0/keys/upload/{}", alice.device_id);
        alice.post(&path, json!({})).await.ok();
        alice.post("/_matrix/client/r0/keys/upload/OTHER", json!({})).await.refused(403, "M_FORBIDDEN");
    }

    async fn device_keys_are_found_with_the_devices_name(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        upload(&alice, json!({ "device_keys": identity(&alice) })).await;
        let rename = json!({ "display_name": "Alice's phone" });
        alice.put(&format!("devices/{}", alice.device_id), rename).await.ok();
        let found = query(&bob, &alice).await;
        let device = &found["device_keys"][&alice.user_id][&alice.device_id];
        assert_eq!(device["keys"], identity(&alice)["keys"]);
        assert_eq!(device["unsigned"]["device_display_name"], "Alice's phone");

        let body = json!({ "device_keys": { &alice.user_id: ["ELSEWHERE"], "@x:elsewhere.test": [] } });
        let found = bob.post("keys/query", body).await.ok();
        assert_eq!(found["device_keys"][&alice.user_id], json!({}));
        assert!(found["failures"]["elsewhere.test"].is_object(), "{found}");
    }

    async fn changes_reach_those_who_share_a_room(server) {
        let (alice, bob) = friends(server).await;
        let carol = server.register("carol").await;
        let before = text(&bob.sync(None, 0, None).await, "next_batch");
        let unconcerned = text(&carol.sync(None, 0, None).await, "next_batch");
        upload(&alice, json!({ "device_keys": identity(&alice) })).await;
        let sync = bob.sync_until(Some(&before), |sync| !changed(sync).is_empty()).await;
        assert_eq!(changed(&sync), [&alice.user_id]);
        let after = text(&sync, "next_batch");

        upload(&alice, json!({ "device_keys": identity(&alice) })).await;
        let sync = bob.sync(Some(&after), 0, None).await;
        assert!(changed(&sync).is_empty(), "the same keys are no news: {sync}");
        assert!(changed(&carol.sync(Some(&unconcerned), 0, None).await).is_empty());

        let path = format!("keys/changes?from={}&to={}", encode(&before), encode(&after));
        let changes = bob.get(&path).await.ok();
        assert_eq!(changes, json!({ "changed": [alice.user_id], "left": [] }));
        let path = format!("keys/changes?from={}&to={}", encode(&after), encode(&after));
        assert_eq!(bob.get(&path).await.ok(), json!({ "changed": [], "left": [] }));
        bob.get("keys/changes?from=x&to=y").await.refused(400, "M_INVALID_PARAM");
    }

    async fn changes_tell_who_came_and_left(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let start = text(&alice.sync(None, 0, None).await, "next_batch");
        bob.join(&room).await;
        let joined = text(&alice.sync(None, 0, None).await, "next_batch");
        bob.leave(&room).await;
        let left = text(&alice.sync(None, 0, None).await, "next_batch");
        let changes = async |from: &str, to: &str| {
            alice.get(&format!("keys/changes?from={from}&to={to}")).await.ok()
        };
        assert_eq!(changes(&joined, &left).await["left"], json!([bob.user_id]));
        bob.join(&room).await;
        let again = text(&alice.sync(None, 0, None).await, "next_batch");
        assert_eq!(changes(&left, &again).await["changed"], json!([bob.user_id]));
        assert_eq!(changes(&start, &again).await["left"], json!([]));
    }

    async fn messages_to_devices_are_delivered_once(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let second = User::login(&server.client, "bob").await;
        let start = text(&bob.sync(None, 0, None).await, "next_batch");
        let second_start = text(&second.sync(None, 0, None).await, "next_batch");
        for _ in 0..2 {
            send(&alice, "t1", &bob, &bob.device_id, json!({ "n": 1 })).await;
        }
        let sync = bob.sync_until(Some(&start), |sync| !inbox(sync).is_empty()).await;
        let expected = json!({ "sender": alice.user_id, "type": "m.test", "content": { "n": 1 } });
        assert_eq!(inbox(&sync), [&expected], "a repeated transaction has no effect");
        let again = bob.sync(Some(&start), 0, None).await;
        assert_eq!(inbox(&again), [&expected], "the device may not have got the first answer");
        let next = text(&again, "next_batch");
        assert!(inbox(&bob.sync(Some(&next), 0, None).await).is_empty());
        assert!(inbox(&second.sync(Some(&second_start), 0, None).await).is_empty());

        send(&alice, "t2", &bob, "*", json!({ "n": 2 })).await;
        send(&alice, "t2", &alice, "NOWHERE", json!({})).await;
        for (device, since) in [(&bob, &next), (&second, &second_start)] {
            let sync = device.sync_until(Some(since), |sync| !inbox(sync).is_empty()).await;
            assert_eq!(inbox(&sync)[0]["content"]["n"], 2);
            assert_eq!(inbox(&sync).len(), 1);
        }
    }

    async fn received_messages_are_gone_even_from_a_first_sync(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        send(&alice, "t1", &bob, &bob.device_id, json!({ "n": 1 })).await;
        let sync = bob.sync(None, 0, None).await;
        assert_eq!(inbox(&sync).len(), 1);
        bob.sync(Some(&text(&sync, "next_batch")), 0, None).await;
        // The deletion is not waited for.
        for _ in 0..100 {
            if inbox(&bob.sync(None, 0, None).await).is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the message stays");
    }

    async fn a_full_inbox_comes_in_pages(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let mut since = text(&bob.sync(None, 0, None).await, "next_batch");
        for n in 0..150 {
            send(&alice, &format!("t{n}"), &bob, &bob.device_id, json!({ "n": n })).await;
        }
        let mut got = Vec::new();
        while got.len() < 150 {
            let sync = bob.sync(Some(&since), 5_000, None).await;
            assert!(!inbox(&sync).is_empty(), "{} came", got.len());
            got.extend(inbox(&sync).iter().filter_map(|event| event["content"]["n"].as_u64()));
            since = text(&sync, "next_batch");
        }
        assert_eq!(got, (0..150).collect::<Vec<u64>>());
    }

    async fn contents_are_objects(server) {
        let alice = server.register("alice").await;
        let body = json!({ "messages": { &alice.user_id: { "*": "text" } } });
        alice.put("sendToDevice/m.test/t", body).await.refused(400, "M_BAD_JSON");
        alice.put("sendToDevice/m.test/t", json!({})).await.refused(400, "M_MISSING_PARAM");
    }

    async fn cross_signing_keys_need_a_proof_the_second_time(server) {
        let (alice, bob) = friends(server).await;
        let upload = |keys: Value| {
            let alice = alice.clone();
            async move { alice.post("keys/device_signing/upload", keys).await }
        };
        let key = |usage: &str, public: &str| json!({
            "user_id": alice.user_id,
            "usage": [usage],
            "keys": { format!("ed25519:{public}"): public },
        });
        let own = json!({ "self_signing_key": key("self_signing", MASTER_2) });
        upload(own).await.refused(400, "M_MISSING_PARAM");
        let unsigned = json!({ "master_key": key("master", MASTER_1), "self_signing_key": key("self_signing", MASTER_2) });
        upload(unsigned).await.refused(400, "M_INVALID_SIGNATURE");

        let since = text(&bob.sync(None, 0, None).await, "next_batch");
        let first = json!({ "master_key": key("master", MASTER_1) });
        for _ in 0..2 {
            upload(first.clone()).await.ok();
        }
        let sync = bob.sync_until(Some(&since), |sync| !changed(sync).is_empty()).await;
        assert_eq!(changed(&sync), [&alice.user_id]);
        let found = query(&bob, &alice).await;
        assert_eq!(found["master_keys"][&alice.user_id]["keys"], first["master_key"]["keys"]);

        let mut second = json!({ "master_key": key("master", MASTER_2) });
        let (status, challenge) = upload(second.clone()).await;
        assert_eq!((status, &challenge["flows"][0]["stages"][0]), (401, &json!("m.login.password")), "{challenge}");
        second["auth"] = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": PASSWORD,
            "session": challenge["session"],
        });
        upload(second.clone()).await.ok();
        let found = query(&bob, &alice).await;
        assert_eq!(found["master_keys"][&alice.user_id]["keys"], second["master_key"]["keys"]);

        let signed = json!({ &alice.user_id: { "NODEVICE": { "user_id": alice.user_id } } });
        let answer = alice.post("keys/signatures/upload", signed).await.ok();
        assert_eq!(answer["failures"][&alice.user_id]["NODEVICE"]["errcode"], "M_NOT_FOUND", "{answer}");
    }
}

both_databases! {
    async fn a_dehydrated_device_receives_messages_until_it_is_deleted(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let at = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";
        alice.get(at).await.refused(404, "M_NOT_FOUND");
        let dry = another(&alice, "DRY");
        let mut body = json!({
            "device_id": "DRY",
            "device_data": { "algorithm": "x" },
            "device_keys": identity(&dry),
            "one_time_keys": one_time(&["A"]),
        });
        for device in [&alice.device_id, "DRY"] {
            body["device_keys"] = identity(&another(&alice, device));
            body["device_id"] = json!(device);
            let answer = alice.put(at, body.clone()).await;
            if device == "DRY" {
                assert_eq!(answer.ok(), json!({ "device_id": "DRY" }));
            } else {
                answer.refused(400, "M_INVALID_PARAM");
            }
        }
        let found = alice.get(at).await.ok();
        assert_eq!(found, json!({ "device_id": "DRY", "device_data": { "algorithm": "x" } }));
        assert!(query(&bob, &alice).await["device_keys"][&alice.user_id]["DRY"].is_object());
        assert_eq!(claim(&bob, &dry).await, Some(format!("{ALGORITHM}:A")));

        send(&bob, "t1", &alice, "DRY", json!({ "n": 1 })).await;
        let page = alice.post(&format!("{at}/DRY/events"), json!({})).await.ok();
        assert_eq!(page["events"][0]["content"]["n"], 1);
        let next = json!({ "next_batch": page["next_batch"] });
        let page = alice.post(&format!("{at}/DRY/events"), next).await.ok();
        assert_eq!(page["events"], json!([]));
        alice.post(&format!("{at}/OTHER/events"), json!({})).await.refused(403, "M_FORBIDDEN");

        let newer = another(&alice, "NEWER");
        body["device_id"] = json!("NEWER");
        body["device_keys"] = identity(&newer);
        alice.put(at, body).await.ok();
        let devices = query(&bob, &alice).await["device_keys"][&alice.user_id].clone();
        assert!(devices["DRY"].is_null() && devices["NEWER"].is_object(), "{devices}");
        assert_eq!(alice.delete(at, None).await.ok(), json!({ "device_id": "NEWER" }));
        alice.get(at).await.refused(404, "M_NOT_FOUND");
    }
}

/// Any 32 bytes.
const MASTER_1: &str = "lEuiRJBit0IG6nUf5pUzWTUEsRVVe/HJkoKuEww9ULI";
const MASTER_2: &str = "3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI";
