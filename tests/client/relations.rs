//! Edits, threads, references, reactions.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, User, encode, text, timeline};

fn related(kind: &str, event: &str, more: &Value) -> Value {
    let mut content = json!({
        "msgtype": "m.text",
        "body": "related",
        "m.relates_to": { "rel_type": kind, "event_id": event },
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        content[name] = value.clone();
    }
    content
}

async fn send(user: &User, room: &str, content: Value) -> String {
    user.send(room, "m.room.message", content).await
}

async fn bundled(user: &User, room: &str, event: &str) -> Value {
    let path = format!("rooms/{}/event/{}", encode(room), encode(event));
    user.get(&path).await.ok()["unsigned"]["m.relations"].clone()
}

async fn relations(user: &User, room: &str, event: &str, rest: &str) -> Value {
    let path = format!(
        "/_matrix/client/v1/rooms/{}/relations/{}{rest}",
        encode(room),
        encode(event)
    );
    user.get(&path).await.ok()
}

fn ids(answer: &Value) -> Vec<String> {
    let chunk = answer["chunk"].as_array().map_or(&[][..], Vec::as_slice);
    chunk.iter().map(|event| text(event, "event_id")).collect()
}

/// Two joined users.
async fn meeting(server: &crate::common::server::TestServer) -> (User, User, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    (alice, bob, room)
}

both_databases! {
    async fn the_newest_edit_comes_with_the_event(server) {
        let (alice, bob, room) = meeting(server).await;
        let root = alice.send_text(&room, "first").await;
        assert_eq!(bundled(&bob, &room, &root).await, Value::Null);
        let new = |body: &str| json!({ "m.new_content": { "msgtype": "m.text", "body": body } });
        send(&alice, &room, related("m.replace", &root, &new("second"))).await;
        let last = send(&alice, &room, related("m.replace", &root, &new("third"))).await;
        send(&bob, &room, related("m.replace", &root, &new("not mine"))).await;
        let edit = bundled(&bob, &room, &root).await["m.replace"].clone();
        assert_eq!(edit["event_id"], last.as_str(), "{edit}");
        assert_eq!(edit["content"]["m.new_content"]["body"], "third");
        let sync = bob.sync(None, 0, None).await;
        let shown = timeline(&sync, &room).iter().find(|event| event["event_id"] == root.as_str());
        assert_eq!(shown.map(|event| &event["unsigned"]["m.relations"]["m.replace"]["event_id"]), Some(&json!(last)));
        // The tail that is held in memory is shorter than this.
        for n in 0..45 {
            alice.send_text(&room, &n.to_string()).await;
        }
        assert_eq!(bundled(&bob, &room, &root).await["m.replace"]["event_id"], last.as_str());
        let redact = format!("rooms/{}/redact/{}/r1", encode(&room), encode(&last));
        alice.put(&redact, json!({})).await.ok();
        let edit = bundled(&bob, &room, &root).await["m.replace"].clone();
        assert_eq!(edit["content"]["m.new_content"]["body"], "second", "{edit}");
    }

    async fn threads_are_counted_and_listed(server) {
        let (alice, bob, room) = meeting(server).await;
        let root = alice.send_text(&room, "root").await;
        let other = bob.send_text(&room, "another root").await;
        send(&bob, &room, related("m.thread", &root, &json!({}))).await;
        let last = send(&bob, &room, related("m.thread", &root, &json!({}))).await;
        let inner = send(&bob, &room, related("m.thread", &other, &json!({}))).await;
        for _ in 0..2 {
            let thread = bundled(&alice, &room, &root).await["m.thread"].clone();
            assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(2), &json!(true)), "{thread}");
            assert_eq!(thread["latest_event"]["event_id"], last.as_str());
            let thread = bundled(&alice, &room, &other).await["m.thread"].clone();
            assert_eq!(thread["current_user_participated"], false, "{thread}");
            // Again, with the events out of the tail that is held in memory.
            for n in 0..45 {
                alice.send_text(&room, &n.to_string()).await;
            }
        }
        let threads = format!("/_matrix/client/v1/rooms/{}/threads", encode(&room));
        assert_eq!(ids(&alice.get(&threads).await.ok()), [other.clone(), root.clone()]);
        assert_eq!(ids(&alice.get(&format!("{threads}?include=participated")).await.ok()), std::slice::from_ref(&root));
        let first = alice.get(&format!("{threads}?limit=1")).await.ok();
        assert_eq!(ids(&first), [other]);
        let next = text(&first, "next_batch");
        assert_eq!(ids(&alice.get(&format!("{threads}?limit=1&from={next}")).await.ok()), [root]);
        let path = format!("rooms/{}/send/m.room.message/nested", encode(&room));
        alice.put(&path, related("m.thread", &inner, &json!({}))).await.refused(400, "M_UNKNOWN");
    }

    async fn related_events_are_paged(server) {
        let (alice, bob, room) = meeting(server).await;
        let root = alice.send_text(&room, "root").await;
        let reaction = |key: &str| json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": root, "key": key } });
        let mut sent = Vec::new();
        for key in ["a", "b", "c"] {
            sent.push(bob.send(&room, "m.reaction", reaction(key)).await);
        }
        let reference = send(&alice, &room, related("m.reference", &root, &json!({}))).await;
        let indirect = send(&bob, &room, related("m.reference", &reference, &json!({}))).await;
        let path = format!("rooms/{}/send/m.reaction/twice", encode(&room));
        bob.put(&path, reaction("a")).await.refused(400, "M_DUPLICATE_ANNOTATION");
        let chunk = json!([{ "event_id": reference }]);
        assert_eq!(bundled(&bob, &room, &root).await["m.reference"]["chunk"], chunk);

        let all = relations(&alice, &room, &root, "").await;
        assert_eq!(ids(&all), [reference.clone(), sent[2].clone(), sent[1].clone(), sent[0].clone()]);
        let some = relations(&alice, &room, &root, "/m.annotation/m.reaction?limit=2").await;
        assert_eq!(ids(&some), [sent[2].clone(), sent[1].clone()]);
        let rest = format!("/m.annotation?limit=2&from={}", text(&some, "next_batch"));
        let rest = relations(&alice, &room, &root, &rest).await;
        assert_eq!(ids(&rest), [sent[0].clone()]);
        assert!(rest.get("next_batch").is_none(), "{rest}");
        let forth = relations(&alice, &room, &root, "/m.annotation?dir=f&limit=1").await;
        assert_eq!(ids(&forth), [sent[0].clone()]);
        let deep = relations(&alice, &room, &root, "/m.reference?recurse=true").await;
        assert_eq!(ids(&deep), [indirect.clone(), reference.clone()]);
        assert_eq!(deep["recursion_depth"], 3);
        let unknown = format!("/_matrix/client/v1/rooms/{}/relations/$none", encode(&room));
        alice.get(&unknown).await.refused(404, "M_NOT_FOUND");
    }

    async fn edits_made_while_somebody_was_away_are_hidden(server) {
        let (alice, bob, room) = meeting(server).await;
        let visibility = json!({ "history_visibility": "joined" });
        alice.set_state(&room, "m.room.history_visibility", "", visibility).await;
        let event = alice.send_text(&room, "before").await;
        bob.leave(&room).await;
        let edit = |text: &str| related("m.replace", &event, &json!({ "m.new_content": { "body": text } }));
        let root = related("m.thread", &event, &json!({}));
        send(&alice, &room, edit("while bob was away")).await;
        send(&alice, &room, root).await;
        alice.invite(&room, &bob.user_id).await;
        bob.join(&room).await;
        for _ in 0..2 {
            assert_eq!(bundled(&bob, &room, &event).await, Value::Null);
            assert!(bundled(&alice, &room, &event).await["m.replace"].is_object());
            // Again, with the events out of the tail that is held in memory.
            for n in 0..45 {
                alice.send_text(&room, &n.to_string()).await;
            }
        }
        let seen = send(&alice, &room, edit("after")).await;
        assert_eq!(bundled(&bob, &room, &event).await["m.replace"]["event_id"], seen.as_str());
    }
}
