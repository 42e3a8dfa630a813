//! Devices, password, deactivation, third-party identifiers.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, PASSWORD, User, encode, text};

fn password_auth(challenge: &Value, user: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password", "session": challenge["session"], "password": password,
        "identifier": { "type": "m.id.user", "user": user },
    })
}

both_databases! {
    async fn devices_are_listed_renamed_and_deleted(server) {
        let alice = server.register("alice").await;
        let phone = User::login(&server.client, "alice").await;
        let path = format!("devices/{}", phone.device_id);
        alice.put(&path, json!({ "display_name": "My phone" })).await.ok();
        let device = alice.get(&path).await.ok();
        assert_eq!(device["display_name"], "My phone");
        assert_eq!(device["last_seen_ip"], "127.0.0.1");
        alice.get("devices/NONE").await.refused(404, "M_NOT_FOUND");
        alice.put("devices/NONE", json!({ "display_name": "x" })).await.refused(404, "M_NOT_FOUND");
        alice.put(&path, json!({ "display_name": "x".repeat(101) })).await.refused(400, "M_TOO_LARGE");

        let challenge = alice.delete(&path, None).await;
        assert_eq!(challenge.0, 401);
        let wrong = json!({ "auth": password_auth(&challenge.1, "alice", "wrong") });
        let refused = alice.delete(&path, Some(wrong)).await.refused(401, "M_FORBIDDEN");
        assert_eq!(refused["session"], challenge.1["session"]);
        let right = json!({ "auth": password_auth(&challenge.1, "alice", PASSWORD) });
        let own = format!("devices/{}", alice.device_id);
        alice.delete(&own, Some(right.clone())).await.refused(403, "M_FORBIDDEN");
        alice.delete(&path, Some(right)).await.ok();
        phone.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        alice.get(&path).await.refused(404, "M_NOT_FOUND");
    }

    async fn many_devices_are_deleted_at_once_by_their_owner_only(server) {
        let alice = server.register("alice").await;
        server.register("bob").await;
        let others = [User::login(&server.client, "alice").await, User::login(&server.client, "alice").await];
        let ids: Vec<&str> = others.iter().map(|user| user.device_id.as_str()).collect();
        let challenge = alice.post("delete_devices", json!({ "devices": ids })).await;
        assert_eq!(challenge.0, 401);
        let bobs = json!({ "devices": ids, "auth": password_auth(&challenge.1, "bob", PASSWORD) });
        alice.post("delete_devices", bobs).await.refused(403, "M_FORBIDDEN");
        let own = json!({ "devices": ids, "auth": password_auth(&challenge.1, "alice", PASSWORD) });
        alice.post("delete_devices", own).await.ok();
        assert_eq!(alice.get("devices").await.ok()["devices"].as_array().map(Vec::len), Some(1));
    }

    async fn a_new_password_ends_other_devices_unless_asked_not_to(server) {
        let alice = server.register("alice").await;
        let phone = User::login(&server.client, "alice").await;
        let body = json!({ "new_password": "second", "logout_devices": false });
        let challenge = alice.post("account/password", body.clone()).await;
        let mut body = body;
        body["auth"] = password_auth(&challenge.1, "alice", PASSWORD);
        alice.post("account/password", body).await.ok();
        phone.get("account/whoami").await.ok();

        let challenge = alice.post("account/password", json!({ "new_password": "third" })).await;
        let auth = password_auth(&challenge.1, "alice", "second");
        alice.post("account/password", json!({ "new_password": "third", "auth": auth })).await.ok();
        alice.get("account/whoami").await.ok();
        phone.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        for (password, status) in [(PASSWORD, 403), ("second", 403), ("third", 200)] {
            let login = json!({ "type": "m.login.password", "user": "alice", "password": password });
            assert_eq!(server.client.post("login", login).await.0, status, "{password}");
        }
    }

    async fn a_deactivated_account_is_gone_for_good(server) {
        let alice = server.register("alice").await;
        let challenge = alice.post("account/deactivate", json!({ "erase": true })).await;
        assert_eq!(challenge.0, 401);
        let auth = password_auth(&challenge.1, "alice", PASSWORD);
        let answer = alice.post("account/deactivate", json!({ "erase": true, "auth": auth })).await.ok();
        assert_eq!(answer["id_server_unbind_result"], "success");
        alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        let login = json!({ "type": "m.login.password", "user": "alice", "password": PASSWORD });
        server.client.post("login", login).await.refused(403, "M_FORBIDDEN");
        let again = json!({ "username": "alice", "password": PASSWORD });
        server.client.register(again).await.refused(400, "M_USER_IN_USE");
    }

    async fn there_are_no_third_party_identifiers(server) {
        let alice = server.register("alice").await;
        assert_eq!(alice.get("account/3pid").await.ok(), json!({ "threepids": [] }));
        let email = json!({ "client_secret": "s", "email": "a@example.org", "send_attempt": 1 });
        for path in ["register/email/requestToken", "account/password/email/requestToken", "account/3pid/email/requestToken"] {
            server.client.post(path, email.clone()).await.refused(403, "M_THREEPID_DENIED");
        }
    }

    async fn an_openid_token_tells_who_somebody_is(server) {
        let alice = server.register("alice").await;
        let path = |user: &str| format!("user/{}/openid/request_token", encode(user));
        let token = alice.post(&path(&alice.user_id), json!({})).await.ok();
        assert_eq!((&token["token_type"], &token["matrix_server_name"]), (&json!("Bearer"), &json!("localhost")));
        let info = "/_matrix/federation/v1/openid/userinfo?access_token=";
        let found = server.client.get(&format!("{info}{}", text(&token, "access_token"))).await.ok();
        assert_eq!(found, json!({ "sub": alice.user_id }));
        server.client.get(&format!("{info}guessed")).await.refused(401, "M_UNKNOWN_TOKEN");
        alice.post(&path("@bob:localhost"), json!({})).await.refused(403, "M_FORBIDDEN");
    }
}
