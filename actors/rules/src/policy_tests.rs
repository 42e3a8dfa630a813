use ruma::server_name;
use ruma::signatures::Ed25519KeyPair;
use serde_json::{Value, json};

use super::*;
use crate::rules::rules_of;
use crate::testing::{Origin, event};

fn policy_key() -> Ed25519KeyPair {
    let mut der = vec![
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    der.extend(1..=32u8);
    Ed25519KeyPair::from_der(&der, KEY_VERSION.to_owned()).expect("a key")
}

#[test]
fn a_recommended_event_bears_the_policy_servers_signature() {
    let rules = rules_of("11").expect("supported");
    let author = Origin::new("p.example");
    let key = policy_key();
    let via = server_name!("p.example").to_owned();
    let policy = Policy {
        via: via.clone(),
        key: Base64::new(key.public_key().to_vec()),
    };
    let mut draft = event(
        &rules,
        "m.room.message",
        "@a:p.example",
        None,
        json!({ "body": "b" }),
        (&[], &[]),
        1,
    );
    draft["room_id"] = json!("!r:p.example");
    // The policy server may be the author's server: the two signatures stand side by side.
    let signed = author.sign(&draft, &rules);
    assert!(!policy.recommends(&signed, &rules));
    let signature = sign(&signed, &rules, &via, &key).expect("an event");
    let agreed = countersigned(signed.clone(), &rules, &via, signature.clone()).expect("small");
    assert!(policy.recommends(&agreed, &rules));
    let mut keys = PublicKeyMap::new();
    author.publish(&mut keys);
    let text = serde_json::to_string(&agreed).expect("serializes");
    let checked = parse::check_incoming(&text, &rules, &keys).expect("the author's signature still holds");
    let plain = parse::pdu_from_object(&signed, &rules, None).expect("an event");
    assert_eq!(checked.pdu.event_id, plain.event_id, "it is the same event");

    let mut other = agreed.clone();
    other.insert("depth".to_owned(), CanonicalJsonValue::Integer(7.into()));
    assert!(!policy.recommends(&other, &rules), "another event");
    let stranger = Policy {
        key: Base64::new(vec![7; 32]),
        ..policy.clone()
    };
    assert!(!stranger.recommends(&agreed, &rules), "another key");
    let elsewhere = Policy {
        via: server_name!("q.example").to_owned(),
        ..policy
    };
    assert!(!elsewhere.recommends(&agreed, &rules), "another server");
}

#[test]
fn what_names_a_policy_server_is_read_strictly() {
    let rules = rules_of("11").expect("supported");
    let named = |content: Value| {
        let mut draft = event(&rules, "m.room.policy", "@a:x", Some(""), content, (&[], &[]), 1);
        draft["room_id"] = json!("!r:x");
        Policy::named(&Origin::new("x").pdu(&draft, &rules)).map(|policy| policy.via.to_string())
    };
    let keys = json!({ "ed25519": "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s" });
    assert_eq!(
        named(json!({ "via": "p.example", "public_keys": keys })).as_deref(),
        Some("p.example")
    );
    for content in [
        json!({}),
        json!({ "via": "p.example" }),
        json!({ "via": 1, "public_keys": keys }),
        json!({ "via": "not a name", "public_keys": keys }),
        json!({ "via": "p.example", "public_keys": { "ed25519": 1 } }),
        json!({ "via": "p.example", "public_keys": { "x": "y" } }),
    ] {
        assert_eq!(named(content.clone()), None, "{content}");
    }
}

#[test]
fn only_the_naming_event_is_exempt() {
    let policy = TimelineEventType::from("m.room.policy");
    assert!(is_exempt(&policy, Some("")));
    assert!(!is_exempt(&policy, Some("x")));
    assert!(!is_exempt(&policy, None));
    assert!(!is_exempt(&TimelineEventType::from("m.room.message"), Some("")));
}
