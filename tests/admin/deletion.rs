//! Rooms and their past are deleted for good.

use serde_json::json;

use super::{PATIENCE, V1, V2, admin, all, path, until};
use crate::common::client::{AnswerExt, User, encode, text};

/// Everything that a user sees of a room's history, newest first.
async fn bodies(user: &User, room: &str) -> Vec<String> {
    let page = user.get(&format!("rooms/{room}/messages?dir=b&limit=200")).await.ok();
    let events = page["chunk"].as_array().cloned().unwrap_or_default();
    let body = |event: &serde_json::Value| event["content"]["body"].as_str().map(str::to_owned);
    events.iter().filter_map(body).collect()
}

both_databases! {
    async fn a_deleted_room_is_gone_and_can_be_made_anew(server) {
        let root = admin(server).await;
        let (alice, bob, carol) = (server.register("alice").await, server.register("bob").await, server.register("carol").await);
        let options = json!({ "preset": "public_chat", "room_alias_name": "tea", "visibility": "public" });
        let room = alice.create_room(options.clone()).await;
        bob.join(&room).await;
        alice.invite(&room, &carol.user_id).await;
        alice.send_text(&room, "secret").await;
        let since = text(&bob.sync(None, 0, None).await, "next_batch");

        let gone = root.delete(&path(V1, "rooms/{}", &[&room]), Some(json!({ "purge": true }))).await.ok();
        assert_eq!(gone["deleted"], true);
        let mut kicked: Vec<_> = gone["kicked_users"].as_array().expect("a list").iter().filter_map(|user| user.as_str()).collect();
        kicked.sort_unstable();
        assert_eq!(kicked, [&alice.user_id, &bob.user_id, &carol.user_id]);
        assert_eq!((&gone["local_aliases"], &gone["failed_to_kick_users"], &gone["new_room_id"]), (&json!(["#tea:localhost"]), &json!([]), &json!(null)));

        for user in [&alice, &bob] {
            user.get(&format!("rooms/{room}/messages?dir=b")).await.refused(403, "M_FORBIDDEN");
            assert_eq!(user.get("joined_rooms").await.ok(), json!({ "joined_rooms": [] }));
            user.put(&format!("rooms/{room}/send/m.room.message/1"), json!({ "body": "x" })).await.refused(403, "M_FORBIDDEN");
        }
        bob.sync(Some(&since), 0, None).await;
        let fresh = alice.sync(None, 0, None).await;
        assert!(fresh["rooms"]["join"].get(&room).is_none(), "{fresh}");
        root.get(&path(V1, "rooms/{}", &[&room])).await.refused(404, "M_NOT_FOUND");
        root.delete(&path(V1, "rooms/{}", &[&room]), Some(json!({}))).await.refused(404, "M_NOT_FOUND");
        assert_eq!(root.get(&format!("{V1}/rooms")).await.ok()["total_rooms"], 0);
        alice.create_room(options).await;
        server.kill();
        server.restart().await;
        assert_eq!(root.get(&format!("{V1}/rooms")).await.ok()["total_rooms"], 1);
        alice.get(&format!("rooms/{room}/messages?dir=b")).await.refused(403, "M_FORBIDDEN");
    }

    async fn a_room_is_deleted_in_the_background_for_another(server) {
        let root = admin(server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "tea" })).await;
        bob.join(&room).await;
        let wish = json!({ "new_room_user_id": root.user_id, "room_name": "Closed", "message": "No more tea", "block": true });
        let begun = root.delete(&path(V2, "rooms/{}", &[&room]), Some(wish)).await.ok();
        let id = text(&begun, "delete_id");
        let status = path(V2, "rooms/delete_status/{}", &[&id]);
        let done = until(&root, &status, |answer| !matches!(answer["status"].as_str(), Some("purging" | "active"))).await;
        assert_eq!(done["status"], "complete", "{done}");
        let new = text(&done["shutdown_room"], "new_room_id");
        let all_of_room = root.get(&path(V2, "rooms/{}/delete_status", &[&room])).await.ok();
        assert_eq!(all(&all_of_room["results"], "delete_id"), [&id]);
        assert_eq!(bob.get("joined_rooms").await.ok(), json!({ "joined_rooms": [new] }));
        assert_eq!(bodies(&bob, &new).await, ["No more tea"]);
        let alias = bob.get(&format!("directory/room/{}", encode("#tea:localhost"))).await.ok();
        assert_eq!(alias["room_id"], new);
        bob.post(&format!("rooms/{new}/invite"), json!({ "user_id": "@x:localhost" })).await.refused(403, "M_FORBIDDEN");
        bob.post(&format!("join/{room}"), json!({})).await.refused(403, "M_FORBIDDEN");
        let tasks = root.get(&format!("{V1}/scheduled_tasks")).await.ok();
        assert_eq!(all(&tasks["scheduled_tasks"], "id"), [&id]);
        root.get(&path(V2, "rooms/delete_status/{}", &["none"])).await.refused(404, "M_NOT_FOUND");
    }

    async fn a_room_is_shut_down_and_stays(server) {
        let root = admin(server).await;
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({ "name": "Kitchen" })).await;
        let body = json!({ "room_id": room, "message": "Closed", "new_room_name": "Other" });
        let closed = root.post(&format!("{V1}/shutdown_room"), body).await.ok();
        assert_eq!((&closed["kicked_users"], &closed["new_room_id"]), (&json!([alice.user_id]), &json!(null)));
        let details = root.get(&path(V1, "rooms/{}", &[&room])).await.ok();
        assert_eq!((&details["joined_members"], &details["forgotten"]), (&json!(0), &json!(true)));
        root.post(&format!("{V1}/shutdown_room"), json!({})).await.refused(400, "M_MISSING_PARAM");
    }

    async fn history_is_purged_up_to_an_event_and_the_room_goes_on(server) {
        let root = admin(server).await;
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let mut ids = Vec::new();
        for number in 0..60 {
            ids.push(alice.send_text(&room, &format!("m{number}")).await);
        }
        let purge = path(V1, "purge_history/{}/{}", &[&room, &ids[50]]);
        let finished = |begun: serde_json::Value| path(V1, "purge_history_status/{}", &[&text(&begun, "purge_id")]);
        // Messages of this server's users are kept unless that is asked for.
        let status = finished(root.post(&purge, json!({})).await.ok());
        let done = until(&root, &status, |answer| answer["status"] != "active").await;
        assert_eq!((&done["status"], &done["deleted_events"]), (&json!("complete"), &json!(0)));
        let status = finished(root.post(&purge, json!({ "delete_local_events": true })).await.ok());
        let done = until(&root, &status, |answer| answer["status"] != "active").await;
        assert_eq!((&done["status"], &done["deleted_events"]), (&json!("complete"), &json!(50)));

        let left: Vec<String> = (50..60).rev().map(|number| format!("m{number}")).collect();
        assert_eq!(bodies(&alice, &room).await, left);
        alice.get(&format!("rooms/{room}/event/{}", encode(&ids[3]))).await.refused(404, "M_NOT_FOUND");
        alice.send_text(&room, "after").await;
        let bob = server.register("bob").await;
        bob.join(&room).await;
        assert_eq!(bodies(&bob, &room).await[0], "after");
        server.kill();
        server.restart().await;
        assert_eq!(bodies(&alice, &room).await.len(), 11);

        // The path with the room in the body says how far back it goes.
        let begun = root.post(&format!("{V1}/purge_history"), json!({ "room_id": room })).await.ok();
        assert!(begun["purge_up_to_ts"].is_i64(), "{begun}");
        let status = finished(begun);
        let done = until(&root, &status, |answer| answer["status"] != "active").await;
        assert_eq!(done["status"], "complete");
        assert_eq!(bodies(&alice, &room).await.len(), 11);
        root.post(&path(V1, "purge_history/{}/{}", &[&room, "$none"]), json!({})).await.refused(404, "M_NOT_FOUND");
    }

    async fn a_death_in_between_is_made_up_for(server) {
        let root = admin(server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        for point in ["admin.noted:1", "admin.noted:2", "room.purged:1"] {
            let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "tea" })).await;
            bob.join(&room).await;
            alice.send_text(&room, "x").await;
            server.kill();
            server.restart_with(&[("SYNAPSE_RUST_FAILPOINT", point)]).await;
            // Whether it was answered does not matter.
            let wish = json!({ "purge": true });
            let _answer = root.client.try_request("DELETE", &path(V2, "rooms/{}", &[&room]), Some(&root.token), Some(&wish)).await;
            assert!(server.ended(PATIENCE).await, "{point} was not reached");
            server.restart().await;
            let of_room = path(V2, "rooms/{}/delete_status", &[&room]);
            let done = until(&root, &of_room, |answer| answer["results"][0]["status"] == "complete").await;
            let result = &done["results"][0]["shutdown_room"];
            assert_eq!(result["kicked_users"].as_array().map(Vec::len), Some(2), "{point}: {done}");
            root.get(&path(V1, "rooms/{}", &[&room])).await.refused(404, "M_NOT_FOUND");
            assert_eq!(root.get(&format!("{V1}/rooms")).await.ok()["total_rooms"], 0, "{point}");
            assert_eq!(root.get(&format!("{V1}/server_stats")).await.ok()["total_messages"], 0, "{point}");
        }
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let mut last = String::new();
        for number in 0..5 {
            last = alice.send_text(&room, &number.to_string()).await;
        }
        server.kill();
        server.restart_with(&[("SYNAPSE_RUST_FAILPOINT", "admin.noted:1")]).await;
        let purge = path(V1, "purge_history/{}/{}", &[&room, &last]);
        let wish = json!({ "delete_local_events": true });
        let _answer = root.client.try_request("POST", &purge, Some(&root.token), Some(&wish)).await;
        assert!(server.ended(PATIENCE).await, "the purge notes nothing");
        server.restart().await;
        let tasks = root.get(&format!("{V1}/scheduled_tasks?action_name=purge_history")).await.ok();
        let status = path(V1, "purge_history_status/{}", &all(&tasks["scheduled_tasks"], "id"));
        let done = until(&root, &status, |answer| answer["status"] != "active").await;
        assert_eq!((&done["status"], &done["deleted_events"]), (&json!("complete"), &json!(4)));
        assert_eq!(bodies(&alice, &room).await, ["4"]);
    }
}
