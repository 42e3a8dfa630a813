//! Requests that no honest client makes: each is refused with the right error, and the server goes on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{
    client::{AnswerExt, Client, PASSWORD, User, encode, text},
    server::TestServer,
};

/// More than any body of a client may have.
const TOO_LARGE: usize = 1024 * 1024 + 1;
/// Integers of canonical JSON end here.
const LARGEST: i64 = (1 << 53) - 1;

/// Sends text as it is; returns status and `errcode`.
async fn send_raw(user: &User, method: &str, path: &str, body: impl Into<Vec<u8>>) -> (u16, String) {
    let body = Some(("application/json", body.into()));
    let (status, _, answer) = user.client.raw(method, path, Some(&user.token), body).await;
    (status, errcode(&answer))
}

async fn get_raw(user: &User, path: &str) -> (u16, String) {
    let (status, _, answer) = user.client.raw("GET", path, Some(&user.token), None).await;
    (status, errcode(&answer))
}

fn errcode(answer: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    answer["errcode"].as_str().unwrap_or_default().to_owned()
}

fn refusal(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

/// The server still does its work.
async fn alive(server: &TestServer) {
    let witness = server.register("witness").await;
    let room = witness.create_room(json!({})).await;
    let event = witness.send_text(&room, "still here").await;
    let seen = witness.sync(None, 0, None).await;
    assert!(seen.to_string().contains(&event), "{seen}");
}

fn nested(levels: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels))
}

/// Endpoints that read a body, one of each kind.
fn readers(room: &str) -> Vec<(&'static str, String)> {
    let room = encode(room);
    vec![
        ("POST", "createRoom".to_owned()),
        ("POST", "login".to_owned()),
        ("POST", "register".to_owned()),
        ("POST", "keys/upload".to_owned()),
        ("POST", "keys/query".to_owned()),
        ("PUT", format!("rooms/{room}/send/m.room.message/t")),
        ("PUT", format!("rooms/{room}/state/m.test/")),
        ("POST", format!("rooms/{room}/state/m.test")),
        ("POST", format!("rooms/{room}/invite")),
        ("PUT", "sendToDevice/m.test/t".to_owned()),
        ("PUT", "user/@alice:localhost/account_data/m.test".to_owned()),
        ("POST", "user/@alice:localhost/filter".to_owned()),
        ("PUT", "profile/@alice:localhost/displayname".to_owned()),
        ("POST", "room_keys/version".to_owned()),
        ("POST", "search".to_owned()),
        ("POST", "user_directory/search".to_owned()),
    ]
}

