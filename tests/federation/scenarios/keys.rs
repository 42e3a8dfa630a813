//! End-to-end encryption: device lists, keys, messages to devices, cross-signing.

use serde_json::{Value, json};

use super::{
    Feed, eventually, has_membership, shared_room,
    signing::{ALGORITHM, Key, device_keys, one_time_keys},
    strings,
};
use crate::common::{
    client::{AnswerExt, PASSWORD, User},
    homeserver::Town,
};

pub async fn upload(user: &User, body: Value) -> Value {
    user.post("keys/upload", body).await.ok()
}

/// An error if the server could not answer for itself or the other one.
async fn query(by: &User, of: &User) -> Result<Value, String> {
    let body = json!({ "device_keys": { &of.user_id: [] } });
    let answer = by.post("keys/query", body).await.ok();
    let failed = answer["failures"]
        .as_object()
        .is_some_and(|failures| !failures.is_empty());
    if failed { Err(answer.to_string()) } else { Ok(answer) }
}

/// Waits until the user's server gives exactly these devices of another user.
pub async fn has_devices(by: &User, of: &User, devices: &[&User]) {
    let mut expected: Vec<_> = devices.iter().map(|device| device.device_id.as_str()).collect();
    expected.sort_unstable();
    eventually(&format!("the devices {expected:?}"), async || {
        let answer = query(by, of).await?;
        let found = answer["device_keys"][&of.user_id].as_object();
        let mut found: Vec<_> = found.into_iter().flatten().map(|(id, _)| id.as_str()).collect();
        found.sort_unstable();
        if found == expected {
            Ok(())
        } else {
            Err(answer.to_string())
        }
    })
    .await;
}

pub fn has_changed(sync: &Value, user: &User) -> Option<()> {
    strings(&sync["device_lists"]["changed"])
        .contains(&user.user_id.as_str())
        .then_some(())
}

pub fn localpart(user: &User) -> &str {
    user.user_id
        .trim_start_matches('@')
        .split(':')
        .next()
        .unwrap_or_default()
}

pub async fn device_lists(town: &Town) {
    let (alice, bob) = town.people().await;
    // Whom nobody shares a room with can be asked for as well.
    upload(&bob, json!({ "device_keys": device_keys(&bob) })).await;
    has_devices(&alice, &bob, &[&bob]).await;
    let found = query(&alice, &bob).await.expect("it was answered before");
    let keys = &found["device_keys"][&bob.user_id][&bob.device_id];
    assert_eq!(keys["keys"], device_keys(&bob)["keys"]);
    assert_eq!(keys["signatures"], device_keys(&bob)["signatures"]);

    let (alice, bob, room) = shared_room(town).await;
    let mut feed = Feed::open(&alice).await;
    upload(&bob, json!({ "device_keys": device_keys(&bob) })).await;
    feed.until("the first device", |sync| has_changed(sync, &bob)).await;
    has_devices(&alice, &bob, &[&bob]).await;

    let mut feed = Feed::open(&alice).await;
    let second = User::login(town.there.client(), localpart(&bob)).await;
    upload(&second, json!({ "device_keys": device_keys(&second) })).await;
    feed.until("the second device", |sync| has_changed(sync, &bob)).await;
    has_devices(&alice, &bob, &[&bob, &second]).await;

    let mut feed = Feed::open(&alice).await;
    second.post("logout", json!({})).await.ok();
    feed.until("the end of the second device", |sync| has_changed(sync, &bob))
        .await;
    has_devices(&alice, &bob, &[&bob]).await;

    let mut feed = Feed::open(&alice).await;
    bob.leave(&room).await;
    has_membership(&alice, &room, &bob, "leave").await;
    feed.until("that the keys are no longer watched", |sync| {
        strings(&sync["device_lists"]["left"])
            .contains(&bob.user_id.as_str())
            .then_some(())
    })
    .await;
}

/// The name of the key that `by` gets of `from`'s device.
async fn claim(by: &User, from: &User) -> String {
    let body = json!({ "one_time_keys": { &from.user_id: { &from.device_id: ALGORITHM } } });
    let answer = by.post("keys/claim", body).await.ok();
    let keys = answer["one_time_keys"][&from.user_id][&from.device_id].as_object();
    let key = keys.and_then(|keys| keys.iter().next());
    let (name, key) = key.unwrap_or_else(|| panic!("no key: {answer}"));
    assert!(key["signatures"][&from.user_id].is_object(), "{key}");
    name.clone()
}

pub async fn claims(town: &Town) {
    let (alice, bob, _) = shared_room(town).await;
    let body = json!({
        "device_keys": device_keys(&bob),
        "one_time_keys": one_time_keys(&bob, &["A", "B"], false),
        "fallback_keys": one_time_keys(&bob, &["F"], true),
    });
    upload(&bob, body).await;
    let mut feed = Feed::open(&bob).await;
    let mut claimed = [claim(&alice, &bob).await, claim(&alice, &bob).await];
    claimed.sort();
    assert_eq!(claimed, ["A", "B"].map(|name| format!("{ALGORITHM}:{name}")));
    feed.until("that the keys are used up", |sync| {
        let count = sync["device_one_time_keys_count"].get(ALGORITHM);
        count.is_none_or(|count| *count == 0).then_some(())
    })
    .await;
    for _ in 0..2 {
        assert_eq!(
            claim(&alice, &bob).await,
            format!("{ALGORITHM}:F"),
            "the last one is given again and again"
        );
    }
    // Nobody's key is no failure of the server that was asked.
    let body = json!({ "one_time_keys": { &bob.user_id: { "NOWHERE": ALGORITHM } } });
    let answer = alice.post("keys/claim", body).await.ok();
    assert!(answer["one_time_keys"][&bob.user_id]["NOWHERE"].is_null(), "{answer}");
}

