//! What stands beside the everyday chapters: TURN credentials, third-party networks, web pages for authentication, and
//! what other servers ask first.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, Client, PASSWORD, User, encode, text};

/// Submits an authentication page; returns the status and the page.
async fn submit(client: &Client, stage: &str, session: &str, secret: &str) -> (u16, String) {
    let path = format!("auth/{stage}/fallback/web?session={session}");
    let (status, content_type, page) = client.raw("GET", &path, None, None).await;
    assert_eq!((status, content_type.as_str()), (200, "text/html; charset=utf-8"));
    let page = String::from_utf8(page).expect("the page is UTF-8");
    assert!(page.contains(&format!("value=\"{session}\"")), "{page}");
    let form = format!("session={session}&secret={}", encode(secret)).into_bytes();
    let body = Some(("application/x-www-form-urlencoded", form));
    let (status, _, page) = client.raw("POST", &path, None, body).await;
    (status, String::from_utf8(page).expect("the page is UTF-8"))
}

fn turn(table: &mut toml::Table, guests: bool) {
    let mut turn = toml::Table::new();
    turn.insert("uris".into(), vec!["turn:turn.example.org?transport=udp"].into());
    turn.insert("shared_secret".into(), "hush".into());
    turn.insert("allow_guests".into(), guests.into());
    table.insert("turn".into(), turn.into());
}

async fn guest(client: &Client) -> User {
    User::from_login(client, &client.post("register?kind=guest", json!({})).await.ok())
}

