//! Making and replacing rooms, state that repeats itself, and requests that make no sense.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, User, encode, text};

async fn state(user: &User, room: &str, kind: &str) -> Value {
    user.get(&format!("rooms/{}/state/{kind}", encode(room))).await.ok()
}

both_databases! {
    async fn the_same_state_is_the_same_event(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let topic = json!({ "topic": "Cats" });
        let first = alice.set_state(&room, "m.room.topic", "", topic.clone()).await;
        assert_eq!(alice.set_state(&room, "m.room.topic", "", topic).await, first);
        assert_ne!(alice.set_state(&room, "m.room.topic", "", json!({ "topic": "Dogs" })).await, first);
        let path = format!("rooms/{}/state/m.room.topic?format=event", encode(&room));
        let event = alice.get(&path).await.ok();
        assert_eq!(event["unsigned"]["prev_content"], json!({ "topic": "Cats" }), "{event}");
        alice.get(&format!("{}x", path)).await.refused(400, "M_INVALID_PARAM");
    }

    async fn rooms_are_made_as_wished(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        for version in ["1", "6", "10", "11", "12"] {
            let room = alice.create_room(json!({
                "preset": "trusted_private_chat",
                "room_version": version,
                "name": "N",
                "topic": "T",
                "invite": [bob.user_id],
                "is_direct": true,
                "initial_state": [{ "type": "org.example.x", "state_key": "k", "content": { "a": 1 } }],
                "power_level_content_override": { "events_default": 7 },
            })).await;
            assert_eq!(state(&alice, &room, "m.room.name").await["name"], "N", "version {version}");
            assert_eq!(state(&alice, &room, "org.example.x/k").await["a"], 1);
            assert_eq!(state(&alice, &room, "m.room.power_levels").await["events_default"], 7);
            assert_eq!(state(&alice, &room, "m.room.create").await["room_version"], version);
            bob.join(&room).await;
            let event_id = alice.send_text(&room, "hi").await;
            let path = format!("rooms/{}/event/{}", encode(&room), encode(&event_id));
            assert_eq!(bob.get(&path).await.ok()["content"]["body"], "hi");
        }
        alice.post("createRoom", json!({ "room_version": "99" })).await.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    }

    async fn upgraded_rooms_point_at_each_other(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let options = json!({ "preset": "public_chat", "room_version": "10", "name": "Old", "room_alias_name": "home" });
        let old = alice.create_room(options).await;
        bob.join(&old).await;
        let path = format!("rooms/{}/upgrade", encode(&old));
        bob.post(&path, json!({ "new_version": "11" })).await.refused(403, "M_FORBIDDEN");
        alice.post(&path, json!({ "new_version": "nope" })).await.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
        let new = text(&alice.post(&path, json!({ "new_version": "12" })).await.ok(), "replacement_room");
        assert_eq!(state(&alice, &old, "m.room.tombstone").await["replacement_room"], new.as_str());
        let create = state(&alice, &new, "m.room.create").await;
        assert_eq!(create["predecessor"]["room_id"], old.as_str());
        assert_eq!(state(&alice, &new, "m.room.name").await["name"], "Old");
        let found = server.client.get(&format!("directory/room/{}", encode("#home:localhost"))).await.ok();
        assert_eq!(found["room_id"], new.as_str());
        let path = format!("rooms/{}/send/m.room.message/t", encode(&old));
        bob.put(&path, json!({ "body": "too late", "msgtype": "m.text" })).await.refused(403, "M_FORBIDDEN");
        bob.join(&new).await;
    }

    async fn nonsense_is_refused(server) {
        let alice = server.register("alice").await;
        let mallory = server.register("mallory").await;
        let room = alice.create_room(json!({})).await;
        let send = |room: &str, txn: &str| format!("rooms/{}/send/m.room.message/{txn}", encode(room));
        for (txn, body) in [("a", json!({ "n": 1.5 })), ("b", json!({ "n": 9_007_199_254_740_993_i64 }))] {
            alice.put(&send(&room, txn), body).await.refused(400, "M_BAD_JSON");
        }
        let large = json!({ "msgtype": "m.text", "body": "x".repeat(70_000) });
        alice.put(&send(&room, "c"), large).await.refused(413, "M_TOO_LARGE");
        let huge = json!({ "msgtype": "m.text", "body": "x".repeat(2_000_000) });
        alice.put(&send(&room, "d"), huge).await.refused(413, "M_TOO_LARGE");
        alice.put(&send(&room, "e"), json!([1])).await.refused(400, "M_BAD_JSON");
        let raw = Some(("application/json", b"{\"a\":".to_vec()));
        let (status, _, body) = alice.client.raw("PUT", &send(&room, "f"), Some(&alice.token), raw).await;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        assert_eq!((status, &body["errcode"]), (400, &json!("M_NOT_JSON")));

        let unknown = "!nowhere:localhost";
        alice.put(&send(unknown, "g"), json!({})).await.refused(403, "M_FORBIDDEN");
        alice.put(&send("nothing", "h"), json!({})).await.refused(400, "M_INVALID_PARAM");
        alice.get(&format!("rooms/{}/messages?dir=b", encode(unknown))).await.refused(403, "M_FORBIDDEN");
        alice.post(&format!("join/{}", encode(unknown)), json!({})).await.refused(404, "M_NOT_FOUND");
        mallory.put(&send(&room, "i"), json!({ "body": "x", "msgtype": "m.text" })).await.refused(403, "M_FORBIDDEN");
        mallory.get(&format!("rooms/{}/members", encode(&room))).await.refused(403, "M_FORBIDDEN");
        let create = format!("rooms/{}/state/m.room.create", encode(&room));
        alice.put(&create, json!({})).await.refused(403, "M_FORBIDDEN");
        let levels = format!("rooms/{}/state/m.room.power_levels", encode(&room));
        alice.put(&levels, json!({ "users": { "not a user": 100 } })).await;
        alice.send_text(&room, "still alive").await;
    }
}
