use base::key::ServerKey;
use ruma::serde::Base64 as AnyBase64;
use ruma::server_name;
use serde_json::{Value, json};

use super::*;

const NOW: Millis = 1_700_000_000_000;
const DAY: Millis = 24 * 60 * 60 * 1_000;

fn public(seed: u8) -> String {
    AnyBase64::<Standard>::new(ServerKey::new(&[seed; 32], "x").public_key().to_vec()).encode()
}

fn signed(value: Value, seed: u8, version: &str) -> CanonicalJsonObject {
    let Ok(CanonicalJsonValue::Object(mut object)) = value.try_into() else {
        panic!("a document is canonical JSON");
    };
    let key = ServerKey::new(&[seed; 32], version);
    ruma::signatures::sign_json("a.example", &key, &mut object).expect("it can be signed");
    object
}

fn plain() -> Value {
    json!({
        "server_name": "a.example",
        "valid_until_ts": NOW + DAY,
        "verify_keys": { "ed25519:1": { "key": public(1) } },
        "old_verify_keys": { "ed25519:0": { "key": public(7), "expired_ts": NOW - DAY } },
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut document = plain();
    document[field] = value;
    document
}

fn fault(json: CanonicalJsonObject) -> String {
    read(json, NOW).err().unwrap_or_default()
}

#[test]
fn keys_are_good_until_the_document_says() {
    let document = read(signed(plain(), 1, "1"), NOW).expect("a good document");
    assert_eq!(
        (document.server.as_str(), document.valid_until),
        ("a.example", NOW + DAY)
    );
    let (current, old) = (&document.keys["ed25519:1"], &document.keys["ed25519:0"]);
    assert!(current.is_valid_at(Some(NOW + DAY)) && !current.is_valid_at(Some(NOW + DAY + 1)));
    assert!(old.expired && old.is_valid_at(Some(NOW - DAY)) && !old.is_valid_at(Some(NOW - DAY + 1)));
    assert!(old.is_valid_at(None), "some room versions do not ask");
}

#[test]
fn nobody_is_believed_for_more_than_a_week() {
    let document = with("valid_until_ts", json!(NOW + 365 * DAY));
    let document = read(signed(document, 1, "1"), NOW).expect("a good document");
    assert_eq!(document.keys["ed25519:1"].until, NOW + 7 * DAY);
    let old = json!({ "ed25519:0": { "key": public(7), "expired_ts": NOW + 365 * DAY } });
    let document = read(signed(with("old_verify_keys", old), 1, "1"), NOW).expect("a good document");
    assert_eq!(document.keys["ed25519:0"].until, NOW, "an old key has no future");
}

#[test]
fn what_is_not_understood_is_left_out() {
    let keys = json!({
        "ed25519:1": { "key": public(1) },
        "ed25519:2": { "key": "short" },
        "ed25519:": { "key": public(1) },
        "rsa:1": { "key": public(1) },
        "ed25519:3": public(1),
    });
    let document = read(signed(with("verify_keys", keys), 1, "1"), NOW).expect("a good document");
    assert_eq!(document.keys.keys().collect::<Vec<_>>(), ["ed25519:0", "ed25519:1"]);
    let document = with("old_verify_keys", json!({ "ed25519:0": { "key": public(7) } }));
    let document = read(signed(document, 1, "1"), NOW).expect("a good document");
    assert!(!document.keys.contains_key("ed25519:0"), "nobody knows when it ended");
}

#[test]
fn documents_that_do_not_sign_themselves_are_refused() {
    let unsigned = "it is not signed with one of its own keys";
    assert_eq!(fault(signed(plain(), 2, "1")), unsigned, "another key by the same name");
    assert_eq!(fault(signed(plain(), 7, "0")), unsigned, "an old key");
    let mut changed = signed(plain(), 1, "1");
    changed.insert("valid_until_ts".to_owned(), CanonicalJsonValue::Integer(1.into()));
    assert_eq!(fault(changed), unsigned);
    assert_eq!(
        fault(signed(with("server_name", json!("b.example")), 1, "1")),
        unsigned,
        "as somebody else"
    );
    assert_eq!(fault(signed(with("verify_keys", json!({})), 1, "1")), unsigned);
}

#[test]
fn malformed_and_crowded_documents_are_refused() {
    for field in ["server_name", "valid_until_ts"] {
        assert!(fault(signed(with(field, Value::Null), 1, "1")).contains(field));
    }
    assert!(!fault(signed(with("server_name", json!("a b")), 1, "1")).is_empty());
    for (field, many) in [("verify_keys", 33), ("old_verify_keys", 129)] {
        let keys = (0..many).map(|n| (format!("ed25519:{n}"), json!({ "key": public(1), "expired_ts": 1 })));
        let document = with(field, Value::Object(keys.collect()));
        assert!(fault(signed(document, 1, "1")).contains("more than"), "{field}");
    }
}

#[test]
fn a_notary_brings_no_key_back_and_takes_none_away() {
    let known = |seed, until, expired| Known {
        public_key: [seed; 32],
        until,
        expired,
    };
    for (old, told, notary_wins) in [
        (known(1, 10, false), known(1, 20, false), true),
        (known(1, 20, false), known(1, 10, false), false),
        (known(1, 20, false), known(2, 30, false), false),
        (known(1, 20, false), known(1, 10, true), true),
        (known(1, 10, true), known(1, 20, false), false),
        (known(1, 10, true), known(1, 20, true), false),
    ] {
        let expected = if notary_wins { &told } else { &old };
        assert_eq!(old.or_newer(&told, false), *expected, "{old:?} {told:?}");
        assert_eq!(old.or_newer(&told, true), told, "the server itself is always right");
    }
}

#[test]
fn the_signing_keys_of_an_object_are_named() {
    let object = signed(plain(), 1, "1");
    assert_eq!(
        signing_keys(&object, server_name!("a.example")).collect::<Vec<_>>(),
        ["ed25519:1"]
    );
    assert_eq!(signing_keys(&object, server_name!("b.example")).count(), 0);
}
