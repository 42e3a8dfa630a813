//! Sections 7 and 11: end-to-end keys, to-device messages, and the backup of room keys.

use serde_json::{Value, json};

use super::world::World;
use crate::common::client::{User, text};

pub async fn walk(world: &mut World) {
    devices(world).await;
    backup(world).await;
}

async fn devices(world: &mut World) {
    let since = text(&world.section("3.7.1").query("timeout=0").done().await, "next_batch");
    let bob = world.bob().clone();
    let example = world.section("7.1").example();
    // The example has one key of one algorithm; the answer counts two.
    let mut keys = example["one_time_keys"].clone();
    keys["signed_curve25519:ABCDEF"] = json!({ "key": "base64_key", "signatures": {} });
    let counts = world.section("7.1").field("one_time_keys", keys.clone()).done().await;
    assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], 1);
    let of_bob = json!({ "device_keys": device_keys(&example["device_keys"], &bob), "one_time_keys": keys });
    world.section("7.1").by(&bob).body(of_bob).done().await;

    world.section("7.2").done().await;
    world.name("DEVICEID", &bob.device_id);
    let claimed = world.section("7.3").done().await;
    assert!(claimed["one_time_keys"][&bob.user_id][&bob.device_id]["signed_curve25519:ABCDEF"].is_object());
    let to = text(&world.section("3.7.1").query("timeout=0").done().await, "next_batch");
    let changes = world
        .section("7.4")
        .query(&format!("from={since}&to={to}"))
        .done()
        .await;
    assert!(
        changes["changed"]
            .as_array()
            .is_some_and(|all| all.contains(&Value::from(bob.user_id.clone())))
    );
    let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let alice = world.alice().clone();
    let room = alice.create_room(json!({ "initial_state": [encryption] })).await;
    let expected = json!({ "room_id": "!", "algorithm": "", "session_id": null, "session_key": null });
    let distribution = world.section("7.5").with("room_id", &room).like(expected).done().await;
    assert_eq!(distribution["session_key"], Value::Null, "the server must not know it");
    let path = [("event_type", "m.room_key"), ("transaction_id", "1")];
    world.section("7.6").with_all(&path).done().await;
    let got = bob
        .sync_until(None, |sync| sync["to_device"]["events"][0]["type"] == "m.room_key")
        .await;
    assert_eq!(got["to_device"]["events"][0]["sender"], world.alice().user_id);
}

/// The example's device, as that of another user.
fn device_keys(example: &Value, user: &User) -> Value {
    let text = example.to_string();
    let device = example["device_id"].as_str().expect("a device has an id");
    let owner = example["user_id"].as_str().expect("a device has an owner");
    let text = text.replace(owner, &user.user_id).replace(device, &user.device_id);
    serde_json::from_str(&text).expect("still JSON")
}

async fn backup(world: &mut World) {
    let none = world.section("11.1").like(json!({ "versions": [] })).done().await;
    assert_eq!(none["versions"], json!([]));
    let version = text(&world.section("11.2").done().await, "version");
    world.name("version", &version);
    world.section("11.1").done().await;
    world.section("11.3").done().await;
    world.section("11.4").done().await;
    world
        .section("11.3")
        .with("version", "999")
        .refused(404, "M_NOT_FOUND")
        .await;
    let session = json!({ "first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": {} });
    let mut first = session.clone();
    first["session_id"] = json!("session_id");
    let put = world.section("11.7").field("sessions", json!([first]));
    put.done().await;
    // The example leaves out what a session has by default.
    world.section("11.8").done().await;
    let kept = world.section("11.6").done().await;
    let room = world.names["room_id"].clone();
    assert_eq!(
        kept["rooms"][&room]["sessions"].as_object().map(serde_json::Map::len),
        Some(2)
    );
    world.section("11.9").done().await;
    world.section("11.10").with("session_id", "session_id_1").done().await;
    world
        .section("11.10")
        .with("session_id", "none")
        .refused(404, "M_NOT_FOUND")
        .await;
    let path = "/_matrix/client/r0/room_keys/recover";
    let recover = world.counted(
        "POST",
        path,
        "the keys of a version, of all or of the named rooms, as the backup has them",
    );
    let expected =
        json!({ "rooms": { "!": { "sessions": { "session_id": session } } }, "total_keys": 2, "recovered_keys": 2 });
    recover.body(json!({ "version": version })).like(expected).done().await;
    world.section("11.5").done().await;
    world.section("11.3").refused(404, "M_NOT_FOUND").await;
}
