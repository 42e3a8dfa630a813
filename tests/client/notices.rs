//! Push rules and unread counts, receipts, read markers, typing, presence.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, User, encode, text};
use crate::common::server::TestServer;

/// Alice and Bob in a room.
async fn pair(server: &TestServer) -> (User, User, String) {
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    (alice, bob, room)
}

fn counts(sync: &Value, room: &str) -> (u64, u64) {
    let unread = &sync["rooms"]["join"][room]["unread_notifications"];
    let count = |name: &str| unread[name].as_u64().unwrap_or(0);
    (count("notification_count"), count("highlight_count"))
}

fn ephemeral<'a>(sync: &'a Value, room: &str, kind: &str) -> Option<&'a Value> {
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    Some(&events.iter().find(|event| event["type"] == kind)?["content"])
}

fn presence<'a>(sync: &'a Value, user: &str) -> Option<&'a Value> {
    let events = sync["presence"]["events"].as_array()?;
    Some(&events.iter().rev().find(|event| event["sender"] == user)?["content"])
}

fn room_data<'a>(sync: &'a Value, room: &str, kind: &str) -> Option<&'a Value> {
    let events = sync["rooms"]["join"][room]["account_data"]["events"].as_array()?;
    Some(&events.iter().find(|event| event["type"] == kind)?["content"])
}

async fn next(user: &User) -> String {
    text(&user.sync(None, 0, None).await, "next_batch")
}

