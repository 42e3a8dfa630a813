//! Whether accounts exist (MSC3720), and several keys of a device at once (MSC3983), between two servers and a liar.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    VERSION, both_backends,
    remote::{
        Remote,
        http::{Answer, Request},
    },
    scenarios::shared_room,
};
use crate::common::{
    authority::Authority,
    client::{AnswerExt, PASSWORD, User},
    db::Backend,
    homeserver::{Homeserver as _, Ours, Town},
};

const STATUS: &str = "/_matrix/client/unstable/org.matrix.msc3720/account_status";
const STATUS_OF_SERVERS: &str = "/_matrix/federation/unstable/org.matrix.msc3720/account_status";
const CLAIM: &str = "/_matrix/client/unstable/org.matrix.msc3983/keys/claim";
const CLAIM_OF_SERVERS: &str = "/_matrix/federation/unstable/user/keys/claim";
const ALGORITHM: &str = "signed_curve25519";

async fn servers(backend: Backend) -> (Arc<Ours>, Arc<Ours>, Authority) {
    let authority = Authority::create();
    let (here, there) = tokio::join!(
        Ours::start(backend, &authority, "127.0.0.1"),
        Ours::start(backend, &authority, "localhost"),
    );
    (Arc::new(here), Arc::new(there), authority)
}

async fn the_status_of_accounts(backend: Backend) {
    let (here, there, authority) = servers(backend).await;
    let remote = Remote::start(&authority).await;
    let alice = User::register(here.client(), "alice").await;
    let bob = User::register(there.client(), "bob").await;
    let gone = User::register(there.client(), "gone").await;
    let auth = json!({ "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": gone.user_id } });
    gone.post("account/deactivate", json!({ "auth": auth })).await.ok();
    let nobody = format!("@nobody:{}", there.name());
    // It says something of a user of another server, and nothing of one of its own.
    let (told, untold, lie) = (remote.user("told"), remote.user("untold"), bob.user_id.clone());
    let says = json!({ "account_statuses": {
        &told: { "exists": true, "deactivated": false }, &lie: { "exists": false },
    }, "failures": [] });
    // As servers do that know the older path only.
    remote.behave(move |request: &Request| {
        let asked = request.path.ends_with("/org.matrix.msc3720/query/account_status");
        asked.then(|| Answer::Json(200, says.clone()))
    });
    let asked = [&alice.user_id, &bob.user_id, &gone.user_id, &nobody, &told, &untold];
    let answer = alice.post(STATUS, json!({ "user_ids": asked })).await.ok();
    let is = |deactivated: bool| json!({ "exists": true, "deactivated": deactivated });
    let expected = json!({
        "account_statuses": {
            &alice.user_id: is(false), &bob.user_id: is(false), &gone.user_id: is(true),
            &nobody: { "exists": false }, &told: is(false),
        },
        "failures": [untold],
    });
    assert_eq!(answer, expected);
    assert_eq!(alice.post(STATUS, json!({ "user_ids": [] })).await.ok(), json!({}));
    alice.post(STATUS, json!({})).await.refused(400, "M_MISSING_PARAM");
    let invalid = alice.post(STATUS, json!({ "user_ids": ["bob"] })).await;
    invalid.refused(400, "M_INVALID_PARAM");
    let capabilities = alice.get("capabilities").await.ok();
    assert_eq!(
        capabilities["capabilities"]["org.matrix.msc3720.account_status"]["enabled"],
        true
    );

    // Servers are told of this server's users only.
    let ask = async |user: &str| {
        let body = json!({ "user_ids": [user] });
        remote.request(&here, "POST", STATUS_OF_SERVERS, Some(&body)).await
    };
    let answer = ask(&alice.user_id).await.ok();
    assert_eq!(answer["account_statuses"][&alice.user_id], is(false));
    ask(&bob.user_id).await.refused(400, "M_INVALID_PARAM");
}

fn one_time(ids: &[&str]) -> Value {
    let key = |id: &&str| (format!("{ALGORITHM}:{id}"), json!({ "key": format!("key {id}") }));
    ids.iter().map(key).collect::<serde_json::Map<_, _>>().into()
}

/// Which keys of the device were given, sorted.
fn given(answer: &Value, of: &User) -> Vec<String> {
    let keys = answer["one_time_keys"][&of.user_id][&of.device_id].as_object();
    let mut ids: Vec<String> = keys
        .into_iter()
        .flatten()
        .map(|(id, _)| id.rsplit(':').next().unwrap_or_default().to_owned())
        .collect();
    ids.sort();
    ids
}

async fn several_keys_at_once(backend: Backend) {
    let (here, there, authority) = servers(backend).await;
    let town = Town {
        here: here.clone(),
        there,
        version: VERSION.to_owned(),
    };
    let (alice, bob, _) = shared_room(&town).await;
    let fallback = json!({ format!("{ALGORITHM}:F"): { "key": "key F", "fallback": true } });
    for user in [&alice, &bob] {
        let keys = json!({ "one_time_keys": one_time(&["A", "B", "C"]), "fallback_keys": &fallback });
        user.post("keys/upload", keys).await.ok();
    }
    let claim = async || {
        let two = |user: &User| json!({ &user.device_id: [ALGORITHM, ALGORITHM] });
        let wanted = json!({ &alice.user_id: two(&alice), &bob.user_id: two(&bob) });
        let answer = alice.post(CLAIM, json!({ "one_time_keys": wanted })).await.ok();
        assert_eq!(answer["failures"], json!({}), "{answer}");
        [given(&answer, &alice), given(&answer, &bob)]
    };
    // Of this server's user and of the other's alike.
    assert_eq!(claim().await, [["A", "B", "F"], ["A", "B", "F"]]);
    assert_eq!(claim().await, [["C", "F"], ["C", "F"]]);
    assert_eq!(claim().await, [["F"], ["F"]]);

    // A server that knows the stable endpoint only gives one.
    let remote = Remote::start(&authority).await;
    let far = remote.user("far");
    let key = json!({ "one_time_keys": { &far: { "D": { format!("{ALGORITHM}:X"): { "key": "x" } } } } });
    remote.behave(move |request: &Request| {
        let stable = request.path == "/_matrix/federation/v1/user/keys/claim";
        stable.then(|| Answer::Json(200, key.clone()))
    });
    let wanted = json!({ "one_time_keys": { &far: { "D": [ALGORITHM, ALGORITHM] } } });
    let answer = alice.post(CLAIM, wanted).await.ok();
    let keys = &answer["one_time_keys"][&far]["D"];
    assert!(keys[format!("{ALGORITHM}:X")].is_object(), "{answer}");
    // Nobody gets keys of others' users here, and unsigned requests none at all.
    let body = json!({ "one_time_keys": { &bob.user_id: { &bob.device_id: [ALGORITHM] } } });
    let answer = remote.request(&here, "POST", CLAIM_OF_SERVERS, Some(&body)).await.ok();
    assert_eq!(answer, json!({ "one_time_keys": {} }));
}

both_backends! {
    the_status_of_accounts
    several_keys_at_once
}
