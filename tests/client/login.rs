//! Logins of all kinds, refreshing tokens, guests, registration by token and by shared secret.

use serde_json::{Value, json};

use crate::common::{
    client::{AnswerExt, Client, PASSWORD, User, text},
    server::TestServer,
};

async fn whoami(client: &Client, token: &str) -> (u16, Value) {
    client.request("GET", "account/whoami", Some(token), None).await
}

/// An administrator, made by the command line through the shared secret.
async fn admin(server: &TestServer) -> User {
    let made = server.run_command(&["register-user", "--user", "root", "--password", PASSWORD, "--admin"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    User::login(&server.client, "root").await
}

both_databases! {
    async fn logins_come_in_many_shapes(server) {
        server.register("alice").await;
        let flows = server.client.get("login").await.ok();
        let password = json!({ "type": "m.login.password" });
        assert!(flows["flows"].as_array().is_some_and(|flows| flows.contains(&password)), "{flows}");

        for who in [
            json!({ "identifier": { "type": "m.id.user", "user": "@alice:localhost" } }),
            json!({ "identifier": { "type": "m.id.user", "user": "Alice" } }),
            json!({ "user": "alice", "device_id": "OLD", "initial_device_display_name": "Old" }),
        ] {
            let mut body = json!({ "type": "m.login.password", "password": PASSWORD });
            body.as_object_mut().expect("an object").extend(who.as_object().expect("an object").clone());
            let answer = server.client.post("login", body).await.ok();
            assert_eq!(answer["user_id"], "@alice:localhost");
            assert!(answer.get("refresh_token").is_none(), "{answer}");
        }
        let third = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "a@example.org" });
        for (body, status, errcode) in [
            (json!({}), 400, "M_MISSING_PARAM"),
            (json!({ "type": "org.example.unheard" }), 400, "M_UNKNOWN"),
            (json!({ "type": "m.login.password", "password": PASSWORD }), 400, "M_MISSING_PARAM"),
            (json!({ "type": "m.login.password", "user": "alice" }), 400, "M_MISSING_PARAM"),
            (json!({ "type": "m.login.password", "identifier": third, "password": PASSWORD }), 403, "M_FORBIDDEN"),
            (json!({ "type": "m.login.password", "user": "@alice:elsewhere", "password": PASSWORD }), 403, "M_FORBIDDEN"),
            (json!({ "type": "m.login.token", "token": "guessed" }), 403, "M_FORBIDDEN"),
            (json!({ "type": "m.login.password", "user": "alice", "password": PASSWORD, "device_id": "a\0b" }), 400, "M_INVALID_PARAM"),
        ] {
            server.client.post("login", body).await.refused(status, errcode);
        }
    }

    async fn a_device_that_logs_in_again_has_one_token(server) {
        let first = server.client.register(json!({
            "username": "alice", "password": PASSWORD, "device_id": "PHONE", "initial_device_display_name": "Phone",
        }));
        let first = first.await.ok();
        let body = json!({
            "type": "m.login.password", "user": "alice", "password": PASSWORD,
            "device_id": "PHONE", "initial_device_display_name": "Ignored",
        });
        let second = server.client.post("login", body).await.ok();
        whoami(&server.client, &text(&first, "access_token")).await.refused(401, "M_UNKNOWN_TOKEN");
        let alice = User::from_login(&server.client, &second);
        let devices = alice.get("devices").await.ok();
        assert_eq!(devices["devices"].as_array().map(Vec::len), Some(1));
        assert_eq!(devices["devices"][0]["display_name"], "Phone");
    }

    async fn a_login_token_serves_once(server) {
        let alice = server.register("alice").await;
        let path = "/_matrix/client/v1/login/get_token";
        let challenge = alice.post(path, json!({})).await;
        assert_eq!(challenge.0, 401);
        assert_eq!(challenge.1["flows"], json!([{ "stages": ["m.login.password"] }]));
        let auth = json!({
            "type": "m.login.password", "session": challenge.1["session"], "password": PASSWORD,
            "identifier": { "type": "m.id.user", "user": "alice" },
        });
        let token = alice.post(path, json!({ "auth": auth })).await.ok();
        assert!(token["expires_in_ms"].as_i64().is_some_and(|ms| ms > 0), "{token}");
        let login = json!({ "type": "m.login.token", "token": token["login_token"] });
        let answer = server.client.post("login", login.clone()).await.ok();
        assert_eq!(answer["user_id"], "@alice:localhost");
        server.client.post("login", login).await.refused(403, "M_FORBIDDEN");
    }

    config |table| {
        let mut tokens = toml::Table::new();
        tokens.insert("access_token_lifetime_secs".into(), 1.into());
        table.insert("tokens".into(), tokens.into());
    }
    async fn tokens_expire_and_are_refreshed(server) {
        let body = json!({ "username": "alice", "password": PASSWORD, "refresh_token": true });
        let first = server.client.register(body).await.ok();
        assert_eq!((&first["expires_in_ms"], &first["expires_in"]), (&json!(1_000), &json!(1_000)));
        let (access, refresh) = (text(&first, "access_token"), text(&first, "refresh_token"));
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let gone = whoami(&server.client, &access).await.refused(401, "M_UNKNOWN_TOKEN");
        assert_eq!(gone["soft_logout"], true);

        // Twice, as if the first answer had been lost.
        server.client.post("refresh", json!({ "refresh_token": refresh })).await.ok();
        let second = server.client.post("refresh", json!({ "refresh_token": refresh })).await.ok();
        whoami(&server.client, &text(&second, "access_token")).await.ok();
        let again = server.client.post("refresh", json!({ "refresh_token": refresh })).await;
        again.refused(401, "M_UNKNOWN_TOKEN");
        let third = json!({ "refresh_token": second["refresh_token"] });
        let third = server.client.post("refresh", third).await.ok();
        let logged_in = json!({ "user_id": "@alice:localhost", "device_id": first["device_id"], "access_token": third["access_token"] });
        User::from_login(&server.client, &logged_in).post("logout", json!({})).await.ok();
        let late = json!({ "refresh_token": third["refresh_token"] });
        server.client.post("refresh", late).await.refused(401, "M_UNKNOWN_TOKEN");
    }

    config |table| { table["registration"]["allow_guest_access"] = true.into(); }
    async fn guests_have_numbers_and_few_rights(server) {
        let body = json!({ "username": "ignored", "device_id": "IGNORED" });
        let answer = server.client.post("register?kind=guest", body).await.ok();
        let guest = User::from_login(&server.client, &answer);
        let local = guest.user_id.trim_start_matches('@').split(':').next().unwrap_or_default();
        assert!(local.bytes().all(|b| b.is_ascii_digit()), "{answer}");
        assert_ne!(guest.device_id, "IGNORED");
        assert_eq!(guest.get("account/whoami").await.ok()["is_guest"], true);
        guest.post("account/password", json!({ "new_password": "x" })).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }

    config |table| { table["registration"]["allow_guest_access"] = false.into(); }
    async fn without_guest_access_there_are_none(server) {
        server.client.post("register?kind=guest", json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }

    config |table| {
        table["registration"].as_table_mut().expect("a table").insert("require_token".into(), true.into());
    }
    async fn a_registration_token_lets_in(server) {
        let root = admin(server).await;
        let tokens = "/_synapse/admin/v1/registration_tokens";
        let new = json!({ "token": "tea", "uses_allowed": 1 });
        root.post(&format!("{tokens}/new"), new.clone()).await.ok();
        root.post(&format!("{tokens}/new"), new).await.refused(400, "M_INVALID_PARAM");

        let validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token=";
        assert_eq!(server.client.get(&format!("{validity}tea")).await.ok()["valid"], true);
        assert_eq!(server.client.get(&format!("{validity}coffee")).await.ok()["valid"], false);

        let body = json!({ "username": "alice", "password": PASSWORD });
        let challenge = server.client.post("register", body.clone()).await;
        assert_eq!(challenge.0, 401);
        assert_eq!(challenge.1["flows"], json!([{ "stages": ["m.login.registration_token"] }]));
        let with = |token: &str| {
            let auth = json!({ "type": "m.login.registration_token", "session": challenge.1["session"], "token": token });
            let mut body = body.clone();
            body["auth"] = auth;
            body
        };
        server.client.post("register", with("coffee")).await.refused(401, "M_UNAUTHORIZED");
        server.client.post("register", with("tea")).await.ok();
        assert_eq!(root.get(&format!("{tokens}/tea")).await.ok()["completed"], 1);
        assert_eq!(server.client.get(&format!("{validity}tea")).await.ok()["valid"], false);
        root.put(&format!("{tokens}/tea"), json!({ "uses_allowed": null })).await.ok();
        assert_eq!(server.client.get(&format!("{validity}tea")).await.ok()["valid"], true);
        root.delete(&format!("{tokens}/tea"), None).await.ok();
        root.get(&format!("{tokens}/tea")).await.refused(404, "M_NOT_FOUND");
        let alice = User::login(&server.client, "alice").await;
        alice.get(tokens).await.refused(403, "M_FORBIDDEN");
    }

    async fn the_shared_secret_registers_once_a_nonce(server) {
        let path = "/_synapse/admin/v1/register";
        let nonce = text(&server.client.get(path).await.ok(), "nonce");
        let body = json!({ "nonce": nonce, "username": "eve", "password": "x", "admin": true, "mac": "00".repeat(20) });
        server.client.post(path, body.clone()).await.refused(403, "M_FORBIDDEN");
        server.client.post(path, body).await.refused(400, "M_UNKNOWN");
        admin(server).await;
    }

    config |table| { table["registration"].as_table_mut().expect("a table").remove("shared_secret"); }
    async fn without_a_shared_secret_there_is_no_nonce(server) {
        server.client.get("/_synapse/admin/v1/register").await.refused(400, "M_UNKNOWN");
    }

    async fn the_older_paths_answer_more(server) {
        let r0 = "/_matrix/client/r0";
        let body = json!({ "username": "alice", "password": PASSWORD });
        let alice = server.client.post(&format!("{r0}/register"), body.clone()).await.ok();
        assert_eq!(alice["expires_in"], alice["expires_in_ms"]);
        server.client.post(&format!("{r0}/register"), body).await.refused(409, "M_USER_IN_USE");

        let refreshed = json!({ "refresh_token": alice["refresh_token"] });
        let refreshed = server.client.post(&format!("{r0}/refresh"), refreshed).await.ok();
        let mut session = alice.clone();
        session["access_token"] = refreshed["access_token"].clone();
        let user = User::from_login(&server.client, &session);
        // The password was proved a moment ago.
        let other = User::login(&server.client, "alice").await;
        user.delete(&format!("{r0}/devices/{}", other.device_id), None).await.ok();
        other.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        let challenge = user.delete(&format!("devices/{}", user.device_id), None).await;
        assert_eq!(challenge.0, 401, "{}", challenge.1);
    }
}