both_databases! {
    async fn without_a_turn_server_there_are_no_credentials(server) {
        let alice = server.register("alice").await;
        alice.get("voip/turnServer").await.refused(404, "M_NOT_FOUND");
        server.client.get("voip/turnServer").await.refused(401, "M_MISSING_TOKEN");
    }

    config |table| { turn(table, false); }
    async fn turn_credentials_expire(server) {
        let alice = server.register("alice").await;
        for path in ["voip/turnServer", "/_matrix/client/r0/voip/turnServer"] {
            let answer = alice.get(path).await.ok();
            assert_eq!(answer["uris"], json!(["turn:turn.example.org?transport=udp"]));
            assert_eq!(answer["ttl"], 3_600);
            let name = text(&answer, "username");
            assert!(name.ends_with(":@alice:localhost"), "{name}");
            assert_eq!(text(&answer, "password").len(), 28, "an HMAC-SHA1 in base64");
        }
        guest(&server.client).await.get("voip/turnServer").await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }

    config |table| { turn(table, true); }
    async fn guests_may_call_where_they_are_let(server) {
        guest(&server.client).await.get("voip/turnServer").await.ok();
    }

    async fn there_are_no_third_party_networks(server) {
        let alice = server.register("alice").await;
        assert_eq!(alice.get("thirdparty/protocols").await.ok(), json!({}));
        for path in ["protocol/irc", "location/irc?a=b", "user/irc", "location?alias=%23a:localhost", "user?userid=@a:localhost"] {
            alice.get(&format!("thirdparty/{path}")).await.refused(404, "M_NOT_FOUND");
        }
        server.client.get("thirdparty/protocols").await.refused(401, "M_MISSING_TOKEN");
    }

    async fn a_page_proves_the_password_for_a_client(server) {
        let alice = server.register("alice").await;
        let other = User::login(&server.client, "alice").await;
        let path = format!("devices/{}", encode(&other.device_id));
        let challenge = alice.delete(&path, Some(json!({}))).await;
        assert_eq!(challenge.0, 401);
        let session = text(&challenge.1, "session");
        let go_on = json!({ "auth": { "session": session } });

        let (status, _) = submit(&server.client, "m.login.password", &session, "wrong").await;
        assert_eq!(status, 401);
        assert_eq!(alice.delete(&path, Some(go_on.clone())).await.0, 401, "nothing is proved yet");
        let (status, page) = submit(&server.client, "m.login.password", &session, PASSWORD).await;
        assert!(status == 200 && page.contains("onAuthDone"), "{status} {page}");
        alice.delete(&path, Some(go_on)).await.ok();
        other.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    }

    async fn a_page_presses_the_button_for_a_client(server) {
        let challenge = server.client.post("register", json!({})).await;
        assert_eq!(challenge.0, 401);
        let session = text(&challenge.1, "session");
        assert_eq!(submit(&server.client, "m.login.dummy", &session, "").await.0, 200);
        let body = json!({ "username": "alice", "password": PASSWORD, "auth": { "session": session } });
        assert_eq!(server.client.post("register", body).await.ok()["user_id"], "@alice:localhost");
        assert_eq!(submit(&server.client, "m.login.dummy", &session, "").await.0, 400, "the session is over");
        server.client.get("auth/m.login.nonsense/fallback/web?session=x").await.refused(404, "M_NOT_FOUND");
        server.client.get("auth/m.login.dummy/fallback/web").await.refused(400, "M_MISSING_PARAM");
    }

    async fn the_older_paths_answer_in_full(server) {
        let alice = server.register("alice").await;
        let sync = alice.get("/_matrix/client/r0/sync").await.ok();
        for (name, empty) in [
            ("/rooms/invite", json!({})), ("/rooms/leave", json!({})), ("/to_device/events", json!([])),
            ("/device_lists", json!({ "changed": [], "left": [] })),
        ] {
            assert_eq!(sync.pointer(name), Some(&empty), "{sync}");
        }
        assert!(alice.get("sync").await.ok().get("to_device").is_none());
        let unknown = alice.get("/_matrix/client/r0/nonsense").await.refused(404, "M_UNRECOGNIZED");
        assert_eq!(unknown["status"], "error");
        let unknown = alice.get("nonsense").await.refused(404, "M_UNRECOGNIZED");
        assert!(unknown.get("status").is_none(), "{unknown}");
        let size = server.client.get("/_matrix/media/v1/config").await.ok();
        assert!(size["m.upload.size"].is_u64(), "{size}");
        server.client.get("/_matrix/media/v3/config").await.refused(401, "M_MISSING_TOKEN");
        let versions = server.client.get("/_matrix/client/versions").await.ok();
        assert_eq!(versions["unstable_features"]["org.matrix.msc2432"], true);
    }

    async fn there_is_no_single_sign_on(server) {
        for path in ["login/sso/redirect?redirectUrl=http://localhost", "login/sso/redirect/idp?redirectUrl=http://localhost"] {
            server.client.get(path).await.refused(404, "M_NOT_FOUND");
        }
    }

    async fn other_servers_find_the_version_and_the_keys(server) {
        let client = &server.client;
        let version = client.get("/_matrix/federation/v1/version").await.ok();
        assert_eq!(version["server"]["name"], "synapse-rust");
        let admin = client.get("/_synapse/admin/v1/server_version").await.ok();
        assert!(admin["server_version"].as_str().is_some_and(|version| version.starts_with("1.")), "{admin}");

        let keys = client.get("/_matrix/key/v2/server").await.ok();
        assert_eq!(keys["server_name"], "localhost");
        let (id, key) = keys["verify_keys"].as_object().and_then(|keys| keys.iter().next()).expect("there is a key");
        assert_eq!(text(key, "key").len(), 43, "32 bytes in unpadded base64");
        assert_eq!(text(&keys["signatures"]["localhost"], id).len(), 86, "64 bytes in unpadded base64");
        let same = |other: &Value| assert_eq!(other["verify_keys"], keys["verify_keys"]);
        same(&client.get("/_matrix/federation/v2/server").await.ok());
        same(&client.get(&format!("/_matrix/key/v2/server/{}", encode(id))).await.ok());
        same(&client.get("/_matrix/key/v2/query/localhost").await.ok()["server_keys"][0]);
        let both = json!({ "server_keys": { "localhost": { id: {} }, "elsewhere.example.org": {} } });
        let both = client.post("/_matrix/key/v2/query", both).await.ok();
        assert_eq!(both["server_keys"].as_array().map(Vec::len), Some(1), "the other server is nowhere: {both}");
        same(&both["server_keys"][0]);
    }
}
