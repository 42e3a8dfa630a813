//! Credentials for calls, and whether a real TURN server takes them.

use serde_json::{Value, json};

use super::turn::Coturn;
use crate::common::{
    client::{AnswerExt, User, text},
    db::Backend,
    server::TestServer,
};

const SECRET: &str = "shared with the TURN server";

fn turn(table: &mut toml::Table, guests: bool, login: &str) {
    let login = match login {
        "" => format!("shared_secret = '{SECRET}'"),
        login => login.to_owned(),
    };
    let text = format!(
        "uris = ['turn:turn.example.org']\nstun_uris = ['stun:turn.example.org']\nallow_guests = {guests}\n{login}"
    );
    table.insert("turn".into(), text.parse::<toml::Table>().expect("it is TOML").into());
}

fn login(answer: &Value) -> (String, String) {
    (text(answer, "username"), text(answer, "password"))
}

both_databases! {
    async fn without_configuration_there_is_nothing(server) {
        let alice = server.register("alice").await;
        let nothing = json!({ "turn_servers": null, "stun_servers": null });
        assert_eq!(server.client.get("voip/config").await.ok(), nothing);
        assert_eq!(alice.get("voip/config").await.ok(), nothing);
        let refusal = server.client.get("/_matrix/client/r0/voip/turnServer/guest").await.refused(404, "M_NOT_FOUND");
        assert_eq!(refusal["error"], "VoIP/TURN service is not configured");
        assert_eq!(refusal["status"], "error");
    }

    config |table| { turn(table, false, ""); }
    async fn strangers_get_credentials_only_where_guests_do(server) {
        let alice = server.register("alice").await;
        let told = alice.get("voip/config").await.ok();
        assert_eq!(told["stun_servers"], json!(["stun:turn.example.org"]));
        assert_eq!(told["turn_servers"][0]["uris"], json!(["turn:turn.example.org"]));
        assert!(text(&told["turn_servers"][0], "username").ends_with(":@alice:localhost"), "{told}");
        let told = server.client.get("voip/config").await.ok();
        assert_eq!(told, json!({ "turn_servers": null, "stun_servers": ["stun:turn.example.org"] }));
        server.client.get("voip/turnServer/guest").await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }

    config |table| {
        turn(table, true, "guest_lifetime_secs = 60\nusername = 'u'\npassword = 'p'");
    }
    async fn what_does_not_expire_is_not_for_strangers(server) {
        let alice = server.register("alice").await;
        assert_eq!(login(&alice.get("voip/turnServer").await.ok()), ("u".to_owned(), "p".to_owned()));
        server.client.get("voip/turnServer/guest").await.refused(404, "M_NOT_FOUND");
        assert_eq!(server.client.get("voip/config").await.ok()["turn_servers"], Value::Null);
    }

    config |table| {
        turn(table, true, "");
        table.insert("rate_limits".into(), toml::toml! { voip = { per_second = 0.001, burst = 3 } }.into());
    }
    async fn asking_without_end_is_limited(server) {
        for _ in 0..3 {
            server.client.get("voip/turnServer/guest").await.ok();
        }
        server.client.get("voip/turnServer/guest").await.refused(429, "M_LIMIT_EXCEEDED");
    }
}

async fn guest(server: &TestServer) -> User {
    User::from_login(
        &server.client,
        &server.client.post("register?kind=guest", json!({})).await.ok(),
    )
}

#[tokio::test]
async fn a_turn_server_takes_credentials_that_expire_and_no_others() {
    let coturn = Coturn::start(&["--use-auth-secret", "--static-auth-secret", SECRET]).await;
    let server = TestServer::start(Backend::Sqlite, |table| turn(table, true, "")).await;
    let alice = server.register("alice").await;
    let of_user = alice.get("voip/turnServer").await.ok();
    let of_guest = guest(&server).await.get("voip/turnServer").await.ok();
    let of_stranger = server.client.get("voip/turnServer/guest").await.ok();
    assert_eq!(
        (&of_user["ttl"], &of_guest["ttl"], &of_stranger["ttl"]),
        (&json!(3_600), &json!(600), &json!(600))
    );
    for answer in [&of_user, &of_guest, &of_stranger] {
        let (username, password) = login(answer);
        assert_eq!(coturn.allocate(&username, &password).await, Ok(()), "{username}");
        assert_eq!(coturn.allocate(&username, "guessed").await, Err(401));
    }
    // Nobody prolongs them: the password is for this time and name only.
    let (username, password) = login(&of_user);
    let (expiry, name) = username.split_once(':').expect("time and name");
    let later = expiry.parse::<u64>().expect("a time") + 1;
    assert_eq!(coturn.allocate(&format!("{later}:{name}"), &password).await, Err(401));
}

#[tokio::test]
async fn a_turn_server_takes_fixed_credentials() {
    let coturn = Coturn::start(&["--user", "caller:the password"]).await;
    let fixed = "username = 'caller'\npassword = 'the password'";
    let server = TestServer::start(Backend::Sqlite, |table| turn(table, false, fixed)).await;
    let alice = server.register("alice").await;
    let (username, password) = login(&alice.get("voip/turnServer").await.ok());
    assert_eq!(coturn.allocate(&username, &password).await, Ok(()));
    assert_eq!(coturn.allocate(&username, "another").await, Err(401));
}