/// A message to a device with a number in it.
pub async fn send(from: &User, to: &User, device: &str, number: u32) {
    let path = format!("sendToDevice/org.example.note/{}", from.next_txn_id());
    let body = json!({ "messages": { &to.user_id: { device: { "number": number } } } });
    from.put(&path, body).await.ok();
}

/// The numbers of the messages that come until one has `last`, in order.
pub async fn numbers(feed: &mut Feed, from: &User, last: u32) -> Vec<u64> {
    let mut numbers = Vec::new();
    feed.until("the last message", |sync| {
        for event in sync["to_device"]["events"].as_array().into_iter().flatten() {
            if event["type"] == "org.example.note" {
                assert_eq!(event["sender"], from.user_id.as_str(), "{event}");
                numbers.extend(event["content"]["number"].as_u64());
            }
        }
        numbers.contains(&u64::from(last)).then_some(())
    })
    .await;
    numbers
}

pub async fn to_device(town: &Town) {
    let (alice, bob) = town.people().await;
    let second = User::login(town.there.client(), localpart(&bob)).await;
    for user in [&alice, &bob, &second] {
        upload(user, json!({ "device_keys": device_keys(user) })).await;
    }
    // Before the devices are known, and without a room in common.
    let mut feeds = [
        Feed::open(&bob).await,
        Feed::open(&second).await,
        Feed::open(&alice).await,
    ];
    let [first, other, back] = &mut feeds;
    for number in 0..5 {
        send(&alice, &bob, &bob.device_id, number).await;
    }
    send(&alice, &bob, "NOWHERE", 5).await;
    send(&alice, &bob, "*", 6).await;
    assert_eq!(numbers(first, &alice, 6).await, [0, 1, 2, 3, 4, 6]);
    assert_eq!(numbers(other, &alice, 6).await, [6]);
    for number in 0..3 {
        send(&bob, &alice, &alice.device_id, number).await;
    }
    assert_eq!(numbers(back, &bob, 2).await, [0, 1, 2]);
}

/// A cross-signing key with its usage.
fn public(user: &User, key: &Key, usage: &str) -> Value {
    json!({ "user_id": user.user_id, "usage": [usage], "keys": { key.id(): key.public() } })
}

/// Uploads cross-signing keys; proves the password if asked to.
async fn publish(user: &User, mut keys: Value) {
    let path = "keys/device_signing/upload";
    let (status, answer) = user.post(path, keys.clone()).await;
    if status == 401 {
        keys["auth"] = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user.user_id },
            "password": PASSWORD,
            "session": answer["session"],
        });
        user.post(path, keys).await.ok();
    } else {
        assert_eq!(status, 200, "{answer}");
    }
}

pub async fn cross_signing(town: &Town) {
    let (alice, bob, _) = shared_room(town).await;
    upload(&bob, json!({ "device_keys": device_keys(&bob) })).await;
    has_devices(&alice, &bob, &[&bob]).await;
    let mut feed = Feed::open(&alice).await;
    let [master, own, others] =
        ["master", "self", "user"].map(|name| Key::new(None, &format!("{} {name}", bob.user_id)));
    let mut keys = json!({
        "master_key": public(&bob, &master, "master"),
        "self_signing_key": public(&bob, &own, "self_signing"),
        "user_signing_key": public(&bob, &others, "user_signing"),
    });
    for name in ["self_signing_key", "user_signing_key"] {
        master.sign(&bob.user_id, &mut keys[name]);
    }
    publish(&bob, keys.clone()).await;
    feed.until("the new identity", |sync| has_changed(sync, &bob)).await;
    eventually("the cross-signing keys", async || {
        let answer = query(&alice, &bob).await?;
        let found = [
            &answer["master_keys"][&bob.user_id]["keys"],
            &answer["self_signing_keys"][&bob.user_id]["keys"],
        ];
        let right = found == [&keys["master_key"]["keys"], &keys["self_signing_key"]["keys"]];
        assert!(
            answer["user_signing_keys"].get(&bob.user_id).is_none(),
            "that key is bob's alone: {answer}"
        );
        if right { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;

    let mut feed = Feed::open(&alice).await;
    let mut device = device_keys(&bob);
    own.sign(&bob.user_id, &mut device);
    let body = json!({ &bob.user_id: { &bob.device_id: device } });
    let answer = bob.post("keys/signatures/upload", body).await.ok();
    assert_eq!(answer["failures"], json!({}), "{answer}");
    feed.until("the device's new signature", |sync| has_changed(sync, &bob))
        .await;
    eventually("the device signed by its owner", async || {
        let answer = query(&alice, &bob).await?;
        let signatures = &answer["device_keys"][&bob.user_id][&bob.device_id]["signatures"][&bob.user_id];
        let signed = signatures.get(own.id()).is_some();
        if signed { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
}
