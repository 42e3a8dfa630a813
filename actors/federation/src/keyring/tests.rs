use std::sync::Mutex;

use base::error::DomainError;
use bytes::Bytes;
use entities::testing::TestDb;
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};

use super::*;
use crate::client::WireSettings;
use crate::testing::{Reply, START, Seen, World, name, our_key, us};

const DAY: Millis = 24 * 60 * 60 * 1_000;

fn key_of(seed: u8) -> ServerKey {
    ServerKey::new(&[seed; 32], format!("k{seed}"))
}

fn public(seed: u8) -> String {
    Base64::<ruma::serde::base64::Standard>::new(key_of(seed).public_key().to_vec()).encode()
}

/// The document of a server whose key has this seed; old keys with their ends.
fn document(server: &str, seed: u8, valid_until: Millis, old: &[(u8, Millis)]) -> CanonicalJsonObject {
    let old = old
        .iter()
        .map(|(seed, end)| (key_of(*seed).id(), json!({ "key": public(*seed), "expired_ts": end })));
    let value = json!({
        "server_name": server,
        "valid_until_ts": valid_until,
        "verify_keys": { key_of(seed).id(): { "key": public(seed) } },
        "old_verify_keys": old.collect::<serde_json::Map<String, Value>>(),
    });
    signed(value, server, seed)
}

fn signed(value: Value, server: &str, seed: u8) -> CanonicalJsonObject {
    let Ok(ruma::CanonicalJsonValue::Object(mut object)) = value.try_into() else {
        panic!("tests make canonical JSON");
    };
    ruma::signatures::sign_json(server, &key_of(seed), &mut object).expect("it can be signed");
    object
}

fn as_value(object: &CanonicalJsonObject) -> Value {
    serde_json::to_value(object).expect("canonical JSON is JSON")
}

struct Set {
    world: World,
    db: TestDb,
    ring: KeyRing,
}

impl Set {
    async fn new(trusted: &[&str]) -> Self {
        let (world, db) = (World::new(), TestDb::sqlite().await);
        let ring = ring(
            &world,
            &db,
            trusted,
            WireSettings {
                authorities: world.authorities(),
                ..WireSettings::default()
            },
        )
        .await;
        Self { world, db, ring }
    }

    /// A server whose key document is what `answer` says at the time; `192.0.2.<at>:8448`.
    async fn server(
        &self,
        server: &'static str,
        at: u8,
        answer: impl Fn() -> Reply + Send + Sync + 'static,
    ) -> Arc<Mutex<Vec<Seen>>> {
        let host = server.split(':').next().unwrap_or(server);
        self.world.host(host, &[&format!("192.0.2.{at}")]);
        let handler = move |seen: &Seen| match seen.uri.as_str() {
            "/_matrix/key/v2/server" => answer(),
            _ => Reply::Json(404, json!({})),
        };
        self.world.serve(&[host], &format!("192.0.2.{at}:8448"), handler).await
    }

    async fn has(&self, server: &str, seed: u8, at: Option<Millis>) -> bool {
        let wanted = wanted(server, seed, at);
        let keys = self.ring.keys(&[wanted]).await.expect("the database answers");
        let found = keys.of([&*name(server)], at);
        found
            .get(server)
            .is_some_and(|keys| keys.contains_key(&key_of(seed).id()))
    }
}

async fn ring(world: &World, db: &TestDb, trusted: &[&str], settings: WireSettings) -> KeyRing {
    let settings_of_keys = KeyRingSettings {
        old_keys: vec![OldKey {
            key_id: "ed25519:old".to_owned(),
            public_key: key_of(99).public_key(),
            expired_ts: START - DAY,
        }],
        trusted_key_servers: trusted.iter().map(|server| name(server)).collect(),
    };
    let wire = world.wire_with(settings);
    let io = Handle::current();
    KeyRing::new(wire, our_key(), settings_of_keys, db.store().await, world.tools(), io)
}

