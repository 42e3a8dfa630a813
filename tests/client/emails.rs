//! Mail addresses: to register with, to log in with, to recover an account with.

use serde_json::{Value, json};
use toml::Table;

use crate::common::{
    client::{AnswerExt, PASSWORD, User, text},
    db::Backend,
    mail::Mailbox,
    server::TestServer,
};

const SECRET: &str = "a-secret.of_the=client";

fn with_mail(config: &mut Table, port: u16, required: bool) {
    let mut email = toml::toml! {
        smtp_host = "127.0.0.1"
        encryption = "none"
        from = "Test <noreply@test.example>"
    };
    email.insert("smtp_port".to_owned(), toml::Value::Integer(port.into()));
    config.insert("email".to_owned(), toml::Value::Table(email));
    let registration = config
        .entry("registration")
        .or_insert_with(|| toml::Value::Table(Table::new()));
    let registration = registration.as_table_mut().expect("a section is a table");
    registration.insert("require_email".to_owned(), toml::Value::Boolean(required));
}

/// Asks for a mail and presses the button behind its link; returns the session's id.
async fn prove(server: &TestServer, mail: &Mailbox, path: &str, address: &str, attempt: i64) -> String {
    let body = json!({ "email": address, "client_secret": SECRET, "send_attempt": attempt });
    let sid = text(&server.client.post(path, body).await.ok(), "sid");
    let letter = mail.wait_for(&address.to_lowercase()).await;
    let token = Mailbox::token(&letter);
    let page = "/_matrix/client/unstable/registration/email/submit_token";
    let query = format!("{page}?sid={sid}&client_secret={SECRET}&token={token}");
    let (status, kind, form) = server.client.raw("GET", &query, None, None).await;
    assert_eq!((status, kind.as_str()), (200, "text/html; charset=utf-8"));
    assert!(String::from_utf8_lossy(&form).contains(&token));
    let press = |token: &str| {
        let form = format!("sid={sid}&client_secret={SECRET}&token={token}");
        Some(("application/x-www-form-urlencoded", form.into_bytes()))
    };
    let (status, ..) = server.client.raw("POST", page, None, press("wrong")).await;
    assert_eq!(status, 400);
    let (status, ..) = server.client.raw("POST", page, None, press(&token)).await;
    assert_eq!(status, 200);
    sid
}

fn stage(sid: &str, session: &Value) -> Value {
    json!({
        "type": "m.login.email.identity", "session": session,
        "threepid_creds": { "sid": sid, "client_secret": SECRET },
    })
}

fn login(address: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password", "password": password,
        "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": address },
    })
}

async fn registered_with_an_address(backend: Backend) {
    let mail = Mailbox::open().await;
    let server = TestServer::start(backend, |config| with_mail(config, mail.port(), true)).await;
    let mut body = json!({ "username": "alice", "password": PASSWORD });
    let flows = server.client.post("register", body.clone()).await;
    assert_eq!(
        (flows.0, &flows.1["flows"]),
        (401, &json!([{ "stages": ["m.login.email.identity"] }]))
    );
    let session = flows.1["session"].clone();
    let unproved = stage("none", &session);
    body["auth"] = unproved;
    assert_eq!(server.client.post("register", body.clone()).await.0, 401);
    let sid = prove(&server, &mail, "register/email/requestToken", "Alice@Example.org", 1).await;
    body["auth"] = stage(&sid, &session);
    let alice = User::from_login(&server.client, &server.client.post("register", body).await.ok());
    let list = alice.get("account/3pid").await.ok();
    assert_eq!(list["threepids"][0]["address"], "alice@example.org", "{list}");
    let request = json!({ "email": "alice@example.org", "client_secret": SECRET, "send_attempt": 1 });
    let taken = server.client.post("register/email/requestToken", request).await;
    taken.refused(400, "M_THREEPID_IN_USE");

    let again = server
        .client
        .post("login", login("ALICE@example.org", PASSWORD))
        .await
        .ok();
    assert_eq!(again["user_id"], alice.user_id);
    // What was acknowledged is there after a death.
    server.kill();
    server.restart().await;
    server
        .client
        .post("login", login("alice@example.org", PASSWORD))
        .await
        .ok();
    let named = json!({ "medium": "email", "address": "alice@example.org" });
    alice.post("account/3pid/delete", named).await.ok();
    assert_eq!(alice.get("account/3pid").await.ok()["threepids"], json!([]));
    let gone = server.client.post("login", login("alice@example.org", PASSWORD)).await;
    gone.refused(403, "M_FORBIDDEN");
}

async fn a_lost_password_is_recovered(backend: Backend) {
    let mail = Mailbox::open().await;
    let server = TestServer::start(backend, |config| with_mail(config, mail.port(), false)).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let unknown = json!({ "email": "alice@example.org", "client_secret": SECRET, "send_attempt": 1 });
    let path = "account/password/email/requestToken";
    let refused = server.client.post(path, unknown).await;
    refused.refused(400, "M_THREEPID_NOT_FOUND");

    let sid = prove(
        &server,
        &mail,
        "account/3pid/email/requestToken",
        "alice@example.org",
        1,
    )
    .await;
    let flows = alice
        .post("account/3pid/add", json!({ "sid": sid, "client_secret": SECRET }))
        .await;
    let auth = json!({
        "type": "m.login.password", "session": flows.1["session"], "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": alice.user_id },
    });
    let add = json!({ "sid": sid, "client_secret": SECRET, "auth": auth });
    alice.post("account/3pid/add", add).await.ok();

    let sid = prove(&server, &mail, path, "alice@example.org", 2).await;
    let mut new = json!({ "new_password": "another good password", "logout_devices": true });
    let flows = server.client.post("account/password", new.clone()).await;
    assert_eq!(flows.0, 401);
    // The proof is alice's: with bob's token it proves nothing.
    let mut of_bob = new.clone();
    let session = bob.post("account/password", new.clone()).await.1["session"].clone();
    of_bob["auth"] = stage(&sid, &session);
    bob.post("account/password", of_bob).await.refused(403, "M_FORBIDDEN");
    new["auth"] = stage(&sid, &flows.1["session"]);
    server.client.post("account/password", new.clone()).await.ok();
    alice.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    let old = server.client.post("login", login("alice@example.org", PASSWORD)).await;
    old.refused(403, "M_FORBIDDEN");
    server
        .client
        .post("login", login("alice@example.org", "another good password"))
        .await
        .ok();
    // It served once.
    assert_eq!(server.client.post("account/password", new).await.0, 401);
}

both_databases! {
    async fn without_a_mail_server_addresses_are_refused(server) {
        let request = json!({ "email": "alice@example.org", "client_secret": SECRET, "send_attempt": 1 });
        for path in ["register", "account/3pid", "account/password"] {
            let path = format!("{path}/email/requestToken");
            server.client.post(&path, request.clone()).await.refused(403, "M_THREEPID_DENIED");
        }
        let password = json!({ "new_password": "another good password" });
        server.client.post("account/password", password).await.refused(401, "M_MISSING_TOKEN");
        let alice = server.register("alice").await;
        let capabilities = alice.get("capabilities").await.ok();
        assert_eq!(capabilities["capabilities"]["m.3pid_changes"]["enabled"], false);
    }
}

crate::federation::both_backends! { registered_with_an_address a_lost_password_is_recovered }
