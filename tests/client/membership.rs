//! Who may come into a room, who may be put out of it, and what is left to those who are gone.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, User, encode};

async fn act(user: &User, room: &str, action: &str, target: &User) -> (u16, Value) {
    let path = format!("rooms/{}/{action}", encode(room));
    user.post(&path, json!({ "user_id": target.user_id })).await
}

async fn join(user: &User, room: &str) -> (u16, Value) {
    user.post(&format!("join/{}", encode(room)), json!({})).await
}

async fn membership(reader: &User, room: &str, user: &User) -> Value {
    let path = format!("rooms/{}/state/m.room.member/{}", encode(room), encode(&user.user_id));
    reader.get(&path).await.ok()["membership"].clone()
}

fn join_rule(rule: &Value) -> Value {
    json!({ "type": "m.room.join_rules", "state_key": "", "content": rule })
}

both_databases! {
    async fn public_rooms_are_open(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let answer = join(&bob, &room).await.ok();
        assert_eq!(answer["room_id"], room.as_str());
        join(&bob, &room).await.ok();
        assert_eq!(bob.get("joined_rooms").await.ok()["joined_rooms"], json!([room]));
        let members = bob.get(&format!("rooms/{}/members?membership=join", encode(&room))).await.ok();
        assert_eq!(members["chunk"].as_array().map(Vec::len), Some(2), "{members}");
        bob.leave(&room).await;
        assert_eq!(bob.get("joined_rooms").await.ok()["joined_rooms"], json!([]));
        let own = bob.get(&format!("user/{}/rooms", encode(&bob.user_id))).await.ok();
        assert_eq!(own["left"], json!([room]), "{own}");
    }

    async fn invites_open_closed_rooms_once(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "private_chat" })).await;
        join(&bob, &room).await.refused(403, "M_FORBIDDEN");
        act(&alice, &room, "invite", &bob).await.ok();
        assert_eq!(membership(&alice, &room, &bob).await, "invite");
        bob.leave(&room).await;
        join(&bob, &room).await.refused(403, "M_FORBIDDEN");
        act(&alice, &room, "invite", &bob).await.ok();
        join(&bob, &room).await.ok();
        act(&alice, &room, "invite", &bob).await.refused(403, "M_FORBIDDEN");
    }

    async fn invites_can_be_refused_by_their_target(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let config = format!("user/{}/account_data/m.invite_permission_config", encode(&bob.user_id));
        bob.put(&config, json!({ "default_action": "block" })).await.ok();
        let room = alice.create_room(json!({})).await;
        act(&alice, &room, "invite", &bob).await.refused(403, "M_INVITE_BLOCKED");
        let path = format!("rooms/{}/state/m.room.member/{}", encode(&room), encode(&bob.user_id));
        alice.put(&path, json!({ "membership": "invite" })).await.refused(403, "M_INVITE_BLOCKED");
        let threepid = json!({ "id_server": "id.example", "id_access_token": "t", "medium": "email", "address": "a@b.c" });
        let path = format!("rooms/{}/invite", encode(&room));
        alice.post(&path, threepid).await.refused(403, "M_THREEPID_DENIED");
    }

    async fn some_invites_are_refused_and_some_not_shown(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let carol = server.register("carol").await;
        let kind = "org.matrix.msc4155.invite_permission_config";
        let config = format!("user/{}/account_data/{kind}", encode(&bob.user_id));
        bob.put(&config, json!({ "blocked_users": ["@al*:*"], "ignored_servers": ["localhost"] })).await.ok();
        let options = json!({ "invite": [bob.user_id] });
        alice.post("createRoom", options).await.refused(403, "M_INVITE_BLOCKED");
        let room = alice.create_room(json!({})).await;
        act(&alice, &room, "invite", &bob).await.refused(403, "M_INVITE_BLOCKED");
        let hidden = carol.create_room(json!({})).await;
        act(&carol, &hidden, "invite", &bob).await.ok();
        let invites = async || bob.sync(None, 0, None).await["rooms"]["invite"].clone();
        assert!(invites().await.get(&hidden).is_none());
        bob.put(&config, json!({ "enabled": false, "ignored_servers": ["localhost"] })).await.ok();
        assert!(invites().await.get(&hidden).is_some());
        act(&alice, &room, "invite", &bob).await.ok();
    }

    async fn the_banned_stay_out_until_the_ban_is_lifted(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let carol = server.register("carol").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        join(&bob, &room).await.ok();
        join(&carol, &room).await.ok();
        act(&bob, &room, "kick", &carol).await.refused(403, "M_FORBIDDEN");
        act(&bob, &room, "ban", &alice).await.refused(403, "M_FORBIDDEN");
        act(&alice, &room, "kick", &carol).await.ok();
        assert_eq!(membership(&alice, &room, &carol).await, "leave");
        act(&alice, &room, "kick", &carol).await.refused(403, "M_FORBIDDEN");
        act(&alice, &room, "ban", &bob).await.ok();
        join(&bob, &room).await.refused(403, "M_FORBIDDEN");
        act(&alice, &room, "invite", &bob).await.refused(403, "M_FORBIDDEN");
        act(&alice, &room, "kick", &bob).await.refused(403, "M_FORBIDDEN");
        act(&alice, &room, "unban", &bob).await.ok();
        act(&alice, &room, "unban", &bob).await.refused(403, "M_FORBIDDEN");
        join(&bob, &room).await.ok();
    }

    async fn knocks_wait_for_an_answer(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let rule = join_rule(&json!({ "join_rule": "knock" }));
        let room = alice.create_room(json!({ "initial_state": [rule] })).await;
        join(&bob, &room).await.refused(403, "M_FORBIDDEN");
        let path = format!("knock/{}", encode(&room));
        bob.post(&path, json!({ "reason": "let me in" })).await.ok();
        assert_eq!(membership(&alice, &room, &bob).await, "knock");
        join(&bob, &room).await.refused(403, "M_FORBIDDEN");
        act(&alice, &room, "invite", &bob).await.ok();
        join(&bob, &room).await.ok();
        bob.post(&path, json!({})).await.refused(403, "M_FORBIDDEN");
        let closed = alice.create_room(json!({ "preset": "private_chat" })).await;
        bob.post(&format!("knock/{}", encode(&closed)), json!({})).await.refused(403, "M_FORBIDDEN");
    }

    async fn restricted_rooms_are_open_to_members_of_others(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let club = alice.create_room(json!({ "preset": "public_chat" })).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
        let rule = join_rule(&json!({ "join_rule": "restricted", "allow": allow }));
        let room = alice.create_room(json!({ "initial_state": [rule] })).await;
        join(&bob, &room).await.refused(403, "M_FORBIDDEN");
        join(&bob, &club).await.ok();
        join(&bob, &room).await.ok();
        let path = format!("rooms/{}/state/m.room.member/{}?format=event", encode(&room), encode(&bob.user_id));
        let event = bob.get(&path).await.ok();
        assert_eq!(event["content"]["join_authorised_via_users_server"], alice.user_id.as_str(), "{event}");
    }

    async fn only_rooms_that_were_left_can_be_forgotten(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        join(&bob, &room).await.ok();
        let forget = format!("rooms/{}/forget", encode(&room));
        bob.post(&forget, json!({})).await.refused(400, "M_UNKNOWN");
        bob.leave(&room).await;
        let messages = format!("rooms/{}/messages?dir=b", encode(&room));
        bob.get(&messages).await.ok();
        bob.post(&forget, json!({})).await.ok();
        bob.get(&messages).await.refused(403, "M_FORBIDDEN");
        join(&bob, &room).await.ok();
        bob.get(&messages).await.ok();
    }

    async fn guests_join_where_they_are_welcome(server) {
        let alice = server.register("alice").await;
        let answer = server.client.post("register?kind=guest", json!({})).await.ok();
        let guest = User::from_login(&server.client, &answer);
        let closed = alice.create_room(json!({ "preset": "public_chat" })).await;
        join(&guest, &closed).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
        alice.set_state(&closed, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).await;
        join(&guest, &closed).await.ok();
        guest.send_text(&closed, "hello").await;
        guest.post("createRoom", json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
        alice.set_state(&closed, "m.room.guest_access", "", json!({ "guest_access": "forbidden" })).await;
        assert_eq!(membership(&alice, &closed, &guest).await, "leave");
    }

    async fn shared_rooms_are_listed(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        alice.create_room(json!({})).await;
        let path = format!("/_matrix/client/v1/mutual_rooms?user_id={}", encode(&bob.user_id));
        assert_eq!(alice.get(&path).await.ok()["count"], 0);
        join(&bob, &room).await.ok();
        assert_eq!(alice.get(&path).await.ok(), json!({ "count": 1, "joined": [room] }));
        let own = format!("/_matrix/client/v1/mutual_rooms?user_id={}", encode(&alice.user_id));
        alice.get(&own).await.refused(400, "M_INVALID_PARAM");
    }
}
