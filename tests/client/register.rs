//! Accounts: registration, login, who am I, logout.

use std::time::Duration;

use serde_json::json;

use crate::common::client::{AnswerExt, PASSWORD, User, text};

both_databases! {
    async fn versions_need_no_token(server) {
        let versions = server.client.get("/_matrix/client/versions").await.ok();
        let all = versions["versions"].as_array().expect("versions is a list");
        assert!(all.contains(&json!("v1.1")), "{versions}");
    }

    async fn registration_asks_for_a_stage_and_then_logs_in(server) {
        let body = json!({ "username": "alice", "password": PASSWORD });
        let first = server.client.post("register", body.clone()).await;
        if first.0 == 401 {
            assert_eq!(first.1["flows"], json!([{ "stages": ["m.login.dummy"] }]));
            text(&first.1, "session");
        }
        let answer = server.client.register(json!({ "username": "bob", "password": PASSWORD, "device_id": "PHONE" }));
        let answer = answer.await.ok();
        assert_eq!(answer["user_id"], "@bob:localhost");
        assert_eq!(answer["device_id"], "PHONE");

        let bob = User::from_login(&server.client, &answer);
        let whoami = bob.get("account/whoami").await.ok();
        assert_eq!(whoami["user_id"], "@bob:localhost");
        assert_eq!(whoami["device_id"], "PHONE");
    }

    async fn registration_without_login_gives_no_token(server) {
        let body = json!({ "username": "alice", "password": PASSWORD, "inhibit_login": true });
        let answer = server.client.register(body).await.ok();
        assert_eq!(answer["user_id"], "@alice:localhost");
        assert!(answer.get("access_token").is_none(), "{answer}");
        User::login(&server.client, "alice").await;
    }

    async fn a_name_is_given_once(server) {
        server.register("alice").await;
        let again = json!({ "username": "alice", "password": "another one" });
        server.client.register(again).await.refused(400, "M_USER_IN_USE");
        server.client.get("register/available?username=alice").await.refused(400, "M_USER_IN_USE");
        let free = server.client.get("register/available?username=bob").await.ok();
        assert_eq!(free["available"], true);
    }

    async fn a_name_must_be_valid(server) {
        let body = json!({ "username": "no spaces please", "password": PASSWORD });
        server.client.register(body).await.refused(400, "M_INVALID_USERNAME");
    }

    async fn login_makes_another_device(server) {
        let first = server.register("alice").await;
        let second = User::login(&server.client, "alice").await;
        assert_eq!(first.user_id, second.user_id);
        assert_ne!(first.device_id, second.device_id);
        assert_ne!(first.token, second.token);
        let devices = first.get("devices").await.ok();
        assert_eq!(devices["devices"].as_array().map(Vec::len), Some(2), "{devices}");
    }

    async fn a_wrong_password_is_refused(server) {
        server.register("alice").await;
        for user in ["alice", "nobody"] {
            let body = json!({
                "type": "m.login.password",
                "identifier": { "type": "m.id.user", "user": user },
                "password": "wrong",
            });
            server.client.post("login", body).await.refused(403, "M_FORBIDDEN");
        }
    }

    async fn tokens_are_asked_for_and_checked(server) {
        server.client.get("account/whoami").await.refused(401, "M_MISSING_TOKEN");
        let mut alice = server.register("alice").await;
        alice.token = "guessed".to_owned();
        alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    }

    async fn logout_ends_one_device_or_all(server) {
        let first = server.register("alice").await;
        let second = User::login(&server.client, "alice").await;
        let third = User::login(&server.client, "alice").await;

        second.post("logout", json!({})).await.ok();
        second.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        first.get("account/whoami").await.ok();

        third.post("logout/all", json!({})).await.ok();
        for device in [first, third] {
            device.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
        }
    }

    async fn a_poll_ends_when_its_device_is_logged_out(server) {
        let first = server.register("alice").await;
        let second = User::login(&server.client, "alice").await;
        // Presence is not to answer the poll.
        let path = "sync?set_presence=offline&timeout=60000";
        let since = text(&second.get(path).await.ok(), "next_batch");
        let path = format!("{path}&since={since}");
        let log_out = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            first.post("logout/all", json!({})).await.ok();
        };
        let poll = tokio::time::timeout(Duration::from_secs(20), second.get(&path));
        let (answer, ()) = tokio::join!(poll, log_out);
        answer.expect("the poll ends").refused(401, "M_UNKNOWN_TOKEN");
    }

    config |table| {
        table["registration"]["enabled"] = false.into();
    }
    async fn a_closed_server_registers_nobody(server) {
        let body = json!({ "username": "alice", "password": PASSWORD });
        server.client.register(body).await.refused(403, "M_FORBIDDEN");
    }

    async fn accounts_and_tokens_survive_a_stop_and_a_kill(server) {
        let alice = server.register("alice").await;
        let status = server.stop().await;
        assert!(status.success(), "{status}");
        server.restart().await;
        alice.get("account/whoami").await.ok();

        let bob = server.register("bob").await;
        server.kill();
        server.restart().await;
        for user in [alice, bob] {
            assert_eq!(user.get("account/whoami").await.ok()["user_id"], user.user_id.as_str());
        }
    }
}
