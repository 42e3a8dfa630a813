//! Local users: lists, changes, devices, what they keep.

use serde_json::json;

use super::{V1, V2, admin, all, path, until};
use crate::common::client::{AnswerExt, PASSWORD, User, text};

both_databases! {
    async fn users_are_listed_in_any_order_and_part_by_part(server) {
        let root = admin(server).await;
        for name in ["alice", "bob", "carol"] {
            let user = server.register(name).await;
            let display = json!({ "displayname": format!("The {name}") });
            user.put(&format!("profile/{}/displayname", user.user_id), display).await.ok();
        }
        let page = root.get(&format!("{V2}/users?limit=2")).await.ok();
        assert_eq!((all(&page["users"], "name"), &page["total"]), (vec!["@alice:localhost", "@bob:localhost"], &json!(4)));
        let next = text(&page, "next_token");
        let rest = root.get(&format!("{V2}/users?limit=2&from={next}")).await.ok();
        assert_eq!(all(&rest["users"], "name"), ["@carol:localhost", "@root:localhost"]);
        assert!(rest.get("next_token").is_none(), "{rest}");

        let back = root.get(&format!("{V2}/users?order_by=displayname&dir=b&name=the")).await.ok();
        assert_eq!(all(&back["users"], "displayname"), ["The carol", "The bob", "The alice"]);
        let admins = root.get(&format!("{V2}/users?admins=true")).await.ok();
        assert_eq!(all(&admins["users"], "user_id"), ["@root:localhost"]);

        // The older path, in the same shape.
        let older = root.get(&format!("{V1}/users?name=bob")).await.ok();
        let bob = &older["users"][0];
        assert_eq!((bob["user_id"].as_str(), &bob["admin"], &bob["deactivated"]), (Some("@bob:localhost"), &json!(false), &json!(false)));
        root.post(&format!("{V1}/deactivate/@bob:localhost"), json!({})).await.ok();
        let v2 = root.get(&format!("{V2}/users")).await.ok();
        assert_eq!(v2["total"], 3, "deactivated users only where they are asked for");
        let v3 = root.get("/_synapse/admin/v3/users?deactivated=true").await.ok();
        assert_eq!(all(&v3["users"], "name"), ["@bob:localhost"]);
        assert_eq!(root.get("/_synapse/admin/v3/users").await.ok()["total"], 4);
    }

    async fn users_are_made_changed_ended_and_brought_back(server) {
        let root = admin(server).await;
        let dora = format!("{V2}/users/@dora:localhost");
        let body = json!({ "password": PASSWORD, "displayname": "Dora", "user_type": "bot" });
        let (status, made) = root.put(&dora, body).await;
        assert_eq!((status, &made["name"], &made["user_type"]), (201, &json!("@dora:localhost"), &json!("bot")), "{made}");
        let user = User::login(&server.client, "dora").await;
        let changed = root.put(&dora, json!({ "displayname": "D.", "admin": true, "user_type": null })).await.ok();
        assert_eq!((&changed["displayname"], &changed["admin"], &changed["user_type"]), (&json!("D."), &json!(true), &json!(null)));
        user.get(&format!("{V1}/status")).await.ok();
        root.put(&format!("{V1}/users/@dora:localhost/admin"), json!({ "admin": false })).await.ok();
        assert_eq!(root.get(&format!("{V1}/users/@dora:localhost/admin")).await.ok(), json!({ "admin": false }));

        // A new password ends the sessions, unless that is not wanted.
        root.post(&format!("{V1}/users/@dora:localhost/password"), json!({ "new_password": "other", "logout_devices": false })).await.ok();
        user.get("account/whoami").await.ok();
        root.post(&format!("{V1}/reset_password/@dora:localhost"), json!({ "new_password": PASSWORD })).await.ok();
        user.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");

        let user = User::login(&server.client, "dora").await;
        let room = user.create_room(json!({})).await;
        root.post(&format!("{V1}/users/@dora:localhost/deactivate"), json!({ "erase": true })).await.ok();
        user.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        let shown = root.get(&dora).await.ok();
        assert_eq!((&shown["deactivated"], &shown["erased"], &shown["displayname"]), (&json!(true), &json!(true), &json!(null)));
        until(&root, &format!("{V1}/users/@dora:localhost/joined_rooms"), |answer| answer["total"] == 0).await;
        assert!(room.starts_with('!'));

        root.put(&dora, json!({ "deactivated": false, "password": PASSWORD })).await.ok();
        User::login(&server.client, "dora").await;
        assert_eq!(root.delete(&format!("{V1}/users/@dora:localhost"), None).await.ok(), json!({ "deleted": true }));
        root.put(&format!("{V2}/users/@root:localhost"), json!({ "deactivated": true })).await.refused(400, "M_INVALID_PARAM");
        root.put(&format!("{V2}/users/@Upper:localhost"), json!({})).await.refused(400, "M_INVALID_USERNAME");
        root.put(&format!("{V2}/users/@a:elsewhere"), json!({})).await.refused(400, "M_INVALID_PARAM");
        root.put(&dora, json!({ "threepids": [{ "medium": "email" }] })).await.refused(400, "M_INVALID_PARAM");
        root.get(&format!("{V2}/users/@nobody:localhost")).await.refused(404, "M_NOT_FOUND");
        let free = root.get(&format!("{V1}/username_available?username=free")).await.ok();
        assert_eq!(free, json!({ "available": true }));
        root.get(&format!("{V1}/username_available?username=dora")).await.refused(400, "M_USER_IN_USE");
    }

    async fn what_a_user_has_is_told(server) {
        let root = admin(server).await;
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({ "name": "Kitchen" })).await;
        alice.invite(&room, &root.user_id).await;
        alice.put(&format!("user/{}/account_data/org.example", alice.user_id), json!({ "a": 1 })).await.ok();
        let of = |what: &str| path(V1, &format!("users/{{}}/{what}"), &[&alice.user_id]);

        assert_eq!(root.get(&of("joined_rooms")).await.ok(), json!({ "joined_rooms": [room], "total": 1 }));
        let rooms = root.get(&of("rooms")).await.ok();
        let first = &rooms["rooms"][0];
        assert_eq!((&first["name"], &first["joined_members"], &first["joined_local_members"]), (&json!("Kitchen"), &json!(1), &json!(1)));
        assert_eq!(root.get(&of("memberships")).await.ok()["memberships"][&room], "join");
        assert_eq!(root.get(&of("accountdata")).await.ok()["account_data"]["global"]["org.example"], json!({ "a": 1 }));
        assert_eq!(root.get(&of("pushers")).await.ok(), json!({ "pushers": [], "total": 0 }));
        assert_eq!(root.get(&of("sent_invite_count?from_ts=0")).await.ok(), json!({ "invite_count": 1 }));
        assert_eq!(root.get(&of("cumulative_joined_room_count?from_ts=0")).await.ok(), json!({ "cumulative_joined_room_count": 1 }));
        let found = root.get(&format!("{V1}/search_users/@root:localhost?term=lic")).await.ok();
        assert_eq!(all(&found, "name"), ["@alice:localhost"]);
        root.get(&format!("{V1}/threepid/email/users/a@example.org")).await.refused(404, "M_NOT_FOUND");

        let devices = path(V2, "users/{}/devices", &[&alice.user_id]);
        let (status, _) = root.post(&devices, json!({ "device_id": "NEW", "display_name": "Made" })).await;
        assert_eq!(status, 201);
        assert_eq!(root.get(&devices).await.ok()["total"], 2);
        root.put(&format!("{devices}/NEW"), json!({ "display_name": "Other" })).await.ok();
        assert_eq!(root.get(&format!("{devices}/NEW")).await.ok()["display_name"], "Other");
        root.delete(&format!("{devices}/NEW"), None).await.ok();
        root.get(&format!("{devices}/NEW")).await.refused(404, "M_NOT_FOUND");
        let whois = root.get(&path(V1, "whois/{}", &[&alice.user_id])).await.ok();
        assert_eq!(whois["devices"][&alice.device_id]["sessions"][0]["connections"][0]["ip"], "127.0.0.1", "{whois}");
        alice.get(&format!("admin/whois/{}", alice.user_id)).await.ok();
        alice.get("admin/whois/@root:localhost").await.refused(403, "M_FORBIDDEN");
        let delete = path(V2, "users/{}/delete_devices", &[&alice.user_id]);
        root.post(&delete, json!({ "devices": [alice.device_id] })).await.ok();
        alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    }

    async fn an_administrator_acts_as_a_user_and_holds_one_back(server) {
        let root = admin(server).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
        bob.join(&room).await;
        let login = path(V1, "users/{}/login", &[&bob.user_id]);
        let session = root.post(&login, json!({})).await.ok();
        let acting = User::from_login(&server.client, &session);
        assert_eq!(acting.get("account/whoami").await.ok()["user_id"], "@bob:localhost");
        root.post(&login, json!({ "valid_until_ms": 5 })).await.refused(400, "M_INVALID_PARAM");
        let until_ms = 32_503_680_000_000_i64;
        root.post(&login, json!({ "valid_until_ms": until_ms })).await.ok();

        // What a shadow-banned user says is acknowledged and reaches nobody.
        let ban = path(V1, "users/{}/shadow_ban", &[&bob.user_id]);
        root.post(&ban, json!({})).await.ok();
        bob.send_text(&room, "unheard").await;
        root.delete(&ban, None).await.ok();
        bob.send_text(&room, "heard").await;
        let heard = alice.get(&format!("rooms/{room}/messages?dir=b&limit=50")).await.ok().to_string();
        assert!(heard.contains("\"heard\"") && !heard.contains("unheard"), "{heard}");

        let suspend = path(V1, "suspend/{}", &[&bob.user_id]);
        root.put(&suspend, json!({ "suspend": true })).await.ok();
        let send = format!("rooms/{room}/send/m.room.message/1");
        bob.put(&send, json!({ "msgtype": "m.text", "body": "x" })).await.refused(403, "M_USER_SUSPENDED");
        let stable = "/_matrix/client/v1/admin";
        assert_eq!(root.get(&format!("{stable}/suspend/@bob:localhost")).await.ok(), json!({ "suspended": true }));
        root.put(&format!("{stable}/lock/@bob:localhost"), json!({ "locked": true })).await.ok();
        bob.get("account/whoami").await.refused(401, "M_USER_LOCKED");
        root.put(&format!("{stable}/lock/@bob:localhost"), json!({ "locked": false })).await.ok();
        bob.get("account/whoami").await.ok();
        root.put(&format!("{stable}/lock/@root:localhost"), json!({ "locked": true })).await.refused(403, "M_FORBIDDEN");

        let limit = path(V1, "users/{}/override_ratelimit", &[&bob.user_id]);
        assert_eq!(root.get(&limit).await.ok(), json!({}));
        let own = json!({ "messages_per_second": 1, "burst_count": 2 });
        assert_eq!(root.post(&limit, own.clone()).await.ok(), own);
        assert_eq!(root.get(&limit).await.ok(), own);
        root.delete(&limit, None).await.ok();
        assert_eq!(root.get(&limit).await.ok(), json!({}));
    }

    config |table| {
        let limits = "enabled = true\nmessage = { per_second = 0.01, burst = 2 }\nlogin = { per_second = 100, burst = 1000 }\n\
                      registration = { per_second = 100, burst = 1000 }";
        table.insert("rate_limits".into(), limits.parse::<toml::Table>().expect("a table").into());
    }
    async fn a_user_may_have_limits_of_their_own(server) {
        let root = admin(server).await;
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        for _ in 0..2 {
            alice.send_text(&room, "x").await;
        }
        let send = |number: u32| format!("rooms/{room}/send/m.room.message/more{number}");
        let message = json!({ "msgtype": "m.text", "body": "x" });
        alice.put(&send(0), message.clone()).await.refused(429, "M_LIMIT_EXCEEDED");
        let limit = path(V1, "users/{}/override_ratelimit", &[&alice.user_id]);
        root.post(&limit, json!({ "messages_per_second": 0 })).await.ok();
        for number in 1..9 {
            alice.put(&send(number), message.clone()).await.ok();
        }
        server.stop().await;
        server.restart().await;
        for number in 9..13 {
            alice.put(&send(number), message.clone()).await.ok();
        }
        root.delete(&limit, None).await.ok();
        for number in 20..22 {
            alice.put(&send(number), message.clone()).await.ok();
        }
        alice.put(&send(22), message).await.refused(429, "M_LIMIT_EXCEEDED");
    }
}
