//! What users keep on the server: account data, tags, filters, profiles.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, User, encode, text, timeline};

fn own(user: &User, rest: &str) -> String {
    format!("user/{}/{rest}", encode(&user.user_id))
}

/// The content of the newest account data event of a type.
fn data<'a>(events: &'a Value, kind: &str) -> Option<&'a Value> {
    let events = events["events"].as_array()?;
    Some(&events.iter().rev().find(|event| event["type"] == kind)?["content"])
}

fn member<'a>(sync: &'a Value, room: &str, user: &str) -> Option<&'a Value> {
    let event = timeline(sync, room)
        .iter()
        .rev()
        .find(|event| event["type"] == "m.room.member" && event["state_key"] == user)?;
    Some(&event["content"])
}

both_databases! {
    async fn account_data_comes_with_sync(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let since = text(&alice.sync(None, 0, None).await, "next_batch");
        let path = own(&alice, "account_data/org.example.colour");
        alice.get(&path).await.refused(404, "M_NOT_FOUND");
        alice.put(&path, json!({ "colour": "blue", "big": 12345678901234567890_u64 })).await.ok();
        assert_eq!(alice.get(&path).await.ok()["colour"], "blue");

        let in_room = own(&alice, &format!("rooms/{}/account_data/org.example.colour", encode(&room)));
        alice.get(&in_room).await.refused(404, "M_NOT_FOUND");
        alice.put(&in_room, json!({ "colour": "red" })).await.ok();
        let sync = alice.sync(Some(&since), 0, None).await;
        assert_eq!(data(&sync["account_data"], "org.example.colour"), Some(&json!({ "colour": "blue", "big": 12345678901234567890_u64 })));
        let room_data = &sync["rooms"]["join"][&room]["account_data"];
        assert_eq!(data(room_data, "org.example.colour"), Some(&json!({ "colour": "red" })), "{sync:#}");
        let again = alice.sync(None, 0, None).await;
        assert_eq!(data(&again["account_data"], "org.example.colour").map(|c| &c["colour"]), Some(&json!("blue")));
    }

    async fn a_poll_is_woken_by_account_data(server) {
        let alice = server.register("alice").await;
        let sync = alice.sync_until(None, |sync| sync["account_data"]["events"].is_array()).await;
        let since = text(&sync, "next_batch");
        let path = own(&alice, "account_data/org.example.colour");
        let waiting = alice.sync_until(Some(&since), |sync| data(&sync["account_data"], "org.example.colour").is_some());
        let change = async {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            alice.put(&path, json!({ "colour": "blue" })).await.ok();
        };
        tokio::join!(waiting, change);
    }

    async fn deleted_account_data_is_told_once(server) {
        let alice = server.register("alice").await;
        let path = own(&alice, "account_data/org.example.colour");
        alice.put(&path, json!({ "colour": "blue" })).await.ok();
        let since = text(&alice.sync(None, 0, None).await, "next_batch");
        let delete = format!("/_matrix/client/unstable/org.matrix.msc3391/{path}");
        alice.delete(&delete, None).await.ok();
        alice.get(&path).await.refused(404, "M_NOT_FOUND");
        let sync = alice.sync(Some(&since), 0, None).await;
        assert_eq!(data(&sync["account_data"], "org.example.colour"), Some(&json!({})));
        let afresh = alice.sync(None, 0, None).await;
        assert_eq!(data(&afresh["account_data"], "org.example.colour"), None);
    }

    async fn account_data_is_private_and_partly_the_servers(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({})).await;
        bob.get(&own(&alice, "account_data/m.push_rules")).await.refused(403, "M_FORBIDDEN");
        bob.put(&own(&alice, "account_data/org.example"), json!({})).await.refused(403, "M_FORBIDDEN");
        let rules = own(&alice, "account_data/m.push_rules");
        alice.put(&rules, json!({})).await.refused(405, "M_BAD_JSON");
        assert!(alice.get(&rules).await.ok()["global"]["override"].is_array());
        let marker = own(&alice, &format!("rooms/{}/account_data/m.fully_read", encode(&room)));
        alice.put(&marker, json!({ "event_id": "$x" })).await.refused(405, "M_BAD_JSON");
        alice.put(&own(&alice, "account_data/org.example"), json!([])).await.refused(400, "M_BAD_JSON");
    }

    async fn ignored_users_fall_silent(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let ignored = json!({ "ignored_users": { &bob.user_id: {} } });
        alice.put(&own(&alice, "account_data/m.ignored_user_list"), ignored).await.ok();
        let since = text(&alice.sync(None, 0, None).await, "next_batch");
        bob.send_text(&room, "psst").await;
        let own_event = alice.send_text(&room, "hello?").await;
        let sync = alice.sync_until(Some(&since), |sync| !timeline(sync, &room).is_empty()).await;
        let ids: Vec<_> = timeline(&sync, &room).iter().map(|event| event["event_id"].clone()).collect();
        assert_eq!(ids, [json!(own_event)]);
    }

    async fn tags_come_with_sync(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let since = text(&alice.sync(None, 0, None).await, "next_batch");
        let tags = own(&alice, &format!("rooms/{}/tags", encode(&room)));
        assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": {} }));
        alice.put(&format!("{tags}/u.work"), json!({ "order": 0.5, "org.example": true })).await.ok();
        alice.put(&format!("{tags}/m.favourite"), json!({})).await.ok();
        let sync = alice.sync(Some(&since), 0, None).await;
        let content = data(&sync["rooms"]["join"][&room]["account_data"], "m.tag");
        let expected = json!({ "tags": { "u.work": { "order": 0.5, "org.example": true }, "m.favourite": {} } });
        assert_eq!(content, Some(&expected));
        alice.delete(&format!("{tags}/u.work"), None).await.ok();
        assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": { "m.favourite": {} } }));
        let bob = server.register("bob").await;
        bob.get(&tags).await.refused(403, "M_FORBIDDEN");
    }

    async fn filters_are_kept_and_used(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({ "name": "Tea" })).await;
        alice.send_text(&room, "hello").await;
        let filter = json!({ "room": { "timeline": { "types": ["m.room.message"] } }, "org.example": 1 });
        let path = own(&alice, "filter");
        let id = text(&alice.post(&path, filter.clone()).await.ok(), "filter_id");
        assert_eq!(text(&alice.post(&path, filter.clone()).await.ok(), "filter_id"), id, "an equal filter is the same");
        assert_eq!(alice.get(&format!("{path}/{id}")).await.ok(), filter);
        alice.get(&format!("{path}/77")).await.refused(404, "M_NOT_FOUND");
        for filter in [&id, &filter.to_string()] {
            let sync = alice.sync(None, 0, Some(filter)).await;
            let kinds: Vec<_> = timeline(&sync, &room).iter().map(|event| event["type"].clone()).collect();
            assert_eq!(kinds, [json!("m.room.message")]);
        }
        alice.get("sync?filter=77").await.refused(400, "M_INVALID_PARAM");
        alice.get("sync?filter=%7Bbroken").await.refused(400, "M_INVALID_PARAM");
        let bob = server.register("bob").await;
        bob.post(&path, json!({})).await.refused(403, "M_FORBIDDEN");
    }

    async fn profile_fields_come_and_go(server) {
        let alice = server.register("alice").await;
        let profile = format!("profile/{}", encode(&alice.user_id));
        let set = async |name: &str, value: Value| alice.put(&format!("{profile}/{name}"), json!({ name: value })).await;
        set("displayname", json!("Alice")).await.ok();
        set("avatar_url", json!("mxc://localhost/cat")).await.ok();
        set("m.tz", json!("Europe/London")).await.ok();
        set("org.example.job", json!({ "title": "baker" })).await.ok();
        let all = json!({
            "displayname": "Alice",
            "avatar_url": "mxc://localhost/cat",
            "m.tz": "Europe/London",
            "org.example.job": { "title": "baker" },
        });
        assert_eq!(server.client.get(&profile).await.ok(), all);
        let job = server.client.get(&format!("{profile}/org.example.job")).await.ok();
        assert_eq!(job, json!({ "org.example.job": { "title": "baker" } }));

        alice.delete(&format!("{profile}/avatar_url"), None).await.ok();
        server.client.get(&format!("{profile}/avatar_url")).await.refused(404, "M_NOT_FOUND");
        server.client.get("profile/%40nobody%3Alocalhost").await.refused(404, "M_NOT_FOUND");
        set("avatar_url", json!("http://cat")).await.refused(400, "M_INVALID_PARAM");
        set("Wrong", json!(1)).await.refused(400, "M_INVALID_PARAM");
        set(&"x".repeat(256), json!(1)).await.refused(400, "M_KEY_TOO_LARGE");
        set("org.example.long", json!("x".repeat(70_000))).await.refused(400, "M_PROFILE_TOO_LARGE");
        alice.put(&format!("{profile}/m.tz"), json!({})).await.refused(400, "M_MISSING_PARAM");
        let bob = server.register("bob").await;
        bob.put(&format!("{profile}/displayname"), json!({ "displayname": "x" })).await.refused(403, "M_FORBIDDEN");

        let r0 = format!("/_matrix/client/r0/{profile}");
        assert_eq!(server.client.get(&r0).await.ok()["displayname"], "Alice");
    }

    async fn rooms_show_a_changed_profile(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let rooms = [
            alice.create_room(json!({ "preset": "public_chat" })).await,
            alice.create_room(json!({ "preset": "public_chat" })).await,
        ];
        for room in &rooms {
            bob.join(room).await;
        }
        let mut since = text(&bob.sync(None, 0, None).await, "next_batch");
        let profile = format!("profile/{}", encode(&alice.user_id));
        for name in ["A", "Al", "Alice"] {
            alice.put(&format!("{profile}/displayname"), json!({ "displayname": name })).await.ok();
        }
        for room in &rooms {
            let sync = bob
                .sync_until(Some(&since), |sync| {
                    member(sync, room, &alice.user_id).is_some_and(|content| content["displayname"] == "Alice")
                })
                .await;
            let content = member(&sync, room, &alice.user_id).expect("sync_until saw it");
            assert_eq!(content["membership"], "join");
        }
        since = text(&bob.sync(None, 0, None).await, "next_batch");
        alice.put(&format!("{profile}/org.example.x"), json!({ "org.example.x": 1 })).await.ok();
        alice.delete(&format!("{profile}/displayname"), None).await.ok();
        bob.sync_until(Some(&since), |sync| {
            member(sync, &rooms[0], &alice.user_id).is_some_and(|content| content.get("displayname").is_none())
        })
        .await;
    }
}
