use serde_json::json;

use super::*;
use crate::testing::{Reply, World};

fn url(text: &str) -> Url {
    text.parse().expect("a URL")
}

#[test]
fn redirects_stay_within_https_and_are_relative_to_where_they_come_from() {
    let to = |from: &str, status: u16, location: &'static str| {
        let headers = HeaderMap::from_iter([(LOCATION, http::HeaderValue::from_static(location))]);
        let status = StatusCode::from_u16(status).expect("a status");
        redirect(&url(from), status, &headers).map(|target| target.map(String::from))
    };
    let there = |text: &str| Some(text.to_owned());
    assert_eq!(to("https://a/b/c", 302, "d?e").ok(), Some(there("https://a/b/d?e")));
    assert_eq!(to("https://a/b", 308, "//c/d").ok(), Some(there("https://c/d")));
    assert_eq!(to("http://a/b", 301, "https://a/b").ok(), Some(there("https://a/b")));
    assert_eq!(to("https://a/b", 200, "https://c/").ok(), Some(None));
    assert_eq!(to("https://a/b", 304, "https://c/").ok(), Some(None));
    assert!(to("https://a/b", 302, "http://a/b").is_err());
    assert!(to("https://a/b", 302, "file:///etc/passwd").is_err());
    assert!(to("https://a/b", 302, "https://").is_err());
}

#[test]
fn credentials_do_not_travel() {
    let mut request = OutboundRequest::get(url("https://a/"), Duration::ZERO, 0);
    request.method = Method::POST;
    request.body = Bytes::from_static(b"{}");
    request
        .headers
        .insert(AUTHORIZATION, http::HeaderValue::from_static("secret"));
    let mut same = request.clone();
    follow(&mut same, StatusCode::PERMANENT_REDIRECT, url("https://a/b"));
    assert!(same.method == Method::POST && same.headers.contains_key(AUTHORIZATION) && !same.body.is_empty());
    follow(&mut request, StatusCode::FOUND, url("https://b/"));
    assert!(request.method == Method::GET && request.headers.is_empty() && request.body.is_empty());
}

#[tokio::test]
async fn other_requests_follow_redirects_and_each_hop_is_guarded() {
    let world = World::new();
    let to = |target: &str| Reply::With(307, vec![("location", target.to_owned())], Bytes::new());
    world.host("a.example", &["192.0.2.1"]);
    world.host("cdn.example", &["192.0.2.2"]);
    world.host("inside.example", &["10.0.0.1"]);
    world
        .serve(&["a.example"], "192.0.2.1:443", move |seen| match seen.uri.as_str() {
            "/cdn" => to("https://cdn.example:444/file"),
            "/inside" => to("https://inside.example/admin"),
            "/literal" => to("https://10.0.0.1/admin"),
            _ => to("/loop"),
        })
        .await;
    let seen = world
        .serve(&["cdn.example"], "192.0.2.2:444", |_| {
            Reply::Json(200, json!({ "hello": "world" }))
        })
        .await;
    let settings = OutboundSettings {
        authorities: world.authorities(),
        ip_range_blocklist: vec!["10.0.0.0/8".parse().expect("a range")],
        ..OutboundSettings::default()
    };
    let client = Outbound::with_network(settings, world.tools(), world.network.clone());
    let get = |path: &str| {
        let url = format!("https://a.example{path}").parse().expect("a URL");
        client.send(OutboundRequest::get(url, Duration::from_secs(5), 1_000))
    };
    assert_eq!(get("/cdn").await.expect("an answer").body, r#"{"hello":"world"}"#);
    assert_eq!(
        seen.lock()
            .expect("no panic")
            .last()
            .map(|seen| seen.host.clone())
            .as_deref(),
        Some("cdn.example:444")
    );
    for path in ["/inside", "/literal"] {
        let sent = get(path).await;
        assert!(matches!(sent, Err(WireError::Blocked(_))), "{path}: {sent:?}");
    }
    let sent = get("/loop").await;
    assert!(matches!(sent, Err(WireError::Invalid(_))), "{sent:?}");
}
