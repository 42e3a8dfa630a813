//! What an answer holds.

use std::collections::BTreeSet;

use serde_json::json;

use super::{ask, bodies, filter, joined, kinds, list, next, now, pair, since};
use crate::common::client::{AnswerExt, User, encode, text};

both_databases! {
    async fn a_first_sync_shows_the_end_of_each_room_and_the_way_back(server) {
        let (alice, bob, room) = pair(server).await;
        for n in 0..30 {
            alice.send_text(&room, &n.to_string()).await;
        }
        let first = ask(&bob, "timeout=30000").await;
        let block = joined(&first, &room);
        assert_eq!(bodies(block), (20..30).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(block["timeline"]["limited"], true);
        for kind in ["m.room.create", "m.room.name", "m.room.power_levels", "m.room.join_rules"] {
            assert!(kinds(&block["state"]).contains(&kind), "{kind}");
        }
        let members: BTreeSet<_> = list(&block["state"]["events"]).iter().filter(|e| e["type"] == "m.room.member")
            .filter_map(|e| e["state_key"].as_str()).collect();
        assert_eq!(members, BTreeSet::from([alice.user_id.as_str(), bob.user_id.as_str()]));
        for event in list(&block["timeline"]["events"]) {
            assert!(event["event_id"].is_string() && event.get("room_id").is_none(), "{event}");
        }
        let back = format!("rooms/{}/messages?dir=b&limit=100&from={}", encode(&room), text(&block["timeline"], "prev_batch"));
        let older = bob.get(&back).await.ok();
        assert_eq!(older["chunk"][0]["content"]["body"], "19");
        assert_eq!(list(&older["chunk"]).last().map(|event| &event["type"]), Some(&json!("m.room.create")));
        assert_eq!(first["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
        assert_eq!(first["device_unused_fallback_key_types"], json!([]));
        assert!(kinds(&first["account_data"]).contains(&"m.push_rules"));
    }

    async fn what_is_new_comes_once(server) {
        let (alice, bob, room) = pair(server).await;
        let (alices, bobs) = (now(&alice).await, now(&bob).await);
        let path = format!("rooms/{}/send/m.room.message/my-txn", encode(&room));
        alice.put(&path, json!({ "msgtype": "m.text", "body": "hello" })).await.ok();
        let seen = since(&bob, &bobs, "").await;
        assert_eq!(bodies(joined(&seen, &room)), ["hello"]);
        assert_eq!(joined(&seen, &room)["timeline"]["limited"], false);
        assert_eq!(joined(&seen, &room)["state"]["events"], json!([]));
        assert_eq!(joined(&seen, &room)["unread_notifications"]["notification_count"], 1);
        let unsigned = &joined(&seen, &room)["timeline"]["events"][0]["unsigned"];
        assert!(unsigned["age"].is_u64() && unsigned.get("transaction_id").is_none(), "{unsigned}");
        let own = since(&alice, &alices, "").await;
        assert_eq!(joined(&own, &room)["timeline"]["events"][0]["unsigned"]["transaction_id"], "my-txn");
        let other = User::login(&server.client, "alice").await;
        let echo = since(&other, &alices, "").await;
        assert!(joined(&echo, &room)["timeline"]["events"][0]["unsigned"].get("transaction_id").is_none());
        assert!(since(&bob, &next(&seen), "").await.get("rooms").is_none());
        assert_eq!(bodies(joined(&since(&bob, &bobs, "").await, &room)), ["hello"], "asked again");
    }

    async fn a_gap_can_be_filled_from_both_ends(server) {
        let (alice, bob, room) = pair(server).await;
        let start = now(&bob).await;
        alice.set_state(&room, "m.room.topic", "", json!({ "topic": "soup" })).await;
        for n in 0..15 {
            alice.send_text(&room, &n.to_string()).await;
        }
        let sync = since(&bob, &start, "").await;
        let block = joined(&sync, &room);
        assert_eq!((&block["timeline"]["limited"], bodies(block).len()), (&json!(true), 10));
        assert_eq!(kinds(&block["state"]), ["m.room.topic"]);
        let prev = text(&block["timeline"], "prev_batch");
        let page = async |dir: &str, from: &str, to: &str| {
            let path = format!("rooms/{}/messages?dir={dir}&limit=50&from={from}&to={to}", encode(&room));
            let chunk = bob.get(&path).await.ok()["chunk"].clone();
            list(&chunk).iter().map(|event| text(event, "event_id")).collect::<Vec<_>>()
        };
        let mut back = page("b", &prev, &start).await;
        let forth = page("f", &start, &prev).await;
        back.reverse();
        assert_eq!((back.len(), &back), (6, &forth));
        // As does a token of /messages as a place to go on from.
        let again = since(&bob, &prev, "").await;
        assert_eq!(bodies(joined(&again, &room)), bodies(block));
    }

    async fn the_whole_state_may_be_asked_for_again(server) {
        let (alice, bob, room) = pair(server).await;
        let start = now(&bob).await;
        let full = since(&bob, &start, "&full_state=true&timeout=30000").await;
        assert_eq!(joined(&full, &room)["timeline"]["events"], json!([]));
        assert!(kinds(&joined(&full, &room)["state"]).contains(&"m.room.create"));
        alice.set_state(&room, "m.room.topic", "", json!({ "topic": "soup" })).await;
        let full = since(&bob, &start, "&full_state=true").await;
        assert_eq!(kinds(&joined(&full, &room)["timeline"]), ["m.room.topic"]);
        assert!(!kinds(&joined(&full, &room)["state"]).contains(&"m.room.topic"), "it comes in the timeline");
    }

    async fn state_may_be_told_as_of_the_end(server) {
        let (alice, bob, room) = pair(server).await;
        let first = ask(&bob, "use_state_after=true").await;
        let block = joined(&first, &room);
        assert!(block.get("state").is_none(), "{block}");
        let after = list(&block["state_after"]["events"]);
        assert!(after.iter().any(|e| e["type"] == "m.room.member" && e["state_key"] == bob.user_id.as_str()));
        alice.send_text(&room, "hello").await;
        alice.set_state(&room, "m.room.topic", "", json!({ "topic": "soup" })).await;
        alice.set_state(&room, "m.room.topic", "", json!({ "topic": "tea" })).await;
        let sync = since(&bob, &next(&first), "&use_state_after=true").await;
        let after = list(&joined(&sync, &room)["state_after"]["events"]);
        assert_eq!((after.len(), &after[0]["content"]["topic"]), (1, &json!("tea")));
        assert_eq!(kinds(&joined(&sync, &room)["timeline"]), ["m.room.message", "m.room.topic", "m.room.topic"]);
        alice.send_text(&room, "more").await;
        let sync = since(&bob, &next(&sync), "&use_state_after=true").await;
        assert_eq!(joined(&sync, &room)["state_after"]["events"], json!([]), "required even if it is empty");
    }

    async fn tokens_and_filters_are_checked(server) {
        let (_, bob, room) = pair(server).await;
        for token in ["garbage", "s", "s1x", "s-4", "t5", "s9999999999999999999999", "12", "%00"] {
            bob.get(&format!("sync?since={token}")).await.refused(400, "M_INVALID_PARAM");
        }
        let future = since(&bob, "s999999999", "").await;
        assert!(future.get("rooms").is_none(), "{future}");
        assert_ne!(next(&future), "s999999999");
        assert!(joined(&since(&bob, "s0", "").await, &room).is_object());
        for broken in ["{", "{\"room\":5}", "{\"room\":{\"rooms\":[\"nonsense\"]}}"] {
            let (status, body) = bob.get(&format!("sync?filter={}", encode(broken))).await;
            assert_eq!(status, 400, "{broken} {body}");
        }
        for unknown in ["77", "x", "-1"] {
            bob.get(&format!("sync?filter={unknown}")).await.refused(400, "M_INVALID_PARAM");
        }
        for query in ["timeout=x", "full_state=perhaps", "set_presence=5"] {
            let (status, body) = bob.get(&format!("sync?{query}")).await;
            assert!(status == 400 || query.starts_with("set_presence"), "{query} {body}");
        }
        server.client.get("sync").await.refused(401, "M_MISSING_TOKEN");
        let r0 = bob.get("/_matrix/client/r0/sync").await.ok();
        assert!(joined(&r0, &room).is_object());
    }

    async fn a_room_without_a_name_is_named_after_its_members(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let carol = server.register("carol").await;
        let room = alice.create_room(json!({ "preset": "public_chat", "invite": [carol.user_id] })).await;
        let lazy = filter(&json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 1 } } }));
        bob.join(&room).await;
        let first = ask(&bob, &format!("timeout=0{lazy}")).await;
        let summary = &joined(&first, &room)["summary"];
        assert_eq!(*summary, json!({
            "m.heroes": [alice.user_id, carol.user_id], "m.joined_member_count": 2, "m.invited_member_count": 1,
        }));
        let members: BTreeSet<_> = list(&joined(&first, &room)["state"]["events"]).iter()
            .filter(|e| e["type"] == "m.room.member").filter_map(|e| e["state_key"].as_str()).collect();
        assert!(members.contains(carol.user_id.as_str()), "members the room is named after are told");
        alice.send_text(&room, "hello").await;
        let sync = since(&bob, &next(&first), &lazy).await;
        assert!(joined(&sync, &room).get("summary").is_none(), "nothing changed");
        carol.join(&room).await;
        let sync = since(&bob, &next(&sync), &lazy).await;
        assert_eq!(joined(&sync, &room)["summary"]["m.joined_member_count"], 3);
        alice.set_state(&room, "m.room.name", "", json!({ "name": "Kitchen" })).await;
        let sync = since(&bob, &next(&sync), &lazy).await;
        assert!(joined(&sync, &room)["summary"].get("m.heroes").is_none());
    }

    async fn stored_filters_apply(server) {
        let (alice, bob, room) = pair(server).await;
        let path = format!("user/{}/filter", encode(&bob.user_id));
        let quiet = json!({ "room": { "timeline": { "not_types": ["m.room.message"] }, "ephemeral": { "types": [] },
            "account_data": { "types": [] } }, "presence": { "types": [] }, "account_data": { "types": [] } });
        let id = text(&bob.post(&path, quiet).await.ok(), "filter_id");
        let first = ask(&bob, &format!("filter={id}")).await;
        assert!(first.get("account_data").is_none() && first.get("presence").is_none(), "{first}");
        alice.send_text(&room, "hello").await;
        let typing = format!("rooms/{}/typing/{}", encode(&room), encode(&alice.user_id));
        alice.put(&typing, json!({ "typing": true, "timeout": 30000 })).await.ok();
        let sync = since(&bob, &next(&first), &format!("&filter={id}")).await;
        assert_eq!(bodies(joined(&sync, &room)), Vec::<&str>::new());
        assert!(joined(&sync, &room).get("ephemeral").is_none_or(|e| e["events"] == json!([])), "{sync}");
    }
}
