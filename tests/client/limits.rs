//! What one user may keep on the server, and how often somebody may try to log in to one account.

use serde_json::{Value, json};
use toml::{Table, toml};

use crate::common::client::{AnswerExt, PASSWORD, User, encode, text};

fn own(user: &User, rest: &str) -> String {
    format!("user/{}/{rest}", encode(&user.user_id))
}

async fn put_data(user: &User, kind: &str, content: Value) -> (u16, Value) {
    user.put(&own(user, &format!("account_data/{kind}")), content).await
}

fn limit(config: &mut Table, limits: Table) {
    config.insert("user_limits".to_owned(), limits.into());
}

/// The numbers of the notes that wait for a device.
async fn notes(user: &User, since: &str) -> Vec<u64> {
    let sync = user.sync(Some(since), 0, None).await;
    let events = sync["to_device"]["events"].as_array().cloned().unwrap_or_default();
    events
        .iter()
        .filter_map(|event| event["content"]["n"].as_u64())
        .collect()
}

both_databases! {
    config |config| { limit(config, toml! { account_data_entries = 4 }); }
    async fn account_data_is_bounded_in_number(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({})).await;
        for n in 0..3 {
            put_data(&alice, &format!("org.example.{n}"), json!({ "n": n })).await.ok();
        }
        let tag = own(&alice, &format!("rooms/{}/tags", encode(&room)));
        alice.put(&format!("{tag}/u.x"), json!({})).await.ok();
        put_data(&alice, "org.example.one_more", json!({ "n": 1 })).await.refused(413, "M_TOO_LARGE");
        alice.get(&own(&alice, "account_data/org.example.one_more")).await.refused(404, "M_NOT_FOUND");
        // What is there can be changed, also to something larger.
        put_data(&alice, "org.example.0", json!({ "text": "x".repeat(1_000) })).await.ok();
        alice.put(&format!("{tag}/u.y"), json!({})).await.ok();
        put_data(&bob, "org.example.one_more", json!({ "n": 1 })).await.ok();
        // What was deleted gives its place away.
        put_data(&alice, "org.example.1", json!({})).await.ok();
        put_data(&alice, "org.example.one_more", json!({ "n": 1 })).await.ok();
        put_data(&alice, "org.example.and_another", json!({ "n": 1 })).await.refused(413, "M_TOO_LARGE");
    }

    config |config| { limit(config, toml! { account_data_bytes = 10_000 }); }
    async fn account_data_is_bounded_in_bytes(server) {
        let alice = server.register("alice").await;
        let sized = |bytes: usize| json!({ "text": "x".repeat(bytes) });
        put_data(&alice, "org.example.a", sized(4_900)).await.ok();
        put_data(&alice, "org.example.b", sized(4_900)).await.ok();
        put_data(&alice, "org.example.c", sized(4_900)).await.refused(413, "M_TOO_LARGE");
        put_data(&alice, "org.example.b", sized(5_400)).await.refused(413, "M_TOO_LARGE");
        assert_eq!(alice.get(&own(&alice, "account_data/org.example.b")).await.ok(), sized(4_900));
        put_data(&alice, "org.example.b", sized(100)).await.ok();
        put_data(&alice, "org.example.c", sized(4_700)).await.ok();
        // Nothing is forgotten over a restart.
        assert!(server.stop().await.success());
        server.restart().await;
        put_data(&alice, "org.example.d", sized(1_000)).await.refused(413, "M_TOO_LARGE");
        put_data(&alice, "org.example.c", json!({})).await.ok();
        put_data(&alice, "org.example.d", sized(1_000)).await.ok();
    }

    config |config| { limit(config, toml! { filters = 3 }); }
    async fn of_too_many_filters_the_oldest_are_forgotten(server) {
        let alice = server.register("alice").await;
        let create = async |n: u64| {
            let filter = json!({ "room": { "timeline": { "limit": n } } });
            text(&alice.post(&own(&alice, "filter"), filter).await.ok(), "filter_id")
        };
        let first = create(1).await;
        alice.sync(None, 0, Some(&first)).await;
        let (second, third) = (create(2).await, create(3).await);
        assert_eq!(create(1).await, first, "an equal filter is the same one");
        let fourth = create(4).await;
        alice.get(&own(&alice, &format!("filter/{first}"))).await.refused(404, "M_NOT_FOUND");
        alice.get(&format!("sync?filter={first}")).await.refused(400, "M_INVALID_PARAM");
        for id in [second, third, fourth] {
            alice.sync(None, 0, Some(&id)).await;
        }
    }

    config |config| { limit(config, toml! { to_device_messages_per_device = 5 }); }
    async fn the_oldest_messages_to_a_device_that_does_not_sync_are_dropped(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let since = text(&bob.sync(None, 0, None).await, "next_batch");
        let tablet = User::login(&server.client, "bob").await;
        let fresh = text(&tablet.sync(None, 0, None).await, "next_batch");
        let send = async |to: &User, n: u64| {
            let messages = json!({ "messages": { &to.user_id: { &to.device_id: { "n": n } } } });
            alice.put(&format!("sendToDevice/org.example.note/{}{n}", to.device_id), messages).await.ok();
        };
        send(&tablet, 1).await;
        for n in 1..=12 {
            send(&bob, n).await;
        }
        server.logged("the oldest messages of a device that does not fetch them were dropped").await;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while notes(&bob, &since).await.len() > 5 && std::time::Instant::now() < deadline {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(notes(&bob, &since).await, [8, 9, 10, 11, 12]);
        assert_eq!(notes(&tablet, &fresh).await, [1], "every device has its own inbox");
    }

    config |config| { limit(config, toml! { key_backup_bytes = 5_000 }); }
    async fn the_key_backup_is_bounded(server) {
        let alice = server.register("alice").await;
        let version = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": { "public_key": "abc" } });
        let create = async || text(&alice.post("room_keys/version", version.clone()).await.ok(), "version");
        let session = |bytes: usize| json!({ "first_message_index": 1, "forwarded_count": 0, "is_verified": false,
                                             "session_data": { "x": "x".repeat(bytes) } });
        let path = |version: &str, id: &str| format!("room_keys/keys/%21room%3Alocalhost/{id}?version={version}");
        let first = create().await;
        alice.put(&path(&first, "a"), session(3_000)).await.ok();
        alice.put(&path(&first, "b"), session(3_000)).await.refused(413, "M_TOO_LARGE");
        alice.get(&path(&first, "b")).await.refused(404, "M_NOT_FOUND");
        alice.put(&path(&first, "b"), session(1_000)).await.ok();
        // Former versions count until they are deleted.
        let second = create().await;
        alice.put(&path(&second, "a"), session(3_000)).await.refused(413, "M_TOO_LARGE");
        let huge = json!({ "algorithm": "x", "auth_data": { "x": "x".repeat(4_000) } });
        alice.post("room_keys/version", huge).await.refused(413, "M_TOO_LARGE");
        alice.delete(&format!("room_keys/version/{first}"), None).await.ok();
        alice.put(&path(&second, "a"), session(3_000)).await.ok();
        alice.delete(&path(&second, "a"), None).await.ok();
        alice.put(&path(&second, "b"), session(4_000)).await.ok();
    }

    config |config| {
        config.insert("rate_limits".to_owned(), toml! { enabled = true
                                                        login = { per_second = 0.001, burst = 3 } }.into());
        let listener = toml! {
            bind_addresses = ["127.0.0.1"]
            x_forwarded = true
        };
        config.insert("listeners".to_owned(), vec![toml::Value::Table(listener)].into());
    }
    async fn attempts_to_log_in_are_counted_by_account(server) {
        server.register("alice").await;
        server.register("bob").await;
        let attempt = async |address: u8, user: &str, password: &str| {
            let body = json!({ "type": "m.login.password", "password": password,
                               "identifier": { "type": "m.id.user", "user": user } });
            server.client.post_from(&format!("192.0.2.{address}"), "login", &body).await
        };
        // Whether the account exists is not told by when attempts are refused either.
        let mut answers = Vec::new();
        for (first, user) in [(10, "alice"), (20, "nobody")] {
            let mut seen = Vec::new();
            for n in 0..3 {
                seen.push(attempt(first + n, user, "wrong").await);
            }
            let (status, refusal) = attempt(first + 3, &format!("@{user}:localhost"), PASSWORD).await;
            seen.push((status, refusal["errcode"].clone()));
            answers.push(seen);
        }
        assert_eq!(answers[0], answers[1]);
        let statuses: Vec<u16> = answers[0].iter().map(|answer| answer.0).collect();
        assert_eq!(statuses, [403, 403, 403, 429], "{answers:?}");
        // The address is not to blame, and successes count as well.
        for n in 0..3 {
            attempt(13 + n, "bob", PASSWORD).await.ok();
        }
        attempt(30, "bob", PASSWORD).await.refused(429, "M_LIMIT_EXCEEDED");
    }
}
