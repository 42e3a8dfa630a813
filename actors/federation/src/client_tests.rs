use std::sync::Mutex;

use http::Version;
use serde_json::json;

use super::*;
use crate::testing::{FakeNetwork, Reply, Seen, World, name, our_key, us};
use crate::xmatrix::Claim;

const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(5),
    max_bytes: 1_000,
};
const QUICK: Limits = Limits {
    timeout: Duration::from_millis(300),
    max_bytes: 1_000,
};

fn hello() -> WireRequest {
    WireRequest::get("/_matrix/federation/v1/version?a=b%20c", LIMITS)
}

fn ok(_: &Seen) -> Reply {
    Reply::Json(200, json!({ "hello": "world" }))
}

fn delegates_to(target: &'static str) -> impl Fn(&Seen) -> Reply {
    move |seen| match seen.uri.as_str() {
        "/.well-known/matrix/server" => Reply::Json(200, json!({ "m.server": target })),
        _ => Reply::Json(404, json!({})),
    }
}

fn last(seen: &Mutex<Vec<Seen>>) -> Seen {
    seen.lock().expect("no panic").last().cloned().expect("it was asked")
}

fn count(seen: &Mutex<Vec<Seen>>) -> usize {
    seen.lock().expect("no panic").len()
}

/// Server names of each kind, with the `Host` and the SNI that the server has to see.
const KINDS: [(&str, &str, Option<&str>); 8] = [
    ("192.0.2.1", "192.0.2.1", None),
    ("192.0.2.1:1234", "192.0.2.1:1234", None),
    ("[2001:db8::1]:1234", "[2001:db8::1]:1234", None),
    ("port.example:1234", "port.example:1234", Some("port.example")),
    (
        "to-port.example",
        "matrix.to-port.example:443",
        Some("matrix.to-port.example"),
    ),
    ("to-literal.example", "192.0.2.9", None),
    ("to-srv.example", "matrix.to-srv.example", Some("matrix.to-srv.example")),
    ("old-srv.example", "old-srv.example", Some("old-srv.example")),
];

async fn kinds(world: &World) -> Vec<Arc<Mutex<Vec<Seen>>>> {
    world.host("port.example", &["192.0.2.2"]);
    for (name, address, target) in [
        ("to-port.example", "192.0.2.3", "matrix.to-port.example:443"),
        ("to-literal.example", "192.0.2.4", "192.0.2.9"),
        ("to-srv.example", "192.0.2.5", "matrix.to-srv.example"),
    ] {
        world.host(name, &[address]);
        world
            .serve(&[name], &format!("{address}:443"), delegates_to(target))
            .await;
    }
    world.host("matrix.to-port.example", &["192.0.2.6"]);
    world.service("_matrix-fed._tcp.matrix.to-srv.example", "machine.example", 4444);
    world.service("_matrix._tcp.matrix.to-srv.example", "wrong.example", 4444);
    world.host("machine.example", &["192.0.2.7"]);
    world.service("_matrix._tcp.old-srv.example", "machine.old.example", 5555);
    world.host("machine.old.example", &["192.0.2.8"]);
    let servers = [
        ("192.0.2.1", "192.0.2.1:8448"),
        ("192.0.2.1", "192.0.2.1:1234"),
        ("2001:db8::1", "[2001:db8::1]:1234"),
        ("port.example", "192.0.2.2:1234"),
        ("matrix.to-port.example", "192.0.2.6:443"),
        ("192.0.2.9", "192.0.2.9:8448"),
        ("matrix.to-srv.example", "192.0.2.7:4444"),
        ("old-srv.example", "192.0.2.8:5555"),
    ];
    let mut seen = Vec::new();
    for (certified, address) in servers {
        seen.push(world.serve(&[certified], address, ok).await);
    }
    seen
}

