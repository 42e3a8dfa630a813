//! A server that begins again knows what it has told.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ask, bodies, joined, kinds, next, now, pair, since};
use crate::common::client::{AnswerExt, encode};

/// An answer without what time changes.
fn timeless(mut answer: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|name, _| !["age", "prev_batch", "next_batch", "last_active_ago"].contains(&name.as_str()));
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("presence");
    }
    strip(&mut answer);
    answer
}

both_databases! {
    async fn the_same_question_has_the_same_answer(server) {
        let (alice, bob, room) = pair(server).await;
        let old = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&old).await;
        let start = now(&bob).await;
        let read = alice.send_text(&room, "read").await;
        for n in 0..3 {
            alice.send_text(&room, &n.to_string()).await;
        }
        bob.post(&format!("rooms/{}/receipt/m.read/{}", encode(&room), encode(&read)), json!({})).await.ok();
        alice.set_state(&room, "m.room.topic", "", json!({ "topic": "soup" })).await;
        let data = format!("user/{}/rooms/{}/account_data/m.note", encode(&bob.user_id), encode(&room));
        bob.put(&data, json!({ "n": 1 })).await.ok();
        bob.leave(&old).await;
        let new = alice.create_room(json!({ "preset": "private_chat" })).await;
        alice.invite(&new, &bob.user_id).await;
        let send = format!("sendToDevice/m.x/{}", alice.next_txn_id());
        alice.put(&send, json!({ "messages": { &bob.user_id: { "*": { "n": 1 } } } })).await.ok();
        let (told, first) = (since(&bob, &start, "").await, ask(&bob, "").await);
        assert_eq!(joined(&told, &room)["unread_notifications"]["notification_count"], 3);
        for stop in ["kill", "stop"] {
            if stop == "kill" {
                server.kill();
            } else {
                assert!(server.stop().await.success());
            }
            server.restart().await;
            assert_eq!(timeless(since(&bob, &start, "").await), timeless(told.clone()), "{stop}");
            assert_eq!(timeless(ask(&bob, "").await), timeless(first.clone()), "{stop}");
        }
        let later = since(&bob, &next(&told), "").await;
        assert!(later.get("rooms").is_none() && later.get("to_device").is_none(), "{later}");
        alice.send_text(&room, "after").await;
        let later = since(&bob, &next(&told), "").await;
        assert_eq!(bodies(joined(&later, &room)), ["after"]);
        assert_eq!(joined(&later, &room)["unread_notifications"]["notification_count"], 4);
    }

    async fn who_waits_is_answered_before_a_stop(server) {
        let (_, bob, _) = pair(server).await;
        let start = now(&bob).await;
        let poll = since(&bob, &start, "&timeout=60000");
        let (answer, status) = tokio::join!(poll, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.stop().await
        });
        assert!(status.success() && answer["next_batch"].is_string(), "{answer}");
    }

    async fn a_long_absence_is_made_up_for(server) {
        let (alice, bob, room) = pair(server).await;
        let quiet = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&quiet).await;
        let start = now(&bob).await;
        alice.set_state(&quiet, "m.room.topic", "", json!({ "topic": "soup" })).await;
        for n in 0..530 {
            alice.send_text(&room, &n.to_string()).await;
        }
        let sync = since(&bob, &start, "").await;
        let block = joined(&sync, &room);
        assert_eq!((&block["timeline"]["limited"], bodies(block).last()), (&json!(true), Some(&"529")));
        assert_eq!(block["unread_notifications"]["notification_count"], 530);
        assert_eq!(kinds(&joined(&sync, &quiet)["timeline"]), ["m.room.topic"]);
    }
}
