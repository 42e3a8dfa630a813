//! Reading what was said: pages, surroundings, who may see what, redactions.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, User, encode, text};

fn bodies(chunk: &Value) -> Vec<&str> {
    let events = chunk.as_array().map_or(&[][..], Vec::as_slice);
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
}

async fn page(user: &User, room: &str, query: &str) -> Value {
    user.get(&format!("rooms/{}/messages?{query}", encode(room))).await.ok()
}

/// Everything that the user finds on pages of two events.
async fn walk(user: &User, room: &str, dir: &str) -> Vec<Value> {
    let mut from = String::new();
    let mut found = Vec::new();
    loop {
        let answer = page(user, room, &format!("dir={dir}&limit=2{from}")).await;
        found.extend(answer["chunk"].as_array().cloned().unwrap_or_default());
        match answer["end"].as_str() {
            Some(end) => from = format!("&from={}", encode(end)),
            None => return found,
        }
        assert!(found.len() < 100, "paging goes on for ever: {found:?}");
    }
}

fn ids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| text(event, "event_id")).collect()
}

both_databases! {
    async fn pages_lead_to_the_start_and_back(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({ "name": "Long" })).await;
        for n in 0..9 {
            alice.send_text(&room, &n.to_string()).await;
        }
        let back = walk(&alice, &room, "b").await;
        assert_eq!(back.last().map(|event| &event["type"]), Some(&json!("m.room.create")));
        assert_eq!(bodies(&json!(back)), ["8", "7", "6", "5", "4", "3", "2", "1", "0"]);
        let mut forth = ids(&walk(&alice, &room, "f").await);
        forth.reverse();
        assert_eq!(forth, ids(&back));
        let filter = encode(r#"{"types":["m.room.message"],"lazy_load_members":true}"#);
        let some = page(&alice, &room, &format!("dir=b&limit=3&filter={filter}")).await;
        assert_eq!(bodies(&some["chunk"]), ["8", "7", "6"]);
        assert_eq!(some["state"][0]["state_key"], alice.user_id.as_str(), "{some}");
        let rest = page(&alice, &room, &format!("dir=f&from={}&limit=50", encode(&text(&some, "end")))).await;
        assert_eq!(bodies(&rest["chunk"]), ["6", "7", "8"]);
        alice.get(&format!("rooms/{}/messages?dir=b&from=nonsense", encode(&room))).await.refused(400, "M_INVALID_PARAM");
    }

    async fn surroundings_have_both_sides(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let mut sent = Vec::new();
        for n in 0..5 {
            sent.push(alice.send_text(&room, &n.to_string()).await);
        }
        let path = format!("rooms/{}/context/{}?limit=4", encode(&room), encode(&sent[2]));
        let around = alice.get(&path).await.ok();
        assert_eq!(bodies(&around["events_before"]), ["1", "0"]);
        assert_eq!(around["event"]["event_id"], sent[2].as_str());
        assert_eq!(bodies(&around["events_after"]), ["3", "4"]);
        assert!(around["state"].as_array().is_some_and(|state| !state.is_empty()));
        let start = encode(&text(&around, "start"));
        let before = page(&alice, &room, &format!("dir=b&limit=1&from={start}")).await;
        assert_ne!(before["chunk"][0]["content"]["body"], "0");
        let path = format!("rooms/{}/event/{}", encode(&room), encode(&sent[0]));
        assert_eq!(alice.get(&path).await.ok()["content"]["body"], "0");
    }

    async fn time_leads_to_events(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let event_id = alice.send_text(&room, "now").await;
        let base = format!("/_matrix/client/v1/rooms/{}/timestamp_to_event", encode(&room));
        let last = alice.get(&format!("{base}?dir=b&ts=99999999999999")).await.ok();
        assert_eq!(last["event_id"], event_id.as_str());
        let first = alice.get(&format!("{base}?dir=f&ts=0")).await.ok();
        assert_ne!(first["event_id"], event_id.as_str());
        alice.get(&format!("{base}?dir=b&ts=0")).await.refused(404, "M_NOT_FOUND");
    }

    async fn visibility_decides_what_late_comers_and_leavers_see(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let stranger = server.register("carol").await;
        for (visibility, expected) in [
            ("joined", vec!["joined"]),
            ("invited", vec!["invited", "joined"]),
            ("shared", vec!["early", "invited", "joined"]),
            ("world_readable", vec!["early", "invited", "joined"]),
        ] {
            let state = json!([{
                "type": "m.room.history_visibility",
                "content": { "history_visibility": visibility },
            }]);
            let room = alice.create_room(json!({ "initial_state": state })).await;
            let early = alice.send_text(&room, "early").await;
            alice.invite(&room, &bob.user_id).await;
            alice.send_text(&room, "invited").await;
            bob.join(&room).await;
            alice.send_text(&room, "joined").await;
            let mut seen = walk(&bob, &room, "b").await;
            seen.reverse();
            assert_eq!(bodies(&json!(seen)), expected, "{visibility}");
            let path = format!("rooms/{}/event/{}", encode(&room), encode(&early));
            let answer = bob.get(&path).await;
            assert_eq!(answer.0, if expected.contains(&"early") { 200 } else { 404 }, "{visibility}");

            bob.leave(&room).await;
            alice.send_text(&room, "late").await;
            alice.set_state(&room, "m.room.topic", "", json!({ "topic": "gone" })).await;
            let mut seen = walk(&bob, &room, "b").await;
            seen.reverse();
            let world = visibility == "world_readable";
            let mut expected = expected.clone();
            expected.extend(world.then_some("late"));
            assert_eq!(bodies(&json!(seen)), expected, "{visibility} after leaving");
            let topic = bob.get(&format!("rooms/{}/state/m.room.topic", encode(&room))).await;
            assert_eq!(topic.0, if world { 200 } else { 404 }, "{visibility}");
            let outside = stranger.get(&format!("rooms/{}/messages?dir=b", encode(&room))).await;
            assert_eq!(outside.0, if world { 200 } else { 403 }, "{visibility}");
        }
    }

    async fn members_of_a_time_are_told_to_those_who_see_it(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let eve = server.register("eve").await;
        for (visibility, expected) in [
            ("joined", [403, 403, 200]),
            ("invited", [403, 200, 200]),
            ("shared", [200, 200, 200]),
            ("world_readable", [200, 200, 200]),
        ] {
            let state = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } }]);
            let room = alice.create_room(json!({ "initial_state": state, "preset": "public_chat" })).await;
            eve.join(&room).await;
            let now = async || text(&alice.sync(None, 0, None).await, "next_batch");
            let mut times = vec![now().await];
            eve.leave(&room).await;
            alice.invite(&room, &bob.user_id).await;
            times.push(now().await);
            bob.join(&room).await;
            times.push(now().await);
            alice.send_text(&room, "later").await;
            let members = async |user: &User, at: &str| {
                user.get(&format!("rooms/{}/members?at={}", encode(&room), encode(at))).await
            };
            for (at, status) in times.iter().zip(expected) {
                let answer = members(&bob, at).await;
                assert_eq!(answer.0, status, "{visibility} at {at}: {}", answer.1);
                assert_eq!(answer.1["errcode"], if status == 200 { Value::Null } else { json!("M_FORBIDDEN") });
                members(&alice, at).await.ok();
            }
            let first = members(&alice, &times[0]).await.ok();
            let joined: Vec<&Value> = first["chunk"].as_array().expect("a list").iter()
                .filter(|event| event["content"]["membership"] == "join").map(|event| &event["state_key"]).collect();
            assert!(joined.contains(&&json!(eve.user_id)) && !joined.contains(&&json!(bob.user_id)), "{first}");
        }
    }

    async fn who_left_keeps_what_was_seen_whatever_happens_then(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        for visibility in ["joined", "shared"] {
            let state = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } }]);
            let room = alice.create_room(json!({ "initial_state": state, "preset": "public_chat" })).await;
            bob.join(&room).await;
            let seen = alice.send_text(&room, "seen").await;
            alice.set_state(&room, "m.room.topic", "", json!({ "topic": "before" })).await;
            bob.leave(&room).await;
            let missed = alice.send_text(&room, "missed").await;
            alice.set_state(&room, "m.room.topic", "", json!({ "topic": "after" })).await;
            let act = async |action: &str| {
                let path = format!("rooms/{}/{action}", encode(&room));
                alice.post(&path, json!({ "user_id": bob.user_id })).await.ok();
            };
            let steps: [&[&str]; 5] = [&[], &["ban"], &["unban"], &["ban", "unban", "ban"], &["unban", "invite", "kick", "ban"]];
            for step in steps {
                for action in step {
                    act(action).await;
                }
                let mut found = walk(&bob, &room, "b").await;
                found.reverse();
                assert_eq!(bodies(&json!(found)), ["seen"], "{visibility} after {step:?}");
                let event = async |id: &str| bob.get(&format!("rooms/{}/event/{}", encode(&room), encode(id))).await.0;
                assert_eq!((event(&seen).await, event(&missed).await), (200, 404), "{visibility} after {step:?}");
                let topic = bob.get(&format!("rooms/{}/state/m.room.topic", encode(&room))).await.ok();
                assert_eq!(topic["topic"], "before", "{visibility} after {step:?}");
                let members = bob.get(&format!("rooms/{}/members", encode(&room))).await.ok();
                let own = members["chunk"].as_array().expect("a list").iter()
                    .find(|event| event["state_key"] == bob.user_id.as_str());
                assert_eq!(own.map(|event| &event["content"]["membership"]), Some(&json!("leave")), "{visibility} {step:?}");
                let path = format!("rooms/{}/context/{}?limit=10", encode(&room), encode(&seen));
                let around = bob.get(&path).await.ok();
                assert!(!bodies(&around["events_after"]).contains(&"missed"), "{visibility} after {step:?}");
            }
            bob.post(&format!("rooms/{}/forget", encode(&room)), json!({})).await.ok();
            bob.get(&format!("rooms/{}/messages?dir=b", encode(&room))).await.refused(403, "M_FORBIDDEN");
        }
    }

    async fn redactions_take_the_content_away(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        for version in ["10", "11"] {
            let room = alice.create_room(json!({ "preset": "public_chat", "room_version": version })).await;
            bob.join(&room).await;
            let mine = bob.send_text(&room, "secret").await;
            let hers = alice.send_text(&room, "hers").await;
            let redact = |event: &str, txn: &str| format!("rooms/{}/redact/{}/{txn}", encode(&room), encode(event));
            bob.put(&redact(&hers, "t1"), json!({})).await.refused(403, "M_FORBIDDEN");
            bob.put(&redact("$unknown", "t2"), json!({})).await.refused(404, "M_NOT_FOUND");
            let first = bob.put(&redact(&mine, "t3"), json!({ "reason": "oops" })).await.ok();
            assert_eq!(bob.put(&redact(&mine, "t3"), json!({ "reason": "oops" })).await.ok(), first);
            let path = format!("rooms/{}/event/{}", encode(&room), encode(&mine));
            let pruned = alice.get(&path).await.ok();
            assert_eq!(pruned["content"], json!({}), "{pruned}");
            let because = &pruned["unsigned"]["redacted_because"];
            assert_eq!(because["event_id"], first["event_id"], "{pruned}");
            assert_eq!(because["content"]["reason"], "oops");

            // Through /send, and with the power to redact what others wrote.
            let another = bob.send_text(&room, "rude").await;
            alice.send(&room, "m.room.redaction", json!({ "redacts": another })).await;
            let path = format!("rooms/{}/event/{}", encode(&room), encode(&another));
            assert_eq!(alice.get(&path).await.ok()["content"], json!({}));
            // Without a transaction id a retry is still the same event.
            let last = bob.send_text(&room, "last").await;
            let path = format!("rooms/{}/redact/{}", encode(&room), encode(&last));
            let once = bob.put(&path, json!({})).await.ok();
            assert_eq!(bob.post(&path, json!({})).await.ok(), once);
        }
    }

    async fn peeking_and_its_ancestors_still_work(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({ "name": "Old" })).await;
        let event_id = alice.send_text(&room, "hello").await;
        let block = alice.get(&format!("rooms/{}/initialSync?limit=1", encode(&room))).await.ok();
        assert_eq!(bodies(&block["messages"]["chunk"]), ["hello"]);
        assert_eq!((&block["membership"], &block["visibility"]), (&json!("join"), &json!("private")));
        let all = alice.get("initialSync").await.ok();
        assert_eq!(all["rooms"][0]["room_id"], room.as_str());
        let end = text(&all, "end");
        alice.send_text(&room, "news").await;
        let news = alice.get(&format!("events?from={end}&timeout=5000")).await.ok();
        assert_eq!(bodies(&news["chunk"]), ["news"]);
        let none = alice.get(&format!("events?from={}&timeout=0", text(&news, "end"))).await.ok();
        assert_eq!(none["chunk"], json!([]));
        let one = alice.get(&format!("events/{}", encode(&event_id))).await.ok();
        assert_eq!(one["content"]["body"], "hello");
    }
}
