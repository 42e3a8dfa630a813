//! Rooms as administrators read and change them.

use serde_json::json;

use super::{V1, admin, all, path, until};
use crate::common::client::{AnswerExt, text};

both_databases! {
    async fn rooms_are_listed_in_any_order_and_found(server) {
        let root = admin(server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let kitchen = alice.create_room(json!({ "name": "Kitchen", "topic": "Tea", "visibility": "public", "room_alias_name": "tea" })).await;
        let attic = bob.create_room(json!({ "name": "attic", "preset": "public_chat" })).await;
        alice.join(&attic).await;
        let unnamed = alice.create_room(json!({})).await;

        let rooms = root.get(&format!("{V1}/rooms?limit=2")).await.ok();
        assert_eq!(all(&rooms["rooms"], "room_id"), [&unnamed, &attic], "by name, whatever the case");
        assert_eq!((&rooms["total_rooms"], &rooms["next_batch"], &rooms["offset"]), (&json!(3), &json!(2), &json!(0)));
        let rest = root.get(&format!("{V1}/rooms?limit=2&from=2")).await.ok();
        assert_eq!((all(&rest["rooms"], "name"), &rest["prev_batch"]), (vec!["Kitchen"], &json!(0)));
        let largest = root.get(&format!("{V1}/rooms?order_by=joined_members&limit=1")).await.ok();
        assert_eq!(all(&largest["rooms"], "room_id"), [&attic]);
        for term in ["KITCH", "tea:", &kitchen] {
            let found = root.get(&path(V1, "rooms?search_term={}", &[term])).await.ok();
            assert_eq!(all(&found["rooms"], "room_id"), [&kitchen], "{term}");
        }
        let public = root.get(&format!("{V1}/rooms?public_rooms=true")).await.ok();
        let listed = &public["rooms"][0];
        assert_eq!((public["total_rooms"].as_i64(), &listed["creator"], &listed["joined_members"]), (Some(1), &json!(alice.user_id), &json!(1)));
        for order in ["canonical_alias", "version", "creator", "encryption", "federatable", "public", "join_rules",
            "guest_access", "history_visibility", "state_events", "joined_local_members"] {
            assert_eq!(root.get(&format!("{V1}/rooms?order_by={order}&dir=b")).await.ok()["total_rooms"], 3, "{order}");
        }

        let details = root.get(&path(V1, "rooms/{}", &[&kitchen])).await.ok();
        let figures = (&details["topic"], &details["joined_members"], &details["public"], &details["blocked"]);
        assert_eq!(figures, (&json!("Tea"), &json!(1), &json!(true), &json!(false)));
        assert!(details["state_events"].as_i64() > Some(5) && details["version"].is_string(), "{details}");
        let members = root.get(&path(V1, "rooms/{}/members", &[&attic])).await.ok();
        assert_eq!(members["total"], 2);
        let state = root.get(&path(V1, "rooms/{}/state?type=m.room.name", &[&kitchen])).await.ok();
        assert_eq!(state["state"][0]["content"]["name"], "Kitchen");
        let ends = root.get(&path(V1, "rooms/{}/forward_extremities", &[&kitchen])).await.ok();
        assert_eq!(ends["count"], 1);
        root.get(&format!("{V1}/rooms/!none:localhost")).await.refused(404, "M_NOT_FOUND");
    }

    async fn history_is_read_whatever_its_visibility(server) {
        let root = admin(server).await;
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({ "preset": "private_chat" })).await;
        let ids = [alice.send_text(&room, "one").await, alice.send_text(&room, "two").await, alice.send_text(&room, "three").await];
        root.get(&format!("rooms/{room}/messages?dir=b")).await.refused(403, "M_FORBIDDEN");
        let page = root.get(&path(V1, "rooms/{}/messages?dir=b&limit=2", &[&room])).await.ok();
        assert_eq!(all(&page["chunk"], "event_id"), [&ids[2], &ids[1]]);
        let end = text(&page, "end");
        let next = root.get(&path(V1, "rooms/{}/messages?dir=b&limit=1&from={}", &[&room, &end])).await.ok();
        assert_eq!(all(&next["chunk"], "event_id"), [&ids[0]]);
        let around = root.get(&path(V1, "rooms/{}/context/{}?limit=2", &[&room, &ids[1]])).await.ok();
        assert_eq!((&around["event"]["event_id"], all(&around["events_after"], "event_id")), (&json!(ids[1]), vec![ids[2].as_str()]));
        let first = root.get(&path(V1, "rooms/{}/timestamp_to_event?ts=0&dir=f", &[&room])).await.ok();
        assert!(first["origin_server_ts"].is_i64(), "{first}");
        let event = root.get(&path(V1, "fetch_event/{}", &[&ids[0]])).await.ok();
        assert_eq!(event["event"]["content"]["body"], "one");
        let space = alice.create_room(json!({ "creation_content": { "type": "m.space" } })).await;
        alice.set_state(&space, "m.space.child", &room, json!({ "via": ["localhost"] })).await;
        let tree = root.get(&path(V1, "rooms/{}/hierarchy", &[&space])).await.ok();
        assert_eq!(all(&tree["rooms"], "room_id"), [&space, &room]);
    }

    async fn power_and_membership_are_given_away(server) {
        let root = admin(server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        for version in ["11", "12"] {
            let room = alice.create_room(json!({ "preset": "private_chat", "room_version": version })).await;
            let joined = root.post(&path(V1, "join/{}", &[&room]), json!({ "user_id": bob.user_id })).await.ok();
            assert_eq!(joined["room_id"], room, "invited by a member, then joined");
            root.post(&path(V1, "rooms/{}/make_room_admin", &[&room]), json!({ "user_id": bob.user_id })).await.ok();
            bob.set_state(&room, "m.room.name", "", json!({ "name": "Bob's" })).await;
            // Without a name the administrator, who is invited.
            root.post(&path(V1, "rooms/{}/make_room_admin", &[&room]), json!({})).await.ok();
            root.join(&room).await;
        }
        root.post(&path(V1, "join/{}", &["!none:localhost"]), json!({ "user_id": "@nobody:localhost" })).await.refused(404, "M_NOT_FOUND");
    }

    async fn blocked_rooms_let_nobody_in(server) {
        let root = admin(server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let block = path(V1, "rooms/{}/block", &[&room]);
        assert_eq!(root.get(&block).await.ok(), json!({ "block": false }));
        root.put(&block, json!({ "block": true })).await.ok();
        assert_eq!(root.get(&block).await.ok()["user_id"], "@root:localhost");
        bob.post(&format!("join/{room}"), json!({})).await.refused(403, "M_FORBIDDEN");
        alice.post(&format!("rooms/{room}/invite"), json!({ "user_id": bob.user_id })).await.refused(403, "M_FORBIDDEN");
        root.put(&block, json!({ "block": false })).await.ok();
        bob.join(&room).await;
        root.put(&block, json!({})).await.refused(400, "M_MISSING_PARAM");
    }

    async fn everything_a_user_said_is_redacted(server) {
        let root = admin(server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        for number in 0..5 {
            bob.send_text(&room, &format!("bad {number}")).await;
        }
        alice.send_text(&room, "good").await;
        let redact = path(V1, "user/{}/redact", &[&bob.user_id]);
        let begun = root.post(&redact, json!({ "rooms": [], "reason": "spam" })).await.ok();
        let status = path(V1, "user/redact_status/{}", &[&text(&begun, "redact_id")]);
        let done = until(&root, &status, |answer| answer["status"] != "active").await;
        assert_eq!((&done["status"], &done["failed_redactions"]), (&json!("complete"), &json!({})));
        let left = alice.get(&format!("rooms/{room}/messages?dir=b&limit=50")).await.ok();
        let bodies: Vec<_> = left["chunk"].as_array().expect("a list").iter().filter_map(|event| event["content"]["body"].as_str()).collect();
        assert_eq!(bodies, ["good"]);
        root.get(&format!("{V1}/user/redact_status/none")).await.refused(404, "M_NOT_FOUND");
    }

    async fn reports_are_read_and_deleted(server) {
        let root = admin(server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Kitchen" })).await;
        bob.join(&room).await;
        let event = alice.send_text(&room, "rude").await;
        bob.post(&format!("rooms/{room}/report/{}", crate::common::client::encode(&event)), json!({ "reason": "rude", "score": -10 })).await.ok();
        bob.post(&format!("users/{}/report", alice.user_id), json!({ "reason": "always" })).await.ok();
        let reports = root.get(&format!("{V1}/event_reports?user_id=@bob:localhost")).await.ok();
        let report = &reports["event_reports"][0];
        let told = (&reports["total"], &report["sender"], &report["user_id"], &report["name"]);
        assert_eq!(told, (&json!(1), &json!(alice.user_id), &json!(bob.user_id), &json!("Kitchen")));
        let one = format!("{V1}/event_reports/{}", report["id"]);
        assert_eq!(root.get(&one).await.ok()["event_json"]["content"]["body"], "rude");
        root.delete(&one, None).await.ok();
        root.get(&one).await.refused(404, "M_NOT_FOUND");
        let users = root.get(&format!("{V1}/user_reports")).await.ok();
        assert_eq!((&users["total"], &users["user_reports"][0]["target_user_id"]), (&json!(1), &json!(alice.user_id)));
    }
}