both_databases! {
    async fn push_rules_can_be_made_ordered_and_removed(server) {
        let alice = server.register("alice").await;
        let rules = alice.get("pushrules/").await.ok();
        for kind in ["override", "content", "room", "sender", "underride"] {
            assert!(rules["global"][kind].is_array(), "{rules}");
        }
        assert_eq!(alice.get("pushrules/global/").await.ok(), rules["global"]);
        let put = async |path: &str, body: Value| alice.put(&format!("pushrules/global/{path}"), body).await;
        put("content/cake", json!({ "pattern": "cake", "actions": ["notify"] })).await.ok();
        put("content/tea", json!({ "pattern": "tea", "actions": [] })).await.ok();
        put("content/milk?after=tea", json!({ "pattern": "milk", "actions": [] })).await.ok();
        put("override/quiet", json!({ "actions": [] })).await.ok();
        let rules = alice.get("pushrules/").await.ok();
        let ids = |kind: &str| {
            let rules = rules["global"][kind].as_array().expect("a list");
            rules.iter().map(|rule| text(rule, "rule_id")).collect::<Vec<_>>()
        };
        assert_eq!(ids("content")[..3], ["tea", "milk", "cake"]);
        assert_eq!(ids("override")[..2], [".m.rule.master", "quiet"]);
        let cake = alice.get("pushrules/global/content/cake").await.ok();
        let expected = json!({ "rule_id": "cake", "pattern": "cake", "actions": ["notify"], "enabled": true, "default": false });
        assert_eq!(cake, expected);

        put("content/cake/enabled", json!({ "enabled": false })).await.ok();
        assert_eq!(alice.get("pushrules/global/content/cake/enabled").await.ok(), json!({ "enabled": false }));
        put("content/cake/actions", json!({ "actions": [{ "set_tweak": "highlight" }] })).await.ok();
        let actions = alice.get("pushrules/global/content/cake/actions").await.ok();
        assert_eq!(actions, json!({ "actions": [{ "set_tweak": "highlight" }] }));
        alice.delete("pushrules/global/content/cake", None).await.ok();
        alice.get("pushrules/global/content/cake").await.refused(404, "M_NOT_FOUND");
        alice.delete("pushrules/global/content/cake", None).await.refused(404, "M_NOT_FOUND");

        put("content/x?after=none", json!({ "pattern": "x", "actions": [] })).await.refused(400, "M_UNKNOWN");
        put("content/.x", json!({ "pattern": "x", "actions": [] })).await.refused(400, "M_INVALID_PARAM");
        put("wrong/x", json!({ "actions": [] })).await.refused(400, "M_INVALID_PARAM");
        put("content/none/enabled", json!({ "enabled": true })).await.refused(404, "M_NOT_FOUND");
        alice.delete("pushrules/global/override/.m.rule.master", None).await.refused(400, "M_INVALID_PARAM");
        server.stop().await;
        server.restart().await;
        assert_eq!(alice.get("pushrules/global/content/milk").await.ok()["pattern"], "milk");
    }

    async fn push_rules_come_with_sync(server) {
        let alice = server.register("alice").await;
        let since = next(&alice).await;
        alice.put("pushrules/global/content/tea", json!({ "pattern": "tea", "actions": [] })).await.ok();
        let sync = alice.sync(Some(&since), 0, None).await;
        let event = sync["account_data"]["events"].as_array().expect("a list").iter().find(|e| e["type"] == "m.push_rules");
        assert_eq!(event.expect("told")["content"]["global"]["content"][0]["rule_id"], "tea");
    }

    async fn push_rules_decide_what_counts(server) {
        let (alice, bob, room) = pair(server).await;
        let since = next(&bob).await;
        alice.send_text(&room, "one").await;
        alice.send_text(&room, "two").await;
        let sync = bob.sync(Some(&since), 0, None).await;
        assert_eq!(counts(&sync, &room), (2, 0));

        let highlight = json!({ "pattern": "cake", "actions": ["notify", { "set_tweak": "highlight" }] });
        bob.put("pushrules/global/content/cake", highlight).await.ok();
        let since = text(&sync, "next_batch");
        alice.send_text(&room, "have some cake").await;
        let sync = bob.sync(Some(&since), 0, None).await;
        assert_eq!(counts(&sync, &room), (3, 1));

        let quiet = format!("pushrules/global/room/{}", encode(&room));
        bob.put(&quiet, json!({ "actions": [] })).await.ok();
        alice.send_text(&room, "are you there?").await;
        let since = text(&sync, "next_batch");
        let sync = bob.sync(Some(&since), 0, None).await;
        assert_eq!(counts(&sync, &room), (1, 1), "only the content rule is above the room's");
    }

    async fn notifications_are_listed(server) {
        let (alice, bob, room) = pair(server).await;
        let first = alice.send_text(&room, "one").await;
        let second = alice.send_text(&room, "two").await;
        bob.send_text(&room, "my own").await;
        bob.post(&format!("rooms/{}/receipt/m.read/{}", encode(&room), encode(&first)), json!({})).await.ok();
        let page = bob.get("notifications?limit=1").await.ok();
        let notifications = page["notifications"].as_array().expect("a list");
        assert_eq!(notifications.len(), 1);
        assert_eq!(notifications[0]["event"]["event_id"], second.as_str());
        assert_eq!((&notifications[0]["read"], &notifications[0]["room_id"]), (&json!(false), &json!(room)));
        let from = text(&page, "next_token");
        let page = bob.get(&format!("notifications?from={from}")).await.ok();
        assert_eq!(page["notifications"][0]["event"]["event_id"], first.as_str());
        assert_eq!(page["notifications"][0]["read"], true);
        assert_eq!(bob.get("notifications?only=highlight").await.ok()["notifications"], json!([]));
    }

    async fn pushers_are_kept(server) {
        let alice = server.register("alice").await;
        let pusher = json!({
            "app_id": "org.example.app",
            "pushkey": "key",
            "kind": "http",
            "app_display_name": "App",
            "device_display_name": "Phone",
            "lang": "en",
            "data": { "url": "https://push.example.org/_matrix/push/v1/notify", "format": "event_id_only", "x": 1 },
        });
        alice.post("pushers/set", pusher.clone()).await.ok();
        assert_eq!(alice.get("pushers").await.ok(), json!({ "pushers": [pusher] }));
        let bob = server.register("bob").await;
        bob.post("pushers/set", pusher.clone()).await.ok();
        assert_eq!(alice.get("pushers").await.ok(), json!({ "pushers": [] }), "the phone changed hands");
        let gone = json!({ "app_id": "org.example.app", "pushkey": "key", "kind": null });
        bob.post("pushers/set", gone).await.ok();
        assert_eq!(bob.get("pushers").await.ok(), json!({ "pushers": [] }));
        let mut bad = pusher;
        bad["data"]["url"] = "https://push.example.org/elsewhere".into();
        alice.post("pushers/set", bad).await.refused(400, "M_INVALID_PARAM");
    }

    async fn receipts_are_seen_by_whom_they_concern(server) {
        let (alice, bob, room) = pair(server).await;
        let event = alice.send_text(&room, "read me").await;
        let (since_alice, since_bob) = (next(&alice).await, next(&bob).await);
        let path = |kind: &str, event: &str| format!("rooms/{}/receipt/{kind}/{}", encode(&room), encode(event));
        bob.post(&path("m.read.private", &event), json!({})).await.ok();
        let sync = bob.sync(Some(&since_bob), 0, None).await;
        let content = ephemeral(&sync, &room, "m.receipt").expect("one's own private receipt");
        assert!(content[&event]["m.read.private"][&bob.user_id]["ts"].is_u64(), "{content}");
        assert_eq!(counts(&sync, &room), (0, 0));
        let sync = alice.sync(Some(&since_alice), 0, None).await;
        assert_eq!(ephemeral(&sync, &room, "m.receipt"), None, "{sync:#}");

        bob.post(&path("m.read", &event), json!({ "thread_id": null })).await.ok();
        let sync = alice.sync_until(Some(&since_alice), |sync| ephemeral(sync, &room, "m.receipt").is_some()).await;
        let content = ephemeral(&sync, &room, "m.receipt").expect("sync_until saw it");
        assert!(content[&event]["m.read"][&bob.user_id].get("thread_id").is_none(), "{content}");

        bob.post(&path("m.read", "$unknown"), json!({})).await.refused(404, "M_NOT_FOUND");
        bob.post(&path("m.other", &event), json!({})).await.refused(400, "M_INVALID_PARAM");
        bob.post(&path("m.read", &event), json!({ "thread_id": "" })).await.refused(400, "M_INVALID_PARAM");
        bob.post(&path("m.fully_read", &event), json!({ "thread_id": "main" })).await.refused(400, "M_INVALID_PARAM");
        let carol = server.register("carol").await;
        carol.post(&path("m.read", &event), json!({})).await.refused(403, "M_FORBIDDEN");
    }

    async fn threads_are_read_apart(server) {
        let (alice, bob, room) = pair(server).await;
        let root = alice.send_text(&room, "root").await;
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        let reply = json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": relation });
        let reply = alice.send(&room, "m.room.message", reply).await;
        let filter = json!({ "room": { "timeline": { "unread_thread_notifications": true } } }).to_string();
        let sync = bob.sync(None, 0, Some(&filter)).await;
        let block = |sync: &Value| sync["rooms"]["join"][&room].clone();
        assert_eq!(counts(&sync, &room).0, 1);
        assert_eq!(block(&sync)["unread_thread_notifications"][&root]["notification_count"], 1, "{sync:#}");

        let path = format!("rooms/{}/receipt/m.read/{}", encode(&room), encode(&reply));
        bob.post(&path, json!({ "thread_id": "main" })).await.refused(400, "M_INVALID_PARAM");
        let alice_since = next(&alice).await;
        bob.post(&path, json!({ "thread_id": root })).await.ok();
        let since = text(&sync, "next_batch");
        let sync = bob.sync(Some(&since), 0, Some(&filter)).await;
        assert_eq!(counts(&sync, &room).0, 1, "the main timeline is unread still: {sync:#}");
        assert!(block(&sync)["unread_thread_notifications"].get(&root).is_none(), "{sync:#}");
        let seen = alice.sync_until(Some(&alice_since), |sync| ephemeral(sync, &room, "m.receipt").is_some()).await;
        let content = ephemeral(&seen, &room, "m.receipt").expect("sync_until saw it");
        assert_eq!(content[&reply]["m.read"][&bob.user_id]["thread_id"], root.as_str());
    }

    async fn read_markers_reset_the_counts(server) {
        let (alice, bob, room) = pair(server).await;
        let first = alice.send_text(&room, "one").await;
        let second = alice.send_text(&room, "two").await;
        let sync = bob.sync(None, 0, None).await;
        assert_eq!(counts(&sync, &room).0, 2);
        let path = format!("rooms/{}/read_markers", encode(&room));
        bob.post(&path, json!({ "m.fully_read": second, "m.read": second, "m.read.private": null })).await.ok();
        let since = text(&sync, "next_batch");
        let sync = bob.sync(Some(&since), 0, None).await;
        assert_eq!(counts(&sync, &room), (0, 0));
        assert_eq!(room_data(&sync, &room, "m.fully_read"), Some(&json!({ "event_id": second })));

        bob.post(&path, json!({ "m.fully_read": first })).await.ok();
        let marker = format!("user/{}/rooms/{}/account_data/m.fully_read", encode(&bob.user_id), encode(&room));
        assert_eq!(bob.get(&marker).await.ok(), json!({ "event_id": second }), "never backwards");
        let third = alice.send_text(&room, "three").await;
        let path = format!("rooms/{}/receipt/m.fully_read/{}", encode(&room), encode(&third));
        bob.post(&path, json!({})).await.ok();
        assert_eq!(bob.get(&marker).await.ok(), json!({ "event_id": third }));
        bob.post(&format!("rooms/{}/read_markers", encode(&room)), json!({})).await.ok();
    }

    async fn typing_starts_stops_and_ends_by_itself(server) {
        let (alice, bob, room) = pair(server).await;
        let since = next(&bob).await;
        let path = format!("rooms/{}/typing/{}", encode(&room), encode(&alice.user_id));
        let typing = |users: Value| {
            let room = room.clone();
            move |sync: &Value| ephemeral(sync, &room, "m.typing").is_some_and(|content| content["user_ids"] == users)
        };
        alice.put(&path, json!({ "typing": true, "timeout": 20_000 })).await.ok();
        let sync = bob.sync_until(Some(&since), typing(json!([alice.user_id]))).await;
        alice.put(&path, json!({ "typing": false })).await.ok();
        let sync = bob.sync_until(Some(&text(&sync, "next_batch")), typing(json!([]))).await;
        alice.put(&path, json!({ "typing": true, "timeout": 500 })).await.ok();
        let sync = bob.sync_until(Some(&text(&sync, "next_batch")), typing(json!([alice.user_id]))).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        bob.sync_until(Some(&text(&sync, "next_batch")), typing(json!([]))).await;

        bob.put(&path, json!({ "typing": true })).await.refused(403, "M_FORBIDDEN");
        let carol = server.register("carol").await;
        let path = format!("rooms/{}/typing/{}", encode(&room), encode(&carol.user_id));
        carol.put(&path, json!({ "typing": true })).await.refused(403, "M_FORBIDDEN");
    }

    async fn presence_is_seen_by_whom_one_meets(server) {
        let (alice, bob, room) = pair(server).await;
        let carol = server.register("carol").await;
        let path = format!("presence/{}/status", encode(&alice.user_id));
        let since = next(&bob).await;
        alice.put(&path, json!({ "presence": "unavailable", "status_msg": "lunch" })).await.ok();
        let away = |sync: &Value| presence(sync, &alice.user_id).is_some_and(|content| content["presence"] == "unavailable");
        let sync = bob.sync_until(Some(&since), away).await;
        assert_eq!(presence(&sync, &alice.user_id).expect("seen")["status_msg"], "lunch");
        let seen = bob.get(&path).await.ok();
        assert_eq!((&seen["presence"], &seen["status_msg"]), (&json!("unavailable"), &json!("lunch")));

        alice.send_text(&room, "back").await;
        let back = |sync: &Value| presence(sync, &alice.user_id).is_some_and(|content| content["presence"] == "online");
        bob.sync_until(Some(&text(&sync, "next_batch")), back).await;

        carol.get(&path).await.refused(403, "M_FORBIDDEN");
        bob.put(&path, json!({ "presence": "online" })).await.refused(403, "M_FORBIDDEN");
        alice.put(&path, json!({ "presence": "sleepy" })).await.refused(400, "M_INVALID_PARAM");
        let unseen = carol.sync(None, 0, None).await;
        assert_eq!(presence(&unseen, &alice.user_id), None);
    }

    async fn who_syncs_is_online_unless_it_says_otherwise(server) {
        let (alice, bob, _room) = pair(server).await;
        let path = format!("presence/{}/status", encode(&alice.user_id));
        alice.get("sync?set_presence=offline").await.ok();
        assert_eq!(bob.get(&path).await.ok()["presence"], "offline");
        let since = next(&bob).await;
        alice.get("sync?set_presence=unavailable").await.ok();
        assert_eq!(bob.get(&path).await.ok()["presence"], "unavailable");
        alice.get("sync").await.ok();
        bob.sync_until(Some(&since), |sync| {
            presence(sync, &alice.user_id).is_some_and(|content| content["presence"] == "online")
        })
        .await;
    }

    async fn presence_and_keys_of_those_who_come_into_sight_are_told_once(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        alice.sync(None, 0, None).await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let path = format!("presence/{}/status", encode(&alice.user_id));
        alice.put(&path, json!({ "presence": "online", "status_msg": "here" })).await.ok();
        let since = next(&bob).await;
        bob.join(&room).await;
        let sync = bob.sync_until(Some(&since), |sync| sync["rooms"]["join"][&room].is_object()).await;
        assert_eq!(presence(&sync, &alice.user_id).expect("in sight")["status_msg"], "here");
        let changed = |sync: &Value, user: &User| {
            let changed = sync["device_lists"]["changed"].as_array();
            changed.is_some_and(|changed| changed.contains(&json!(user.user_id)))
        };
        assert!(changed(&sync, &alice), "{sync:#}");
        let since = text(&sync, "next_batch");
        let path = format!("profile/{}/displayname", encode(&bob.user_id));
        bob.put(&path, json!({ "displayname": "Bob" })).await.ok();
        let sync = bob.sync_until(Some(&since), |sync| !crate::common::client::timeline(sync, &room).is_empty()).await;
        assert!(!changed(&sync, &alice) && !changed(&sync, &bob), "a name moves nobody: {sync:#}");
    }
}
