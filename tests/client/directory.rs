//! Aliases, the list of public rooms, the user directory, spaces, previews, searches, reports.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, encode, text};

fn room_ids(answer: &Value, list: &str) -> Vec<String> {
    let rooms = answer[list].as_array().map_or(&[][..], Vec::as_slice);
    rooms.iter().map(|room| text(room, "room_id")).collect()
}

fn alias_path(alias: &str) -> String {
    format!("directory/room/{}", encode(alias))
}

both_databases! {
    async fn aliases_lead_to_rooms(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "tea" })).await;
        let found = server.client.get(&alias_path("#tea:localhost")).await.ok();
        assert_eq!(found, json!({ "room_id": room, "servers": ["localhost"] }));
        alice.post("createRoom", json!({ "room_alias_name": "tea" })).await.refused(400, "M_ROOM_IN_USE");
        bob.post(&format!("join/{}", encode("#tea:localhost")), json!({})).await.ok();

        let coffee = alias_path("#coffee:localhost");
        bob.put(&coffee, json!({ "room_id": room })).await.ok();
        bob.put(&coffee, json!({ "room_id": room })).await.refused(409, "M_UNKNOWN");
        let other = alice.create_room(json!({})).await;
        bob.put(&alias_path("#x:localhost"), json!({ "room_id": other })).await.refused(403, "M_FORBIDDEN");
        bob.put(&alias_path("#x:elsewhere"), json!({ "room_id": room })).await.refused(400, "M_INVALID_PARAM");
        bob.put(&alias_path("nothing"), json!({ "room_id": room })).await.refused(400, "M_INVALID_PARAM");
        let aliases = alice.get(&format!("rooms/{}/aliases", encode(&room))).await.ok();
        assert_eq!(aliases["aliases"], json!(["#coffee:localhost", "#tea:localhost"]));

        let path = format!("rooms/{}/state/m.room.canonical_alias", encode(&room));
        let unknown = json!({ "alias": "#unknown:localhost" });
        alice.put(&path, unknown).await.refused(400, "M_BAD_ALIAS");
        let both = json!({ "alias": "#tea:localhost", "alt_aliases": ["#coffee:localhost"] });
        alice.put(&path, both).await.ok();
        let elsewhere = format!("rooms/{}/state/m.room.canonical_alias", encode(&other));
        alice.put(&elsewhere, json!({ "alias": "#tea:localhost" })).await.refused(400, "M_BAD_ALIAS");

        bob.delete(&alias_path("#tea:localhost"), None).await.refused(403, "M_FORBIDDEN");
        bob.delete(&coffee, None).await.ok();
        alice.delete(&alias_path("#tea:localhost"), None).await.ok();
        server.client.get(&alias_path("#tea:localhost")).await.refused(404, "M_NOT_FOUND");
        assert_eq!(alice.get(&path).await.ok().get("alias"), None);
    }

    async fn public_rooms_are_listed_and_searched(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let public = |name: &str| json!({ "visibility": "public", "name": name, "topic": "drinks" });
        let tea = alice.create_room(public("Tea Room")).await;
        let space = json!({ "visibility": "public", "name": "Space", "creation_content": { "type": "m.space" } });
        let space = alice.create_room(space).await;
        let coffee = alice.create_room(public("Coffee")).await;
        alice.create_room(json!({ "preset": "public_chat", "name": "unlisted tea" })).await;
        bob.join(&coffee).await;

        server.client.get("publicRooms").await.refused(401, "M_MISSING_TOKEN");
        let list = bob.get("publicRooms").await.ok();
        assert_eq!(list["total_room_count_estimate"], 3);
        assert_eq!(room_ids(&list, "chunk")[0], coffee, "the biggest comes first: {list}");
        assert_eq!(list["chunk"][0]["num_joined_members"], 2);
        assert_eq!(list["chunk"][0]["join_rule"], "public");
        let mut found = Vec::new();
        let mut since = String::new();
        loop {
            let page = bob.get(&format!("publicRooms?limit=1{since}")).await.ok();
            found.extend(room_ids(&page, "chunk"));
            match page["next_batch"].as_str() {
                Some(next) => since = format!("&since={next}"),
                None => break,
            }
        }
        assert_eq!(found, [coffee.clone(), tea.clone(), space.clone()]);

        let search = async |filter: Value| bob.post("publicRooms", json!({ "filter": filter })).await.ok();
        assert_eq!(room_ids(&search(json!({ "generic_search_term": "tea" })).await, "chunk"), std::slice::from_ref(&tea));
        assert_eq!(room_ids(&search(json!({ "generic_search_term": "DRINKS" })).await, "chunk"), [coffee, tea.clone()]);
        assert_eq!(room_ids(&search(json!({ "room_types": ["m.space"] })).await, "chunk"), [space]);

        let listed = format!("directory/list/room/{}", encode(&tea));
        assert_eq!(server.client.get(&listed).await.ok()["visibility"], "public");
        bob.put(&listed, json!({ "visibility": "private" })).await.refused(403, "M_FORBIDDEN");
        alice.put(&listed, json!({ "visibility": "private" })).await.ok();
        assert_eq!(server.client.get(&listed).await.ok()["visibility"], "private");
        assert_eq!(bob.get("publicRooms").await.ok()["total_room_count_estimate"], 2);
    }

    config |table| {
        let directory = toml::toml! {
            allow_publication = false
            allow_public_rooms_without_auth = true
        };
        table.insert("room_directory".into(), directory.into());
    }
    async fn the_directory_may_be_closed_to_users_and_open_to_readers(server) {
        let alice = server.register("alice").await;
        alice.post("createRoom", json!({ "visibility": "public" })).await.refused(403, "M_FORBIDDEN");
        let room = alice.create_room(json!({})).await;
        let listed = format!("directory/list/room/{}", encode(&room));
        alice.put(&listed, json!({ "visibility": "public" })).await.refused(403, "M_FORBIDDEN");
        assert_eq!(server.client.get("publicRooms").await.ok()["chunk"], json!([]));
    }

    config |table| {
        table.insert("room_directory".into(), toml::toml! { allow_public_rooms_without_auth = true }.into());
    }
    async fn the_directory_may_be_read_without_a_token(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({ "visibility": "public", "name": "Open" })).await;
        for path in ["publicRooms", "/_matrix/client/r0/publicRooms", "publicRooms?limit=1"] {
            let list = server.client.get(path).await.ok();
            assert_eq!(room_ids(&list, "chunk"), std::slice::from_ref(&room), "{path}");
        }
        // A token that is there has to be good, and searching needs one.
        let forged = server.client.request("GET", "publicRooms", Some("forged"), None).await;
        forged.refused(401, "M_UNKNOWN_TOKEN");
        server.client.post("publicRooms", json!({})).await.refused(401, "M_MISSING_TOKEN");
    }

    async fn r0_keeps_the_shapes_of_its_reference(server) {
        let alice = server.register("alice").await;
        let r0 = |path: &str| format!("/_matrix/client/r0/{path}");
        let room = text(&alice.post(&r0("publicRooms"), json!({ "name": "New", "visibility": "public" })).await.ok(), "room_id");
        let state = alice.get(&r0(&format!("rooms/{}/state", encode(&room)))).await.ok();
        assert!(state["events"].as_array().is_some_and(|events| events.len() > 4), "{state}");
        let bare = alice.get(&format!("rooms/{}/state", encode(&room))).await.ok();
        assert!(bare.is_array(), "{bare}");
        let path = r0(&format!("directory/room/{}", encode(&room)));
        assert_eq!(server.client.get(&path).await.ok()["room_id"], room.as_str());
        alice.delete(&path, None).await.ok();
        assert_eq!(alice.get("publicRooms").await.ok()["chunk"], json!([]));
        let topic = alice.post(&r0(&format!("rooms/{}/state/m.room.topic", encode(&room))), json!({ "topic": "t" })).await.ok();
        assert_eq!((&topic["type"], &topic["state_key"]), (&json!("m.room.topic"), &json!("")));
        let report = alice.send_text(&room, "bad").await;
        let report = r0(&format!("rooms/{}/report/{}", encode(&room), encode(&report)));
        alice.post(&report, json!({ "score": 5 })).await.refused(400, "M_BAD_JSON");
        alice.put(&format!("{report}/score"), json!({ "score": -1 })).await.refused(404, "M_NOT_FOUND");
        alice.post(&report, json!({ "reason": "spam", "score": -50 })).await.ok();
        alice.put(&format!("{report}/score"), json!({ "score": -1 })).await.ok();
        let unknown = format!("rooms/{}/report/$unknown", encode(&room));
        alice.post(&unknown, json!({})).await.refused(404, "M_NOT_FOUND");
        alice.post(&format!("rooms/{}/report", encode(&room)), json!({ "reason": "spam" })).await.ok();
        alice.post("users/@nobody:localhost/report", json!({ "reason": "x" })).await.refused(404, "M_NOT_FOUND");
    }

    async fn users_find_those_they_could_meet(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        server.register("bobby").await;
        bob.put(&format!("profile/{}/displayname", encode(&bob.user_id)), json!({ "displayname": "The Builder" })).await.ok();
        let search = async |term: &str| alice.post("user_directory/search", json!({ "search_term": term })).await.ok();
        assert_eq!(search("bob").await, json!({ "results": [], "limited": false }));
        let room = alice.create_room(json!({})).await;
        alice.invite(&room, &bob.user_id).await;
        bob.join(&room).await;
        let found = json!([{ "user_id": "@bob:localhost", "display_name": "The Builder" }]);
        assert_eq!(search("bob").await["results"], found);
        assert_eq!(search("builder").await["results"], found);
        assert_eq!(search("b%b").await["results"], json!([]));
    }

    async fn spaces_show_their_tree(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let space = json!({ "preset": "public_chat", "name": "Top", "creation_content": { "type": "m.space" } });
        let top = alice.create_room(space.clone()).await;
        let inner = alice.create_room(space).await;
        let open = alice.create_room(json!({ "preset": "public_chat", "name": "Open" })).await;
        let closed = alice.create_room(json!({ "name": "Closed" })).await;
        for (parent, child, order) in [(&top, &open, "b"), (&top, &inner, "a"), (&inner, &closed, "a")] {
            let content = json!({ "via": ["localhost"], "order": order, "suggested": *child == open });
            alice.set_state(parent, "m.space.child", child, content).await;
        }
        let base = format!("/_matrix/client/v1/rooms/{}/hierarchy", encode(&top));
        let all = alice.get(&base).await.ok();
        assert_eq!(room_ids(&all, "rooms"), [top.clone(), inner.clone(), closed.clone(), open.clone()]);
        assert_eq!(all["rooms"][0]["children_state"].as_array().map(Vec::len), Some(2), "{all}");
        assert_eq!(room_ids(&bob.get(&base).await.ok(), "rooms"), [top.clone(), inner.clone(), open.clone()]);
        assert_eq!(room_ids(&alice.get(&format!("{base}?suggested_only=true")).await.ok(), "rooms"), [top.clone(), open.clone()]);
        assert_eq!(room_ids(&alice.get(&format!("{base}?max_depth=1")).await.ok(), "rooms"), [top.clone(), inner.clone(), open.clone()]);
        let first = alice.get(&format!("{base}?limit=3")).await.ok();
        let next = text(&first, "next_batch");
        assert_eq!(room_ids(&alice.get(&format!("{base}?limit=3&from={next}")).await.ok(), "rooms"), std::slice::from_ref(&open));
        alice.get(&format!("{base}?max_depth=1&from={next}")).await.refused(400, "M_INVALID_PARAM");
        let closed_base = format!("/_matrix/client/v1/rooms/{}/hierarchy", encode(&closed));
        bob.get(&closed_base).await.refused(403, "M_FORBIDDEN");

        let summary = |room: &str| format!("/_matrix/client/v1/room_summary/{}", encode(room));
        let seen = bob.get(&summary(&open)).await.ok();
        assert_eq!((&seen["name"], &seen["membership"]), (&json!("Open"), &json!("leave")), "{seen}");
        bob.get(&summary(&closed)).await.refused(404, "M_NOT_FOUND");
        assert_eq!(server.client.get(&summary(&open)).await.ok().get("membership"), None);
    }

    async fn words_are_found_in_the_searchers_rooms(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Winter tales" })).await;
        let other = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let first = bob.send_text(&room, "The winter is \"long\"").await;
        alice.send_text(&other, "winter elsewhere").await;
        let second = alice.send_text(&room, "a WINTER night").await;
        let search = async |criteria: Value, query: &str| {
            let body = json!({ "search_categories": { "room_events": criteria } });
            bob.post(&format!("search{query}"), body).await.ok()["search_categories"]["room_events"].clone()
        };
        let hits = |answer: &Value| -> Vec<String> {
            let results = answer["results"].as_array().cloned().unwrap_or_default();
            results.iter().map(|result| text(&result["result"], "event_id")).collect()
        };
        let found = search(json!({ "search_term": "winter", "keys": ["content.body"] }), "").await;
        assert_eq!(hits(&found), [second.clone(), first.clone()]);
        assert_eq!(hits(&search(json!({ "search_term": "winter" }), "").await).len(), 3, "the name counts too");
        let quoted = json!({ "search_term": "\"long\" the", "event_context": { "before_limit": 1, "after_limit": 1 } });
        let found = search(quoted, "").await;
        assert_eq!(hits(&found), std::slice::from_ref(&first));
        assert_eq!(found["results"][0]["context"]["events_after"][0]["event_id"], second.as_str(), "{found}");
        let paged = json!({ "search_term": "winter", "keys": ["content.body"], "filter": { "limit": 1 } });
        let page = search(paged.clone(), "").await;
        assert_eq!(hits(&page), [second]);
        let next = format!("?next_batch={}", text(&page, "next_batch"));
        assert_eq!(hits(&search(paged, &next).await), [first]);
    }
}
