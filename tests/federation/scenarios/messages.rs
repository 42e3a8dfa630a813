//! Events that go from one server to the other.

use serde_json::{Value, json};

use super::{eventually, sees, shared_room, texts};
use crate::common::{
    client::{AnswerExt, User, encode, text},
    homeserver::Town,
};

pub async fn both_ways(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    both_ways_in(&room, &alice, &bob).await;
}

/// In a room that has no messages yet.
pub async fn both_ways_in(room: &str, alice: &User, bob: &User) {
    let mut said = Vec::new();
    for number in 0..4 {
        for (from, to) in [(alice, bob), (bob, alice)] {
            let body = format!("{number} of {}", from.user_id);
            let event_id = from.send_text(room, &body).await;
            let (sent, received) = (sees(from, room, &event_id).await, sees(to, room, &event_id).await);
            for field in ["type", "sender", "content", "origin_server_ts", "event_id"] {
                assert_eq!(sent[field], received[field], "{field}");
            }
            said.push(body);
        }
    }
    for reader in [alice, bob] {
        assert_eq!(texts(reader, room).await, said, "as {} has it", reader.user_id);
    }
    // Text of all kinds, and numbers as canonical JSON has them, arrive as they were sent.
    let content = json!({
        "msgtype": "m.text",
        "body": "Grüße, 你好 \u{1F375} \u{7f} \"quoted\" \\ \u{2028}",
        "org.example.numbers": [0, -1, 9_007_199_254_740_991_i64, -9_007_199_254_740_991_i64],
        "org.example.nothing": null,
    });
    let event_id = alice.send(room, "m.room.message", content.clone()).await;
    assert_eq!(sees(bob, room, &event_id).await["content"], content);
}

async fn event(user: &User, room: &str, event_id: &str) -> Value {
    let path = format!("rooms/{}/event/{}", encode(room), encode(event_id));
    user.get(&path).await.ok()
}

async fn redact(user: &User, room: &str, event_id: &str) -> (u16, Value) {
    let (room, event_id) = (encode(room), encode(event_id));
    let path = format!("rooms/{room}/redact/{event_id}/{}", user.next_txn_id());
    user.put(&path, json!({ "reason": "a slip" })).await
}

pub async fn redactions(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    redactions_in(&room, &alice, &bob).await;
}

/// Where `alice` is the room's creator.
pub async fn redactions_in(room: &str, alice: &User, bob: &User) {
    // Each their own, and the creator somebody else's.
    for (author, remover, reader) in [(alice, alice, bob), (bob, bob, alice), (bob, alice, bob)] {
        let event_id = author.send_text(room, "a slip of the tongue").await;
        sees(reader, room, &event_id).await;
        sees(remover, room, &event_id).await;
        let redaction = text(&redact(remover, room, &event_id).await.ok(), "event_id");
        let seen = sees(reader, room, &redaction).await;
        let names = [&seen["redacts"], &seen["content"]["redacts"]];
        assert!(names.into_iter().any(|name| *name == event_id.as_str()), "{seen}");
        eventually("the redaction", async || {
            let event = event(reader, room, &event_id).await;
            let empty = event["content"] == json!({});
            let because = event["unsigned"]["redacted_because"]["event_id"] == redaction.as_str();
            if empty && because {
                Ok(())
            } else {
                Err(event.to_string())
            }
        })
        .await;
    }
    let event_id = alice.send_text(room, "not for bob to remove").await;
    sees(bob, room, &event_id).await;
    redact(bob, room, &event_id).await.refused(403, "M_FORBIDDEN");
}

pub async fn relations(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    let event_id = alice.send_text(&room, "Tea?").await;
    sees(&bob, &room, &event_id).await;
    let relation = json!({ "rel_type": "m.annotation", "event_id": event_id, "key": "👍" });
    let reaction = bob.send(&room, "m.reaction", json!({ "m.relates_to": relation })).await;
    let edited = json!({ "msgtype": "m.text", "body": "Coffee?" });
    let edit = json!({
        "msgtype": "m.text",
        "body": "* Coffee?",
        "m.new_content": edited,
        "m.relates_to": { "rel_type": "m.replace", "event_id": event_id },
    });
    let edit = alice.send(&room, "m.room.message", edit).await;
    sees(&alice, &room, &reaction).await;
    sees(&bob, &room, &edit).await;
    for reader in [&alice, &bob] {
        let path = format!(
            "/_matrix/client/v1/rooms/{}/relations/{}",
            encode(&room),
            encode(&event_id)
        );
        let answer = reader.get(&path).await.ok();
        let mut found: Vec<_> = answer["chunk"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| text(event, "event_id"))
            .collect();
        let mut expected = vec![reaction.clone(), edit.clone()];
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{answer}");
        let event = event(reader, &room, &event_id).await;
        let replaced = &event["unsigned"]["m.relations"]["m.replace"]["event_id"];
        assert_eq!(*replaced, edit.as_str(), "{event}");
    }
}