fn wanted(server: &str, seed: u8, at: Option<Millis>) -> Wanted {
    Wanted {
        server: name(server),
        key_id: key_of(seed).id(),
        at,
    }
}

fn count(seen: &Mutex<Vec<Seen>>) -> usize {
    seen.lock().expect("no panic").len()
}

#[tokio::test]
async fn a_server_is_asked_once_for_all_and_its_keys_are_kept() {
    let set = Set::new(&[]).await;
    let answer = || {
        Reply::Json(
            200,
            as_value(&document("a.example:8448", 1, START + DAY, &[(2, START - DAY)])),
        )
    };
    let asked = set.server("a.example:8448", 1, answer).await;
    let found = futures_util::future::join_all((0..8).map(|_| set.has("a.example:8448", 1, Some(START)))).await;
    assert_eq!(found, [true; 8]);
    assert!(set.has("a.example:8448", 2, Some(START - DAY)).await);
    assert_eq!(count(&asked), 1);
    assert!(
        !set.has("a.example:8448", 2, Some(START)).await,
        "an old key signs nothing new"
    );

    let after_restart = ring(&set.world, &set.db, &[], WireSettings::default()).await;
    let keys = after_restart
        .keys(&[wanted("a.example:8448", 1, None)])
        .await
        .expect("the database answers");
    assert!(keys.valid_at(Some(START))["a.example:8448"].contains_key("ed25519:k1"));
    assert_eq!(count(&asked), 1, "nobody was asked again");
}

#[tokio::test]
async fn keys_past_their_time_are_fetched_again() {
    let set = Set::new(&[]).await;
    let until = Arc::new(std::sync::atomic::AtomicI64::new(START + 1_000));
    let told = until.clone();
    let answer = move || {
        let until = told.load(std::sync::atomic::Ordering::SeqCst);
        Reply::Json(200, as_value(&document("a.example:8448", 1, until, &[])))
    };
    let asked = set.server("a.example:8448", 1, answer).await;
    assert!(set.has("a.example:8448", 1, Some(START + 1_000)).await);
    set.world.pass(DAY);
    assert!(set.has("a.example:8448", 1, Some(START + 1_000)).await);
    assert_eq!(count(&asked), 1, "what was signed then is good for ever");
    assert!(
        !set.has("a.example:8448", 1, Some(START + DAY)).await,
        "the server has not renewed it"
    );
    assert_eq!(count(&asked), 2);
    until.store(START + 30 * DAY, std::sync::atomic::Ordering::SeqCst);
    set.world.pass(60_000);
    assert!(set.has("a.example:8448", 1, Some(START + DAY)).await);
    set.world.pass(60_000);
    assert!(
        !set.has("a.example:8448", 1, Some(START + 9 * DAY)).await,
        "a week at most"
    );
}

