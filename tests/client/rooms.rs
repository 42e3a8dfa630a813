//! The everyday walk through a room.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, encode, text, timeline};

fn bodies(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
}

both_databases! {
    async fn two_users_meet_in_a_room(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "private_chat", "name": "Tea" })).await;
        alice.invite(&room, &bob.user_id).await;

        let invited = bob.sync_until(None, |sync| sync["rooms"]["invite"][&room].is_object()).await;
        let stripped = invited["rooms"]["invite"][&room]["invite_state"]["events"].as_array();
        let name = stripped.and_then(|events| events.iter().find(|event| event["type"] == "m.room.name"));
        assert_eq!(name.map(|event| &event["content"]["name"]), Some(&json!("Tea")), "{invited:#}");

        bob.join(&room).await;
        let event_id = alice.send_text(&room, "Milk?").await;
        let since = text(&invited, "next_batch");
        let seen = bob.sync_until(Some(&since), |sync| bodies(timeline(sync, &room)).contains(&"Milk?")).await;
        let event = timeline(&seen, &room).iter().find(|event| event["content"]["body"] == "Milk?");
        let event = event.expect("sync_until saw it");
        assert_eq!(event["event_id"], event_id.as_str());
        assert_eq!(event["sender"], alice.user_id.as_str());
        assert!(event["unsigned"].get("transaction_id").is_none(), "only the sending device sees it: {event}");

        let members = alice.get(&format!("rooms/{}/joined_members", encode(&room))).await.ok();
        assert_eq!(members["joined"].as_object().map(|joined| joined.len()), Some(2), "{members}");
        bob.leave(&room).await;
        bob.get(&format!("rooms/{}/joined_members", encode(&room))).await.refused(403, "M_FORBIDDEN");
    }

    async fn a_repeated_transaction_is_the_same_event(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let path = format!("rooms/{}/send/m.room.message/{}", encode(&room), alice.next_txn_id());
        let content = json!({ "msgtype": "m.text", "body": "once" });
        let first = alice.put(&path, content.clone()).await.ok();
        let second = alice.put(&path, content).await.ok();
        assert_eq!(first, second);
        let sync = alice.sync(None, 0, None).await;
        assert_eq!(bodies(timeline(&sync, &room)), ["once"]);
    }

    async fn a_transaction_belongs_to_one_path(server) {
        let alice = server.register("alice").await;
        let mut event_ids = Vec::new();
        for room in [alice.create_room(json!({})).await, alice.create_room(json!({})).await] {
            let path = format!("rooms/{}/send/m.room.message/the-same", encode(&room));
            let answer = alice.put(&path, json!({ "msgtype": "m.text", "body": "hello" })).await.ok();
            event_ids.push(text(&answer, "event_id"));
        }
        assert_ne!(event_ids[0], event_ids[1]);
    }

    async fn state_can_be_read_back(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        alice.set_state(&room, "m.room.topic", "", json!({ "topic": "Cats" })).await;
        let topic = alice.get(&format!("rooms/{}/state/m.room.topic/", encode(&room))).await.ok();
        assert_eq!(topic["topic"], "Cats");
        let path = format!("rooms/{}/state/org.example.none", encode(&room));
        alice.get(&path).await.refused(404, "M_NOT_FOUND");
    }

    async fn the_server_tells_how_a_room_is_encrypted_and_no_keys(server) {
        let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
        let room = alice.create_room(json!({ "preset": "private_chat" })).await;
        let path = format!("/_matrix/client/r0/rooms/{}/keys/distribution", encode(&room));
        assert_eq!(alice.get(&path).await.ok()["algorithm"], json!(null));
        let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 50 });
        alice.set_state(&room, "m.room.encryption", "", content).await;
        let told = alice.get(&path).await.ok();
        assert_eq!((&told["room_id"], &told["algorithm"]), (&json!(room), &json!("m.megolm.v1.aes-sha2")));
        assert_eq!((&told["session_id"], &told["session_key"]), (&json!(null), &json!(null)));
        assert_eq!(told["rotation_period_msgs"], 50);
        mallory.get(&path).await.refused(403, "M_FORBIDDEN");
    }

    async fn strangers_stay_outside(server) {
        let alice = server.register("alice").await;
        let mallory = server.register("mallory").await;
        let room = alice.create_room(json!({ "preset": "private_chat" })).await;
        let path = format!("rooms/{}/join", encode(&room));
        mallory.post(&path, json!({})).await.refused(403, "M_FORBIDDEN");
        mallory.get(&format!("rooms/{}/state", encode(&room))).await.refused(403, "M_FORBIDDEN");
    }

    async fn tags_come_and_go(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let tags = format!("user/{}/rooms/{}/tags", encode(&alice.user_id), encode(&room));
        alice.put(&format!("{tags}/u.work"), json!({ "order": 0.5 })).await.ok();
        assert_eq!(alice.get(&tags).await.ok()["tags"]["u.work"]["order"], 0.5);
        alice.delete(&format!("{tags}/u.work"), None).await.ok();
        assert_eq!(alice.get(&tags).await.ok()["tags"], json!({}));
    }
}
