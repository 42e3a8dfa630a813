//! Events that are sent later (MSC4140).

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{
    client::{AnswerExt, PASSWORD, User, encode, text},
    server::TestServer,
};

const ALL: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
/// How long the server may take for what was due long ago.
const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: u64 = 3_600_000;

fn one(delay_id: &str) -> String {
    format!("{ALL}/{delay_id}")
}

/// In today's form; `body` without the delay.
async fn schedule(user: &User, room: &str, kind: &str, delay_ms: u64, mut body: Value) -> String {
    let (room, txn) = (encode(room), user.next_txn_id());
    let path = format!("/_matrix/client/unstable/org.matrix.msc4140/rooms/{room}/delayed_event/{kind}/{txn}");
    body["delay_ms"] = json!(delay_ms);
    text(&user.put(&path, body).await.ok(), "delay_id")
}

/// What is told of an event once it is over.
async fn over(user: &User, delay_id: &str) -> Value {
    let poll = async {
        loop {
            let told = user.get(&one(delay_id)).await.ok();
            if !told["finalised_ts"].is_null() {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll)
        .await
        .expect("it is over some time")
}

async fn act(server: &TestServer, delay_id: &str, action: &str) -> (u16, Value) {
    server
        .client
        .post(&format!("{}/{action}", one(delay_id)), json!({}))
        .await
}

async fn texts(user: &User, room: &str) -> Vec<String> {
    let path = format!("rooms/{}/messages?dir=f&limit=100", encode(room));
    let chunk = user.get(&path).await.ok()["chunk"].clone();
    let events = chunk.as_array().expect("a list").iter();
    let texts = events.filter(|event| event["type"] == "m.room.message");
    texts.map(|event| text(&event["content"], "body")).collect()
}

fn message(body: &str) -> Value {
    json!({ "content": { "msgtype": "m.text", "body": body } })
}

both_databases! {
    async fn a_message_is_sent_when_its_time_has_come(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let id = schedule(&alice, &room, "m.room.message", 300, message("later")).await;
        bob.get(&one(&id)).await.refused(404, "M_NOT_FOUND");
        let told = over(&alice, &id).await;
        let event_id = text(&told, "event_id");
        assert_eq!((&told["delay_ms"], &told["content"]["body"]), (&json!(300), &json!("later")));
        let waited = told["finalised_ts"].as_i64().expect("a time") - told["scheduled_at"].as_i64().expect("a time");
        assert!(waited >= 300, "it was sent after {waited} ms");

        let path = format!("rooms/{}/event/{event_id}", encode(&room));
        let own = alice.get(&path).await.ok();
        assert_eq!(own["unsigned"]["org.matrix.msc4140.delay_id"], json!(id));
        assert_eq!(own["unsigned"]["transaction_id"], Value::Null);
        assert_eq!(bob.get(&path).await.ok()["unsigned"]["org.matrix.msc4140.delay_id"], Value::Null);
        assert_eq!(texts(&bob, &room).await, ["later"]);
        assert_eq!(alice.get(ALL).await.ok(), json!({ "delayed_events": [] }));
        let ended = alice.get(&format!("{ALL}?status=finalised")).await.ok();
        assert_eq!(ended["delayed_events"][0]["delay_id"], json!(id));
    }

    async fn whoever_knows_its_id_can_hold_send_and_cancel_it(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let hang_up = json!({ "content": { "left": true }, "state_key": "call" });
        let id = schedule(&alice, &room, "org.example.call", HOUR, hang_up).await;
        let before = alice.get(&one(&id)).await.ok();
        assert_eq!(alice.get(ALL).await.ok()["delayed_events"], json!([before]));
        tokio::time::sleep(Duration::from_millis(5)).await;
        act(server, &id, "restart").await.ok();
        let after = alice.get(&one(&id)).await.ok();
        assert!(after["scheduled_at"].as_i64() > before["scheduled_at"].as_i64(), "{after}");
        server.client.post(&one(&id), json!({ "action": "send" })).await.ok();
        let state = format!("rooms/{}/state/org.example.call/call", encode(&room));
        assert_eq!(alice.get(&state).await.ok(), json!({ "left": true }));
        act(server, &id, "send").await.ok();
        act(server, &id, "cancel").await.refused(409, "M_UNKNOWN");
        act(server, &id, "restart").await.refused(409, "M_UNKNOWN");

        let id = schedule(&alice, &room, "m.room.message", HOUR, message("never")).await;
        act(server, &id, "cancel").await.ok();
        act(server, &id, "cancel").await.ok();
        act(server, &id, "send").await.refused(409, "M_UNKNOWN");
        assert_eq!(alice.get(&one(&id)).await.ok()["event_id"], Value::Null);
        assert_eq!(texts(&alice, &room).await, Vec::<String>::new());
        act(server, "unknown", "send").await.refused(404, "M_NOT_FOUND");
        act(server, &id, "hold").await.refused(404, "M_UNRECOGNIZED");
        server.client.post(&one(&id), json!({ "action": "hold" })).await.refused(400, "M_INVALID_PARAM");
    }

    async fn sending_and_setting_take_a_delay_as_well(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let room_path = encode(&room);
        let send = format!("rooms/{room_path}/send/m.room.message/t1?org.matrix.msc4140.delay=100");
        let content = json!({ "msgtype": "m.text", "body": "old" });
        let first = alice.put(&send, content.clone()).await.ok();
        assert_eq!(alice.put(&send, content.clone()).await.ok(), first, "the same transaction");
        let sent = over(&alice, &text(&first, "delay_id")).await;
        assert!(sent["event_id"].is_string(), "{sent}");
        let set = format!("rooms/{room_path}/state/org.example.call/k?org.matrix.msc4140.delay=100");
        let set = text(&alice.put(&set, json!({ "a": 1 })).await.ok(), "delay_id");
        over(&alice, &set).await;
        let state = format!("rooms/{room_path}/state/org.example.call/k");
        assert_eq!(alice.get(&state).await.ok(), json!({ "a": 1 }));
        assert_eq!(texts(&alice, &room).await, ["old"]);
        let wrong = format!("rooms/{room_path}/send/m.room.message/t2?org.matrix.msc4140.delay=soon");
        alice.put(&wrong, content).await.refused(400, "M_INVALID_PARAM");
    }

    async fn what_may_not_be_sent_any_more_is_told(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let early = schedule(&bob, &room, "m.room.message", HOUR, message("now")).await;
        let late = schedule(&bob, &room, "m.room.message", 400, message("then")).await;
        bob.leave(&room).await;
        act(server, &early, "send").await.refused(403, "M_FORBIDDEN");
        let still = bob.get(&one(&early)).await.ok();
        assert_eq!(still["finalised_ts"], Value::Null, "it may succeed later: {still}");
        let failed = over(&bob, &late).await;
        assert_eq!(failed["error"]["errcode"], "M_FORBIDDEN");
        assert_eq!(failed["event_id"], Value::Null);
        act(server, &late, "cancel").await.ok();
    }

    async fn nothing_is_sent_for_those_who_are_locked_out(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let made = server.run_command(&["register-user", "--user", "root", "--password", PASSWORD, "--admin"]);
        assert!(made.status.success());
        let root = User::login(&server.client, "root").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let id = schedule(&bob, &room, "m.room.message", 500, message("locked")).await;
        let path = format!("/_synapse/admin/v2/users/{}", encode(&bob.user_id));
        root.put(&path, json!({ "locked": true })).await.ok();
        // Those of one room are sent in their order.
        let after = schedule(&alice, &room, "m.room.message", 600, message("after")).await;
        over(&alice, &after).await;
        root.put(&path, json!({ "locked": false })).await.ok();
        assert_eq!(over(&bob, &id).await["error"]["errcode"], "M_USER_LOCKED");
        assert_eq!(texts(&alice, &room).await, ["after"]);
    }

    config |table| {
        table.insert("delayed_events".into(), toml::toml! { max_delay_secs = 60
        max_scheduled_per_user = 1 }.into());
    }
    async fn there_are_limits_and_clients_are_told(server) {
        let alice = server.register("alice").await;
        let room = encode(&alice.create_room(json!({})).await);
        let capability = alice.get("capabilities").await.ok()["capabilities"]["org.matrix.msc4140.delayed_events"].clone();
        assert_eq!(capability, json!({ "max_delay_ms": 60_000, "max_scheduled": 1 }));
        let new = format!("/_matrix/client/unstable/org.matrix.msc4140/rooms/{room}/delayed_event/t");
        let body = |delay: i64| json!({ "delay_ms": delay, "content": {} });
        alice.put(&format!("{new}/1"), body(60_001)).await.refused(403, "M_FORBIDDEN");
        alice.put(&format!("{new}/1"), body(0)).await.refused(400, "M_INVALID_PARAM");
        alice.put(&format!("{new}/1"), json!({ "delay_ms": 5 })).await.refused(400, "M_MISSING_PARAM");
        let old = format!("rooms/{room}/send/t/1?org.matrix.msc4140.delay=60001");
        let refusal = alice.put(&old, json!({})).await.refused(400, "M_UNKNOWN");
        assert_eq!(refusal["org.matrix.msc4140.errcode"], "M_MAX_DELAY_EXCEEDED");
        assert_eq!(refusal["org.matrix.msc4140.max_delay"], 60_000);
        let id = text(&alice.put(&format!("{new}/1"), body(60_000)).await.ok(), "delay_id");
        let refusal = alice.put(&format!("{new}/2"), body(50_000)).await.refused(429, "M_LIMIT_EXCEEDED");
        assert!(refusal["retry_after_ms"].as_i64().is_some_and(|ms| ms > 0), "{refusal}");
        act(server, &id, "cancel").await.ok();
        alice.put(&format!("{new}/2"), body(50_000)).await.ok();
    }

    config |table| {
        table.insert("delayed_events".into(), toml::toml! { max_scheduled_per_user = 0 }.into());
    }
    async fn an_operator_may_want_none(server) {
        let alice = server.register("alice").await;
        let room = encode(&alice.create_room(json!({})).await);
        let path = format!("rooms/{room}/send/t/1?org.matrix.msc4140.delay=5");
        alice.put(&path, json!({})).await.refused(403, "M_FORBIDDEN");
        let versions = server.client.get("/_matrix/client/versions").await.ok();
        assert_eq!(versions["unstable_features"]["org.matrix.msc4140"], json!(false));
    }

    /// Dies between the commit of the event and the note that it was sent, and while others are waiting.
    async fn each_is_sent_once_whatever_happens(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let first = schedule(&alice, &room, "m.room.message", 4_000, message("first")).await;
        let second = schedule(&alice, &room, "m.room.message", 4_001, message("second")).await;
        server.kill();
        server.restart_with(&[("SYNAPSE_RUST_FAILPOINT", "delayed.sent:1")]).await;
        assert!(server.ended(PATIENCE).await, "the point was not reached");
        server.restart().await;
        for id in [&first, &second] {
            let told = over(&alice, id).await;
            assert!(told["event_id"].is_string(), "{told}");
        }
        assert_eq!(texts(&alice, &room).await, ["first", "second"]);
        act(server, &first, "cancel").await.refused(409, "M_UNKNOWN");
    }
}