async fn every_kind_is_found(world: World, version: Version) {
    let servers = kinds(&world).await;
    let wire = world.wire();
    for ((server, host, sni), seen) in KINDS.iter().zip(servers) {
        let answer = wire.send(&name(server), hello()).await;
        let answer = answer.unwrap_or_else(|error| panic!("{server}: {error}"));
        assert_eq!(answer.body, r#"{"hello":"world"}"#);
        let seen = last(&seen);
        assert_eq!(seen.host, *host, "{server}");
        assert_eq!(seen.sni.as_deref(), *sni, "{server}");
        assert_eq!(seen.uri, "/_matrix/federation/v1/version?a=b%20c");
        assert_eq!(seen.version, version);
    }
}

#[tokio::test]
async fn servers_of_every_kind_are_found_over_http2() {
    every_kind_is_found(World::new(), Version::HTTP_2).await;
}

#[tokio::test]
async fn servers_of_every_kind_are_found_over_http1() {
    every_kind_is_found(World::new().http1_only(), Version::HTTP_11).await;
}

#[tokio::test]
async fn without_any_record_it_is_port_8448_and_the_next_address_where_one_is_dead() {
    let world = World::new();
    world.host("plain.example", &["192.0.2.1", "192.0.2.2"]);
    let seen = world.serve(&["plain.example"], "192.0.2.2:8448", ok).await;
    world
        .wire()
        .send(&name("plain.example"), hello())
        .await
        .expect("an answer");
    assert_eq!(last(&seen).host, "plain.example");
}

#[tokio::test]
async fn the_certificate_must_name_the_host_and_not_what_dns_says() {
    let world = World::new();
    world.service("_matrix-fed._tcp.victim.example", "attacker.example", 8448);
    world.host("attacker.example", &["192.0.2.1"]);
    let seen = world.serve(&["attacker.example"], "192.0.2.1:8448", ok).await;
    let error = world
        .wire()
        .send(&name("victim.example"), hello())
        .await
        .expect_err("refused");
    assert!(
        matches!(&error, WireError::Unreachable(reason) if reason.contains("certificate")),
        "{error}"
    );
    assert_eq!(count(&seen), 0);

    let settings = WireSettings {
        insecure_skip_tls_verify: true,
        ..WireSettings::default()
    };
    world
        .wire_with(settings)
        .send(&name("victim.example"), hello())
        .await
        .expect("no matter which");
    let strangers = world.wire_with(WireSettings::default());
    let error = strangers
        .send(&name("attacker.example"), hello())
        .await
        .expect_err("refused");
    assert!(
        matches!(error, WireError::Unreachable(_)),
        "the authority is not trusted: {error}"
    );
}

#[tokio::test]
async fn delegations_are_remembered_as_long_as_they_hold() {
    let world = World::new();
    world.host("a.example", &["192.0.2.1"]);
    world.host("b.example", &["192.0.2.2"]);
    let headers = || vec![("cache-control", "max-age=600".to_owned())];
    let body = || Bytes::from_static(br#"{"m.server":"b.example:1"}"#);
    let asked = world
        .serve(&["a.example"], "192.0.2.1:443", move |_| {
            Reply::With(200, headers(), body())
        })
        .await;
    world.serve(&["b.example"], "192.0.2.2:1", ok).await;
    let wire = world.wire();
    let send = || async { wire.send(&name("a.example"), hello()).await.expect("an answer") };
    futures_util::future::join_all((0..5).map(|_| send())).await;
    assert_eq!(count(&asked), 1, "once for all who ask at the same time");
    world.pass(599_000);
    send().await;
    assert_eq!(count(&asked), 1);
    world.pass(1_000);
    send().await;
    assert_eq!(count(&asked), 2);
}

#[tokio::test]
async fn a_slow_delegation_is_remembered_though_nobody_waited_for_it() {
    let world = World::new();
    world.host("a.example", &["192.0.2.1"]);
    world.host("b.example", &["192.0.2.2"]);
    let slow = |_: &Seen| {
        let document = Reply::Json(200, json!({ "m.server": "b.example:1" }));
        Reply::Later(Duration::from_millis(600), Box::new(document))
    };
    let asked = world.serve(&["a.example"], "192.0.2.1:443", slow).await;
    world.serve(&["b.example"], "192.0.2.2:1", ok).await;
    let wire = world.wire();
    let sent = wire.send(&name("a.example"), WireRequest::get("/", QUICK)).await;
    assert!(matches!(sent, Err(WireError::Unreachable(_))), "{sent:?}");
    wire.send(&name("a.example"), hello()).await.expect("an answer");
    wire.send(&name("a.example"), WireRequest::get("/", QUICK))
        .await
        .expect("found at once");
    assert_eq!(count(&asked), 1);
}

#[tokio::test]
async fn redirects_of_a_delegation_are_followed_but_not_for_ever() {
    let world = World::new();
    let to = |target: &str| Reply::With(302, vec![("location", target.to_owned())], Bytes::new());
    world.host("a.example", &["192.0.2.1"]);
    world.host("www.a.example", &["192.0.2.2"]);
    world.host("b.example", &["192.0.2.3"]);
    world
        .serve(&["a.example"], "192.0.2.1:443", move |_| to("https://www.a.example/x"))
        .await;
    world
        .serve(&["www.a.example"], "192.0.2.2:443", |seen| match seen.uri.as_str() {
            "/x" => Reply::Json(200, json!({ "m.server": "b.example:1" })),
            _ => Reply::Json(404, json!({})),
        })
        .await;
    let seen = world.serve(&["b.example"], "192.0.2.3:1", ok).await;
    let wire = world.wire();
    wire.send(&name("a.example"), hello()).await.expect("an answer");
    assert_eq!(last(&seen).host, "b.example:1");

    world.host("loop.example", &["192.0.2.4"]);
    let round = move |_: &Seen| to("https://loop.example/.well-known/matrix/server");
    let asked = world.serve(&["loop.example"], "192.0.2.4:443", round).await;
    let seen = world.serve(&["loop.example"], "192.0.2.4:8448", ok).await;
    wire.send(&name("loop.example"), hello())
        .await
        .expect("found without a delegation");
    assert_eq!((count(&asked), last(&seen).host.as_str()), (6, "loop.example"));
}

#[tokio::test]
async fn a_bad_delegation_is_as_good_as_none() {
    let world = World::new();
    for (at, body) in [&b"<html>"[..], br#"{"m.server":"https://b.example"}"#, &[b' '; 60_000]]
        .into_iter()
        .enumerate()
    {
        let (server, address) = (format!("s{at}.example"), format!("192.0.2.{at}"));
        world.host(&server, &[&address]);
        let body = Bytes::from_static(body);
        world
            .serve(&[&server], &format!("{address}:443"), move |_| {
                Reply::With(200, Vec::new(), body.clone())
            })
            .await;
        let seen = world.serve(&[&server], &format!("{address}:8448"), ok).await;
        world.wire().send(&name(&server), hello()).await.expect("an answer");
        assert_eq!(last(&seen).host, server);
    }
}

#[tokio::test]
async fn too_large_answers_are_cut_off() {
    let world = World::new();
    world.host("big.example", &["192.0.2.1"]);
    world
        .serve(&["big.example"], "192.0.2.1:1", |seen| match seen.uri.as_str() {
            "/length" => Reply::With(200, Vec::new(), vec![b' '; 1_001].into()),
            "/chunks" => Reply::Chunks(vec![vec![b' '; 400].into(); 3]),
            _ => Reply::Chunks(vec![vec![b' '; 500].into(); 2]),
        })
        .await;
    let wire = world.wire();
    for path in ["/length", "/chunks"] {
        let sent = wire.send(&name("big.example:1"), WireRequest::get(path, LIMITS)).await;
        assert!(
            matches!(&sent, Err(WireError::Invalid(reason)) if reason.contains("1000")),
            "{path}: {sent:?}"
        );
    }
    let fits = wire
        .send(&name("big.example:1"), WireRequest::get("/fits", LIMITS))
        .await;
    assert_eq!(fits.map(|answer| answer.body.len()).ok(), Some(1_000));
}

#[tokio::test]
async fn slow_answers_end_with_the_time_that_they_have() {
    let world = World::new();
    world.host("slow.example", &["192.0.2.1"]);
    world.serve(&["slow.example"], "192.0.2.1:1", |_| Reply::Trickle).await;
    let sent = world
        .wire()
        .send(&name("slow.example:1"), WireRequest::get("/", QUICK))
        .await;
    assert!(matches!(sent, Err(WireError::Unreachable(_))), "{sent:?}");
}

#[tokio::test]
async fn blocked_addresses_are_not_connected_to() {
    let world = World::new();
    world.host("inside.example", &["127.0.0.1", "10.0.0.1"]);
    world.host("both.example", &["127.0.0.1", "192.0.2.1"]);
    world.service("_matrix-fed._tcp.srv.example", "inside.example", 80);
    world.serve(&["both.example"], "192.0.2.1:1", ok).await;
    let wire = world.wire_with(WireSettings {
        authorities: world.authorities(),
        ip_range_blocklist: ["127.0.0.0/8", "10.0.0.0/8"]
            .map(|range| range.parse().expect("a range"))
            .into(),
        ..WireSettings::default()
    });
    for server in [
        "inside.example:1",
        "inside.example",
        "srv.example",
        "127.0.0.1",
        "[::ffff:10.0.0.1]:80",
    ] {
        let sent = wire.send(&name(server), hello()).await;
        assert!(matches!(sent, Err(WireError::Blocked(_))), "{server}: {sent:?}");
    }
    assert!(dialled(&world.network).is_empty());
    wire.send(&name("both.example:1"), hello())
        .await
        .expect("one address is good");
    assert_eq!(dialled(&world.network), ["192.0.2.1:1"]);
    let sent = wire.send(&us(), hello()).await;
    assert!(matches!(sent, Err(WireError::Blocked(_))), "this very server: {sent:?}");
}

fn dialled(network: &FakeNetwork) -> Vec<String> {
    network
        .dialled
        .lock()
        .expect("no panic")
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test]
async fn refusals_keep_what_the_other_server_said() {
    let world = World::new();
    world.host("no.example", &["192.0.2.1"]);
    world
        .serve(&["no.example"], "192.0.2.1:1", |seen| match seen.uri.as_str() {
            "/limit" => Reply::Json(
                429,
                json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "slow", "retry_after_ms": 7 }),
            ),
            "/later" => Reply::With(
                503,
                vec![("retry-after", "3".to_owned())],
                Bytes::from_static(b"<html>away"),
            ),
            "/huge" => Reply::With(500, Vec::new(), vec![b'x'; 100_000].into()),
            _ => Reply::With(
                302,
                vec![("location", "https://no.example:1/limit".to_owned())],
                Bytes::new(),
            ),
        })
        .await;
    let wire = world.wire();
    let mut said = Vec::new();
    for path in ["/limit", "/later", "/huge", "/moved"] {
        match wire.send(&name("no.example:1"), WireRequest::get(path, LIMITS)).await {
            Err(WireError::Refused {
                status,
                errcode,
                error,
                retry_after_ms,
                ..
            }) => {
                said.push((status, errcode, error, retry_after_ms));
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    let expected = [
        (429, Some("M_LIMIT_EXCEEDED".to_owned()), "slow".to_owned(), Some(7)),
        (503, None, "<html>away".to_owned(), Some(3_000)),
        (500, None, String::new(), None),
        (302, None, String::new(), None),
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn requests_are_signed_for_their_destination() {
    let world = World::new();
    world.host("a.example", &["192.0.2.1"]);
    let seen = world.serve(&["a.example"], "192.0.2.1:1", ok).await;
    let body = RawValue::from_string(r#"{"b":[1,"é"],"a":null}"#.to_owned()).expect("JSON");
    let request = WireRequest::with_body(Method::PUT, "/_matrix/federation/v1/send/%2F?x=%20", body, LIMITS);
    world
        .wire()
        .send(&name("a.example:1"), request.clone())
        .await
        .expect("an answer");
    let got = last(&seen);
    assert_eq!(got.headers["content-type"], "application/json");
    let mut received = Request::new(got.body);
    *received.method_mut() = got.method;
    *received.uri_mut() = got.uri.parse().expect("an address");
    let them = name("a.example:1");
    let claim = Claim::read(&got.headers, &them).expect("there is a signature");
    assert_eq!(claim.origin, us());
    let public = ruma::serde::Base64::new(our_key().public_key().to_vec());
    let keys = [(us().to_string(), [(our_key().id(), public)].into())].into();
    claim.check(&received, &them, &keys).expect("it is good");
    *received.uri_mut() = "/_matrix/federation/v1/send/%2F?x=+".parse().expect("an address");
    claim.check(&received, &them, &keys).expect_err("the query has changed");

    let unsigned = WireRequest {
        signed: false,
        ..request
    };
    world
        .wire()
        .send(&name("a.example:1"), unsigned)
        .await
        .expect("an answer");
    assert!(!last(&seen).headers.contains_key("authorization"));
}

#[tokio::test]
async fn what_cannot_be_signed_or_is_disabled_is_not_sent() {
    let world = World::new();
    let body = RawValue::from_string(r#"{"a":1.5}"#.to_owned()).expect("JSON");
    let request = WireRequest::with_body(Method::PUT, "/x", body, LIMITS);
    let sent = world.wire().send(&name("192.0.2.1:1"), request).await;
    assert!(matches!(sent, Err(WireError::Invalid(_))), "{sent:?}");
    let settings = WireSettings {
        enabled: false,
        ..WireSettings::default()
    };
    let sent = world.wire_with(settings).send(&name("192.0.2.1:1"), hello()).await;
    assert!(matches!(sent, Err(WireError::Disabled)), "{sent:?}");
    assert!(dialled(&world.network).is_empty());
}

#[tokio::test]
async fn typed_requests_are_answered_with_typed_responses() {
    use ruma::api::federation::discovery::get_server_version::v1::Request as Version;
    use ruma::api::federation::query::get_profile_information::v1::Request as Profile;
    let world = World::new();
    world.host("a.example", &["192.0.2.1"]);
    let seen = world
        .serve(&["a.example"], "192.0.2.1:1", |seen| match seen.uri.split('?').next() {
            Some("/_matrix/federation/v1/version") => Reply::Json(200, json!({ "server": { "name": "x" } })),
            Some("/_matrix/federation/v1/query/profile") => Reply::Json(200, json!({ "displayname": "A" })),
            _ => Reply::Json(200, json!([])),
        })
        .await;
    let (wire, to) = (world.wire(), name("a.example:1"));
    let version = wire.call(&to, Version::new()).await.expect("an answer");
    assert_eq!(version.server.and_then(|server| server.name).as_deref(), Some("x"));
    assert!(
        !last(&seen).headers.contains_key("authorization"),
        "nobody asks who wants to know"
    );
    let user = ruma::owned_user_id!("@a b:a.example:1");
    wire.call(&to, Profile::new(user)).await.expect("an answer");
    assert_eq!(
        last(&seen).uri,
        "/_matrix/federation/v1/query/profile?user_id=%40a+b%3Aa.example%3A1"
    );
    assert!(last(&seen).headers.contains_key("authorization"));
}