#[tokio::test]
async fn lying_servers_are_not_believed_and_left_alone_for_a_while() {
    let set = Set::new(&[]).await;
    let mut forged = document("d.example:8448", 1, START + DAY, &[]);
    forged.insert("valid_until_ts".to_owned(), ruma::CanonicalJsonValue::Integer(1.into()));
    let large = format!(
        "{}{}",
        " ".repeat(70_000),
        as_value(&document("e.example:8448", 1, START + DAY, &[]))
    );
    let replies: [(&'static str, Value, Bytes); 4] = [
        (
            "b.example:8448",
            as_value(&document("c.example:8448", 1, START + DAY, &[])),
            Bytes::new(),
        ),
        ("d.example:8448", as_value(&forged), Bytes::new()),
        ("e.example:8448", Value::Null, large.into()),
        ("f.example:8448", json!([1]), Bytes::new()),
    ];
    for (at, (server, value, bytes)) in (1..).zip(replies) {
        let answer = move || match bytes.is_empty() {
            true => Reply::Json(200, value.clone()),
            false => Reply::With(200, Vec::new(), bytes.clone()),
        };
        let asked = set.server(server, at, answer).await;
        assert!(!set.has(server, 1, None).await, "{server}");
        assert!(!set.has(server, 1, None).await);
        assert_eq!(count(&asked), 1, "{server}");
        set.world.pass(15_000);
        assert!(!set.has(server, 1, None).await);
        assert_eq!(count(&asked), 2, "{server}");
    }
    assert!(
        !set.has("c.example:8448", 1, None).await,
        "what another server said of it does not count"
    );
}

#[tokio::test]
async fn invented_key_ids_do_not_make_a_server_be_asked_over_and_over() {
    let set = Set::new(&[]).await;
    let answer = || Reply::Json(200, as_value(&document("a.example:8448", 1, START + DAY, &[])));
    let asked = set.server("a.example:8448", 1, answer).await;
    for seed in 2..30 {
        assert!(!set.has("a.example:8448", seed, None).await);
    }
    assert_eq!(count(&asked), 1);
}

/// A notary that knows `documents`, signed by itself with this seed.
async fn notary(set: &Set, documents: Vec<CanonicalJsonObject>, seed: u8) -> Arc<Mutex<Vec<Seen>>> {
    set.world.host("notary.example", &["192.0.2.200"]);
    let own = as_value(&document("notary.example:8448", 50, START + DAY, &[]));
    let known: Vec<Value> = documents
        .into_iter()
        .map(|mut document| {
            ruma::signatures::sign_json("notary.example:8448", &key_of(seed), &mut document).expect("it can be signed");
            as_value(&document)
        })
        .collect();
    let handler = move |seen: &Seen| match seen.uri.as_str() {
        "/_matrix/key/v2/server" => Reply::Json(200, own.clone()),
        "/_matrix/key/v2/query" => Reply::Json(200, json!({ "server_keys": known.clone() })),
        _ => Reply::Json(404, json!({})),
    };
    set.world.serve(&["notary.example"], "192.0.2.200:8448", handler).await
}

#[tokio::test]
async fn notaries_know_the_keys_of_servers_that_are_gone() {
    let set = Set::new(&["notary.example:8448"]).await;
    let gone = document("gone.example:8448", 1, START - DAY, &[]);
    let unasked = document("unasked.example:8448", 1, START - DAY, &[]);
    let asked = notary(&set, vec![gone, unasked], 50).await;
    assert!(set.has("gone.example:8448", 1, Some(START - DAY)).await);
    let query = asked.lock().expect("no panic").last().cloned().expect("it was asked");
    let query: Value = serde_json::from_slice(&query.body).expect("JSON");
    assert_eq!(
        query,
        json!({ "server_keys": { "gone.example:8448": { "ed25519:k1": { "minimum_valid_until_ts": START - DAY } } } })
    );
    let unasked = set
        .db
        .store()
        .await
        .server_keys(&["unasked.example:8448".to_owned()])
        .await
        .expect("read");
    assert_eq!(unasked, [], "only what was asked for");
    let before = count(&asked);
    assert!(!set.has("gone.example:8448", 2, None).await);
    assert_eq!(count(&asked), before, "neither is asked again at once");
}

#[tokio::test]
async fn a_notary_must_sign_with_a_key_of_its_own() {
    let set = Set::new(&["notary.example:8448"]).await;
    let asked = notary(&set, vec![document("gone.example:8448", 1, START + DAY, &[])], 51).await;
    assert!(!set.has("gone.example:8448", 1, None).await);
    assert_eq!(count(&asked), 2, "its document and its answer");
}

#[tokio::test]
async fn many_servers_are_asked_for_at_a_notary_at_once() {
    let set = Set::new(&["notary.example:8448"]).await;
    let names: Vec<String> = (0..40).map(|n| format!("s{n}.example:8448")).collect();
    let documents = names
        .iter()
        .map(|server| document(server, 1, START + DAY, &[]))
        .collect();
    let asked = notary(&set, documents, 50).await;
    let wanted: Vec<Wanted> = names.iter().map(|server| wanted(server, 1, Some(START))).collect();
    let keys = set.ring.keys(&wanted).await.expect("the database answers");
    assert_eq!(
        keys.valid_at(Some(START))
            .values()
            .filter(|keys| !keys.is_empty())
            .count(),
        40
    );
    assert_eq!(count(&asked), 2, "its document and its answer");
    assert_eq!(
        set.world.network.dialled.lock().expect("no panic").len(),
        1,
        "nobody else"
    );
}

#[tokio::test]
async fn our_own_keys_are_known_without_asking() {
    let set = Set::new(&[]).await;
    let wanted = [wanted("us.example", 1, None)];
    let keys = set.ring.keys(&wanted).await.expect("the database answers");
    let ids = |at| {
        keys.valid_at(Some(at))["us.example"]
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(START), ["ed25519:us"]);
    assert_eq!(ids(START - DAY), ["ed25519:old", "ed25519:us"]);
    let document = document::read(set.ring.own_document().expect("it can be made"), START).expect("it is good");
    assert_eq!(document.keys["ed25519:old"].until, START - DAY);
    assert_eq!(document.keys["ed25519:us"].until, START + 7 * DAY);
}

/// A request of `origin` as it arrives.
fn request(origin: &str, seed: u8, destination: &str, body: &'static str) -> SignedRequest {
    let mut signed = Request::new(Bytes::from_static(body.as_bytes()));
    *signed.method_mut() = Method::PUT;
    *signed.uri_mut() = "/_matrix/federation/v1/send/1?a=%20".parse().expect("an address");
    let mut headers = HeaderMap::new();
    if serde_json::from_str::<ruma::CanonicalJsonValue>(body).is_ok() || body.is_empty() {
        let header = crate::xmatrix::sign(&signed, &key_of(seed), &name(origin), &name(destination));
        headers.insert("authorization", header.expect("it can be signed"));
    } else {
        let header = format!(r#"X-Matrix origin="{origin}",key="{}",sig="AAAA""#, key_of(seed).id());
        headers.insert("authorization", header.parse().expect("a header"));
    }
    SignedRequest {
        method: Method::PUT,
        uri: "/_matrix/federation/v1/send/1?a=%20".to_owned(),
        headers,
        body: signed.into_body(),
    }
}

fn refusal(outcome: Outcome<OwnedServerName>) -> (u16, String) {
    match outcome {
        Err(DomainError::Matrix { status, errcode, .. }) => (status, errcode.into_owned()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn requests_are_let_in_with_a_key_in_use_and_no_other() {
    let set = Set::new(&[]).await;
    let answer = || {
        Reply::Json(
            200,
            as_value(&document("a.example:8448", 1, START + DAY, &[(2, START + DAY)])),
        )
    };
    set.server("a.example:8448", 1, answer).await;
    let check = |request| set.ring.verify_request(request);
    let from = |seed, body| request("a.example:8448", seed, "us.example", body);
    for body in ["", r#"{"pdus":[],"x":"é"}"#] {
        assert_eq!(check(from(1, body)).await.expect("it is good"), "a.example:8448");
    }
    let unauthorized = (401, "M_UNAUTHORIZED".to_owned());
    set.world.pass(1_000);
    assert_eq!(refusal(check(from(2, "{}")).await), unauthorized, "a key that is old");
    assert_eq!(refusal(check(from(3, "{}")).await), unauthorized, "a key nobody knows");
    assert_eq!(
        refusal(check(request("b.example:8448", 1, "us.example", "{}")).await),
        unauthorized,
        "away"
    );
    assert_eq!(
        refusal(check(request("us.example", 1, "us.example", "{}")).await),
        unauthorized,
        "ourselves"
    );
    assert_eq!(
        refusal(check(request("a.example:8448", 1, "b.example", "{}")).await),
        unauthorized,
        "not for us"
    );
    let changed = |change: fn(&mut SignedRequest)| {
        let mut request = from(1, "{}");
        change(&mut request);
        check(request)
    };
    assert_eq!(
        refusal(changed(|request| request.body = Bytes::from_static(b"{\"a\":1}")).await),
        unauthorized
    );
    assert_eq!(
        refusal(changed(|request| request.body = Bytes::new()).await),
        unauthorized
    );
    assert_eq!(
        refusal(changed(|request| request.method = Method::POST).await),
        unauthorized
    );
    assert_eq!(refusal(changed(|request| request.uri.push('0')).await), unauthorized);
    assert_eq!(refusal(changed(|request| request.headers.clear()).await), unauthorized);
    assert_eq!(refusal(check(from(1, "<html>")).await), (400, "M_NOT_JSON".to_owned()));
    assert_eq!(refusal(check(from(1, r#"{"a":1.5}"#)).await), unauthorized);
    // The server does not renew its key.
    set.world.pass(2 * DAY);
    assert_eq!(refusal(check(from(1, "{}")).await), unauthorized);
}

#[tokio::test]
async fn a_server_that_was_away_is_let_in_soon_after_it_is_back() {
    let set = Set::new(&[]).await;
    let check = || {
        set.ring
            .verify_request(request("a.example:8448", 1, "us.example", "{}"))
    };
    for _ in 0..6 {
        assert_eq!(refusal(check().await).0, 401);
        set.world.pass(15_000);
    }
    let answer = || Reply::Json(200, as_value(&document("a.example:8448", 1, START + DAY, &[])));
    set.server("a.example:8448", 1, answer).await;
    assert_eq!(check().await.expect("it is good"), "a.example:8448");
}

#[tokio::test]
async fn without_federation_nobody_is_let_in() {
    let (world, db) = (World::new(), TestDb::sqlite().await);
    let settings = WireSettings {
        enabled: false,
        ..WireSettings::default()
    };
    let ring = ring(&world, &db, &[], settings).await;
    let outcome = ring
        .verify_request(request("a.example:8448", 1, "us.example", "{}"))
        .await;
    assert_eq!(refusal(outcome), (403, "M_FORBIDDEN".to_owned()));
}

#[tokio::test]
async fn as_a_notary_this_server_hands_on_what_it_fetched_with_its_signature() {
    let set = Set::new(&[]).await;
    let answer = || Reply::Json(200, as_value(&document("a.example:8448", 1, START + DAY, &[])));
    let asked = set.server("a.example:8448", 1, answer).await;
    let query = |server: &str, minimum_valid_until| Query {
        server: name(server),
        key_ids: Vec::new(),
        minimum_valid_until,
    };
    let all = || {
        vec![
            query("a.example:8448", None),
            query("away.example:8448", None),
            query("us.example", None),
        ]
    };
    let answer = set.ring.notarize(all()).await.expect("the database answers");
    let servers: Vec<_> = answer
        .iter()
        .map(|document| as_value(document)["server_name"].clone())
        .collect();
    assert_eq!(servers, ["a.example:8448", "us.example"]);
    let theirs = key_of(1).public_key();
    assert!(document::is_signed(
        &answer[0],
        &name("a.example:8448"),
        "ed25519:k1",
        &theirs
    ));
    for document in &answer {
        assert!(document::is_signed(
            document,
            &us(),
            &our_key().id(),
            &our_key().public_key()
        ));
    }
    set.ring.notarize(all()).await.expect("the database answers");
    assert_eq!(count(&asked), 1, "it is remembered");
    set.world.pass(DAY / 2);
    set.ring.notarize(all()).await.expect("the database answers");
    assert_eq!(count(&asked), 2, "for half of its life");
    set.world.pass(60_000);
    let later = set
        .ring
        .notarize(vec![query("a.example:8448", Some(START + 2 * DAY))])
        .await;
    assert_eq!(later.expect("the database answers").len(), 1, "as good as it gets");
    assert_eq!(count(&asked), 3);
}
