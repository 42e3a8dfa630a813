use http::{HeaderName, HeaderValue};
use ruma::server_name;

use super::*;

fn name(text: &str) -> OwnedServerName {
    text.try_into().expect("a server name")
}

#[test]
fn only_bare_host_names_have_a_well_known() {
    for (server, asks) in [
        ("example.org", true),
        ("localhost", true),
        ("example.org:8448", false),
        ("192.0.2.1", false),
        ("192.0.2.1:80", false),
        ("[2001:db8::1]", false),
        ("[2001:db8::1]:80", false),
    ] {
        assert_eq!(asks_well_known(&name(server)), asks, "{server}");
    }
}

#[test]
fn authorities_are_dialled_as_the_specification_says() {
    let at = |text: &str| Some(Dial::Address(text.parse().expect("an address")));
    for (authority, expected) in [
        ("192.0.2.1", at("192.0.2.1:8448")),
        ("192.0.2.1:80", at("192.0.2.1:80")),
        ("[2001:db8::1]", at("[2001:db8::1]:8448")),
        ("[2001:db8::1]:80", at("[2001:db8::1]:80")),
        ("example.org:443", Some(Dial::Host("example.org", 443))),
        ("example.org", Some(Dial::Service("example.org"))),
        // No IPv4 addresses by the grammar, whatever a C library makes of them.
        ("127.1", Some(Dial::Service("127.1"))),
        ("2130706433:80", Some(Dial::Host("2130706433", 80))),
        ("example.org:0", None),
        ("example.org:+80", None),
    ] {
        assert_eq!(dial(&name(authority)), expected, "{authority}");
    }
}

fn service(target: &str, priority: u16, weight: u16) -> Service {
    Service {
        target: target.to_owned(),
        port: 1,
        priority,
        weight,
    }
}

#[test]
fn services_are_tried_by_priority_and_weight() {
    let services = || {
        vec![
            service("backup", 20, 0),
            service("heavy", 10, 90),
            service("light", 10, 10),
            service("never", 10, 0),
        ]
    };
    let order = |below: &mut dyn FnMut(u64) -> u64| -> Vec<String> {
        ordered(services(), below)
            .into_iter()
            .map(|service| service.target)
            .collect()
    };
    assert_eq!(order(&mut |_| 0), ["never", "light", "heavy", "backup"]);
    assert_eq!(order(&mut |n| n - 1), ["heavy", "light", "never", "backup"]);
    let mut bounds = Vec::new();
    order(&mut |n| {
        bounds.push(n);
        11.min(n - 1)
    });
    assert_eq!(bounds, [101, 11, 1, 1], "weights are summed among those that are left");
    assert!(ordered(Vec::new(), |_| 0).is_empty());
}

#[test]
fn delegations_are_read() {
    for (body, expected) in [
        (
            r#"{"m.server":"matrix.example.org:443"}"#,
            Some("matrix.example.org:443"),
        ),
        (r#"{"m.server":"192.0.2.1","other":1}"#, Some("192.0.2.1")),
        (r#"{"m.server":""}"#, None),
        (r#"{"m.server":"https://example.org"}"#, None),
        (r#"{"m.server":"example.org/path"}"#, None),
        (r#"{"m.server":"example.org:+443"}"#, None),
        (r#"{"m.server":1}"#, None),
        (r#"{"m.homeserver":{}}"#, None),
        ("<html>", None),
        ("", None),
    ] {
        assert_eq!(
            delegate(body.as_bytes()).as_deref().map(ServerName::as_str),
            expected,
            "{body}"
        );
    }
}

/// Sun, 06 Nov 1994 08:49:37 GMT
const NOW: Millis = 784_111_777_000;

#[test]
fn cache_headers_bound_the_lifetime() {
    let minutes = |n: Millis| n * 60 * 1_000;
    for (headers, expected) in [
        (&[][..], DEFAULT_LIFETIME),
        (&[("cache-control", "max-age=7200")], minutes(120)),
        (&[("cache-control", "public, Max-Age=\"7200\"")], minutes(120)),
        (&[("cache-control", "max-age=7200"), ("age", "3600")], minutes(60)),
        (
            &[
                ("cache-control", "max-age=7200"),
                ("expires", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ],
            minutes(120),
        ),
        (&[("cache-control", "max-age=99999999999999")], MAX_LIFETIME),
        (&[("cache-control", "max-age=1000000")], MAX_LIFETIME),
        (&[("cache-control", "max-age=1")], MIN_LIFETIME),
        (&[("cache-control", "max-age=60"), ("age", "7200")], MIN_LIFETIME),
        (&[("cache-control", "no-store")], MIN_LIFETIME),
        (&[("cache-control", "no-cache, max-age=7200")], MIN_LIFETIME),
        (&[("cache-control", "private")], DEFAULT_LIFETIME),
        (&[("expires", "Sun, 06 Nov 1994 10:49:37 GMT")], minutes(120)),
        (
            &[
                ("expires", "Sun, 06 Nov 1994 10:49:37 GMT"),
                ("date", "Sun, 06 Nov 1994 09:49:37 GMT"),
            ],
            minutes(60),
        ),
        (&[("expires", "0")], MIN_LIFETIME),
        (&[("expires", "Sun, 06 Nov 1993 08:49:37 GMT")], MIN_LIFETIME),
    ] {
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        assert_eq!(lifetime(&map, NOW), expected, "{headers:?}");
    }
}

#[test]
fn failures_are_asked_again_less_and_less_often() {
    let mut known = Known::default();
    let mut now = 1_000;
    let mut waits = Vec::new();
    for _ in 0..9 {
        known = known.after(Found::Failed, now);
        waits.push((known.until - now) / 60_000);
        now = known.until;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(known.delegate, None);
    let known = known.after(Found::None, now);
    assert_eq!(known.until, now + ERROR_LIFETIME);
}

#[test]
fn a_delegation_outlives_failures_for_two_days_but_no_denial() {
    let told = Known::default().after(Found::Delegate(server_name!("a.example").to_owned(), MIN_LIFETIME), 0);
    assert_eq!(told.until, MIN_LIFETIME);
    let later = told.after(Found::Failed, MAX_LIFETIME - 1);
    assert_eq!(later.delegate.as_deref(), Some(server_name!("a.example")));
    let too_late = later.after(Found::Failed, MAX_LIFETIME);
    assert_eq!(too_late.delegate, None, "counted from when it was told");
    assert_eq!(told.after(Found::None, MIN_LIFETIME).delegate, None);
}