both_databases! {
    async fn bodies_must_be_json_objects(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        for (method, path) in readers(&room) {
            for body in ["x", "{", "[", "{\"a\" 1}", "{'a':1}", "nul"] {
                assert_eq!(send_raw(&alice, method, &path, body).await, refusal(400, "M_NOT_JSON"), "{method} {path} {body}");
            }
            let answer = send_raw(&alice, method, &path, b"{\"\xff\":\"\xff\"}".to_vec()).await;
            assert_eq!(answer, refusal(400, "M_NOT_JSON"), "{method} {path} with bytes that are not UTF-8");
            for body in ["[]", "\"s\"", "null", "1", "[{}]"] {
                assert_eq!(send_raw(&alice, method, &path, body).await, refusal(400, "M_BAD_JSON"), "{method} {path} {body}");
            }
            // Backups may be larger.
            let bytes = if path.starts_with("room_keys") { 8 * TOO_LARGE } else { TOO_LARGE };
            let large = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes));
            assert_eq!(send_raw(&alice, method, &path, large).await, refusal(413, "M_TOO_LARGE"), "{method} {path}");
        }
        alive(server).await;
    }

    async fn types_are_checked(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        for body in [
            json!({ "invite": "@bob:localhost" }),
            json!({ "invite": [1] }),
            json!({ "name": 1 }),
            json!({ "preset": [] }),
            json!({ "initial_state": {} }),
            json!({ "initial_state": [{ "type": 1 }] }),
            json!({ "creation_content": [] }),
            json!({ "power_level_content_override": 5 }),
            json!({ "room_version": 11 }),
        ] {
            let answer = alice.post("createRoom", body.clone()).await;
            assert_eq!(answer.0, 400, "{body}: {}", answer.1);
            assert!(answer.1["errcode"].is_string(), "{body}: {}", answer.1);
        }
        let levels = json!({ "users": { "@alice:localhost": "a lot" } });
        let path = format!("rooms/{}/state/m.room.power_levels/", encode(&room));
        // The authorization rules refuse it, before anybody looks at the shape.
        alice.put(&path, levels).await.refused(403, "M_FORBIDDEN");
        let path = format!("rooms/{}/state/m.room.member/{}", encode(&room), encode("@alice:localhost"));
        assert_eq!(alice.put(&path, json!({ "membership": 1 })).await.0, 400);
        alice.post("keys/query", json!({ "device_keys": [] })).await.refused(400, "M_BAD_JSON");
        alice.post("login", json!({ "type": 1 })).await.refused(400, "M_BAD_JSON");
        alice.post("login", json!({})).await.refused(400, "M_MISSING_PARAM");
        alive(server).await;
    }

    async fn nesting_has_a_limit_and_what_is_within_it_comes_back(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        for (method, path) in readers(&room) {
            for levels in [101, 127, 1_000, 100_000] {
                let answer = send_raw(&alice, method, &path, nested(levels)).await;
                assert_eq!(answer, refusal(400, "M_BAD_JSON"), "{method} {path} {levels}");
            }
        }
        // As deep as allowed, wherever others or oneself read it back.
        let deep = nested(100);
        let encoded = encode(&room);
        for path in [
            "user/@alice:localhost/account_data/m.deep".to_owned(),
            format!("user/@alice:localhost/rooms/{encoded}/account_data/m.deep"),
            format!("rooms/{encoded}/state/m.deep/"),
            format!("rooms/{encoded}/send/m.deep/t1"),
        ] {
            assert_eq!(send_raw(&alice, "PUT", &path, deep.clone()).await.0, 200, "{path}");
        }
        let message = format!("{{\"messages\":{{\"@bob:localhost\":{{\"*\":{}}}}}}}", nested(97));
        assert_eq!(send_raw(&alice, "PUT", "sendToDevice/m.deep/t1", message).await.0, 200);
        for user in [&alice, &bob] {
            for path in ["sync?timeout=0&full_state=true".to_owned(), "initialSync".to_owned(), format!("rooms/{encoded}/messages?dir=b")] {
                let (status, _, body) = user.client.raw("GET", &path, Some(&user.token), None).await;
                assert_eq!(status, 200, "{path}");
                assert!(String::from_utf8_lossy(&body).contains("m.deep"), "{path}");
            }
        }
        alive(server).await;
    }

    async fn null_characters_are_never_a_failure(server) {
        let alice = server.register("alice").await;
        let room = encode(&alice.create_room(json!({})).await);
        let nul = "a\0b";
        for (method, path, body) in [
            ("POST", "createRoom".to_owned(), json!({ "room_alias_name": nul })),
            ("POST", "createRoom".to_owned(), json!({ "initial_state": [{ "type": nul, "content": {} }] })),
            ("PUT", format!("rooms/{room}/send/a%00b/t2"), json!({})),
            ("PUT", format!("rooms/{room}/send/m.room.message/a%00b"), json!({ "msgtype": "m.text", "body": "x" })),
            ("PUT", format!("rooms/{room}/state/a%00b/"), json!({})),
            ("PUT", format!("rooms/{room}/state/m.test/a%00b"), json!({})),
            ("PUT", "user/@alice:localhost/account_data/a%00b".to_owned(), json!({})),
            ("PUT", "devices/a%00b".to_owned(), json!({ "display_name": "x" })),
            ("PUT", format!("devices/{}", encode(&alice.device_id)), json!({ "display_name": nul })),
            ("PUT", "directory/room/%23a%00b:localhost".to_owned(), json!({ "room_id": "!a:localhost" })),
            ("PUT", "sendToDevice/a%00b/t".to_owned(), json!({ "messages": { "@alice:localhost": { "*": {} } } })),
            ("POST", "keys/query".to_owned(), json!({ "device_keys": { "@a\0:localhost": [] } })),
            ("POST", "register".to_owned(), json!({ "username": nul, "password": PASSWORD })),
            ("POST", "pushers/set".to_owned(), json!({ "app_id": nul, "pushkey": nul, "kind": null })),
        ] {
            let answer = alice.client.request(method, &path, Some(&alice.token), Some(&body)).await;
            assert!((400..500).contains(&answer.0), "{method} {path} {body}: {} {}", answer.0, answer.1);
            assert!(answer.1["errcode"].is_string(), "{method} {path}: {}", answer.1);
        }
        for path in [
            "profile/@a%00b:localhost",
            "rooms/!a%00b:localhost/state",
            "directory/room/%23a%00b:localhost",
            "devices/a%00b",
            "user/@alice:localhost/account_data/a%00b",
            "user/@alice:localhost/filter/a%00b",
            "sync?since=a%00b",
            "register/available?username=a%00b",
            "room_keys/version/a%00b",
            "/_matrix/client/v1/media/download/localhost/a%00b",
        ] {
            let answer = get_raw(&alice, path).await;
            assert!((400..500).contains(&answer.0) && !answer.1.is_empty(), "{path}: {answer:?}");
        }
        let login = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": nul }, "password": nul });
        server.client.post("login", login).await.refused(403, "M_FORBIDDEN");
        let answer = server.client.request("GET", "account/whoami", Some("a%00b"), None).await;
        answer.refused(401, "M_UNKNOWN_TOKEN");
        server.client.get("account/whoami?access_token=a%00b").await.refused(401, "M_UNKNOWN_TOKEN");

        // In the content of an event they are characters like others.
        let event = alice.put(&format!("rooms/{room}/send/m.room.message/t3"), json!({ "msgtype": "m.text", "body": nul })).await.ok();
        let shown = alice.get(&format!("rooms/{room}/event/{}", encode(&text(&event, "event_id")))).await.ok();
        assert_eq!(shown["content"]["body"], nul);
        alive(server).await;
    }

    async fn numbers_must_fit_canonical_json(server) {
        let alice = server.register("alice").await;
        let room = encode(&alice.create_room(json!({})).await);
        let send = format!("rooms/{room}/send/m.test");
        let state = format!("rooms/{room}/state/m.test/k");
        for (n, number) in ["1.5", "1e3", "1e400", "-1e400", "9007199254740992", "-9007199254740992", "99999999999999999999"].iter().enumerate() {
            let body = format!("{{\"a\":{{\"b\":[{number}]}}}}");
            let answer = send_raw(&alice, "PUT", &format!("{send}/bad{n}"), body.clone()).await;
            assert_eq!(answer, refusal(400, "M_BAD_JSON"), "{number}");
            assert_eq!(send_raw(&alice, "PUT", &state, body.clone()).await, refusal(400, "M_BAD_JSON"), "{number}");
            let create = format!("{{\"initial_state\":[{{\"type\":\"m.test\",\"content\":{body}}}]}}");
            assert_eq!(send_raw(&alice, "POST", "createRoom", create).await, refusal(400, "M_BAD_JSON"), "{number}");
        }
        for number in [0, -1, LARGEST, -LARGEST] {
            alice.put(&format!("{send}/good{number}"), json!({ "a": number })).await.ok();
        }
        let surrogate = send_raw(&alice, "PUT", &format!("{send}/surrogate"), "{\"a\":\"\\ud800\"}").await;
        assert_eq!(surrogate.0, 400, "{surrogate:?}");
        alive(server).await;
    }

    async fn ids_have_their_limits(server) {
        let alice = server.register("alice").await;
        let room = encode(&alice.create_room(json!({})).await);
        let long = "x".repeat(256);
        for path in [format!("rooms/{room}/send/{long}/t"), format!("rooms/{room}/state/{long}/"), format!("rooms/{room}/state/m.test/{long}")] {
            let answer = alice.put(&path, json!({})).await;
            assert!(matches!(answer.0, 400 | 413), "{path}: {} {}", answer.0, answer.1);
        }
        let widest = "x".repeat(255);
        alice.put(&format!("rooms/{room}/state/m.test/{widest}"), json!({})).await.ok();
        alice.put(&format!("rooms/{room}/send/{widest}/t"), json!({})).await.ok();
        let body = "x".repeat(65_536);
        let large = alice.put(&format!("rooms/{room}/send/m.room.message/large"), json!({ "msgtype": "m.text", "body": body })).await;
        large.refused(413, "M_TOO_LARGE");
        let name = json!({ "username": "u".repeat(250), "password": PASSWORD });
        server.client.post("register", name).await.refused(400, "M_INVALID_USERNAME");

        for path in ["profile/alice", "profile/@alice", "profile/%40%F0%9F%98%80", "rooms/nonsense/state", "rooms/%ff/state", "profile/%C3%28"] {
            let answer = get_raw(&alice, path).await;
            assert!((400..500).contains(&answer.0) && !answer.1.is_empty(), "{path}: {answer:?}");
        }
        assert_eq!(get_raw(&alice, "rooms/%ff/state").await, refusal(400, "M_INVALID_PARAM"));
        let invite = format!("rooms/{room}/invite");
        for user in ["", "bob", "@", "@bob", "@bob:", "@bob:local host", "@bob:localhost:99999999"] {
            let answer = alice.post(&invite, json!({ "user_id": user })).await;
            assert!((400..500).contains(&answer.0) && answer.1["errcode"].is_string(), "{user}: {} {}", answer.0, answer.1);
        }
        for version in ["99", "0", "v12"] {
            let answer = alice.post("createRoom", json!({ "room_version": version })).await;
            answer.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
        }
        let upgrade = alice.post(&format!("rooms/{room}/upgrade"), json!({ "new_version": "99" })).await;
        upgrade.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
        alive(server).await;
    }

    async fn limits_and_times_are_numbers_within_reason(server) {
        let alice = server.register("alice").await;
        let room = encode(&alice.create_room(json!({})).await);
        let messages = format!("rooms/{room}/messages?dir=b");
        for limit in ["-1", "1.5", "many", "99999999999999999999"] {
            for path in [format!("{messages}&limit={limit}"), format!("sync?timeout={limit}"), format!("publicRooms?limit={limit}")] {
                assert_eq!(get_raw(&alice, &path).await, refusal(400, "M_INVALID_PARAM"), "{path}");
            }
        }
        for limit in ["0", "1000000000"] {
            for path in [format!("{messages}&limit={limit}"), format!("publicRooms?limit={limit}")] {
                assert_eq!(get_raw(&alice, &path).await.0, 200, "{path}");
            }
        }
        for token in ["s", "nonsense", "s-1", "s99999999999999999999", "%F0%9F%98%80"] {
            let answer = get_raw(&alice, &format!("{messages}&from={token}")).await;
            assert_eq!(answer, refusal(400, "M_INVALID_PARAM"), "from={token}");
            let answer = get_raw(&alice, &format!("sync?timeout=0&since={token}")).await;
            assert_eq!(answer, refusal(400, "M_INVALID_PARAM"), "since={token}");
        }
        for filter in ["%7B", "%7B%22room%22:1%7D", "%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:-1%7D%7D%7D", "77777"] {
            let answer = get_raw(&alice, &format!("sync?timeout=0&filter={filter}")).await;
            assert!((400..500).contains(&answer.0) && !answer.1.is_empty(), "{filter}: {answer:?}");
        }
        let typing = format!("rooms/{room}/typing/@alice:localhost");
        for timeout in [json!(-1), json!(1.5), json!(LARGEST)] {
            alice.put(&typing, json!({ "typing": true, "timeout": timeout })).await.ok();
        }
        alive(server).await;
    }

    async fn a_flood_is_held_back_and_never_hangs(server) {
        let alice = server.register("alice").await;
        let room = encode(&alice.create_room(json!({})).await);
        let begin = Instant::now();
        let sends = (0..1_500).map(|n| {
            let (client, token) = (alice.client.clone(), alice.token.clone());
            let path = format!("rooms/{room}/send/m.room.message/flood{n}");
            tokio::spawn(async move {
                let body = json!({ "msgtype": "m.text", "body": "flood" });
                client.request("PUT", &path, Some(&token), Some(&body)).await
            })
        });
        let sends: Vec<_> = sends.collect();
        let mut sent = 0;
        for send in sends {
            match send.await.expect("the request does not panic") {
                (200, _) => sent += 1,
                (429, body) => {
                    assert_eq!(body["errcode"], "M_LIMIT_EXCEEDED");
                    assert!(body["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{body}");
                }
                (status, body) => panic!("{status} {body}"),
            }
        }
        assert!(sent > 0);
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
        alive(server).await;
    }

    async fn a_token_comes_in_the_header_or_the_query(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let client = &server.client;
        let in_query = client.get(&format!("account/whoami?access_token={}", alice.token)).await.ok();
        assert_eq!(in_query["user_id"], "@alice:localhost");
        let both = format!("account/whoami?access_token={}", alice.token);
        let both = client.request("GET", &both, Some(&bob.token), None).await.ok();
        assert_eq!(both["user_id"], "@bob:localhost", "the header counts");
        let wrong = format!("account/whoami?access_token={}", alice.token);
        client.request("GET", &wrong, Some("nonsense"), None).await.refused(401, "M_UNKNOWN_TOKEN");
        client.get("account/whoami").await.refused(401, "M_MISSING_TOKEN");
        client.get("account/whoami?access_token=").await.refused(401, "M_MISSING_TOKEN");
        let long = "x".repeat(4_000);
        client.request("GET", "account/whoami", Some(&long), None).await.refused(401, "M_UNKNOWN_TOKEN");
        // Credentials come before everything else.
        let body = Some(("application/json", b"{".to_vec()));
        let (status, _, answer) = client.raw("POST", "createRoom", None, body).await;
        assert_eq!((status, errcode(&answer)), refusal(401, "M_MISSING_TOKEN"));
    }

    async fn unknown_paths_and_methods_say_so(server) {
        let client: &Client = &server.client;
        client.get("/_matrix/client/v3/nonsense").await.refused(404, "M_UNRECOGNIZED");
        client.get("/_matrix/client/v9/sync").await.refused(404, "M_UNRECOGNIZED");
        client.get("/nonsense").await.refused(404, "M_UNRECOGNIZED");
        client.request("DELETE", "login", None, None).await.refused(405, "M_UNRECOGNIZED");
        client.request("BREW", "login", None, None).await.refused(405, "M_UNRECOGNIZED");
        client.get("/_matrix/client/v3/%ff").await.refused(400, "M_INVALID_PARAM");
        let slashes = client.get(&format!("/{}", "a/".repeat(3_000))).await;
        slashes.refused(404, "M_UNRECOGNIZED");
    }
}
