use ruma::signatures::PublicKeyMap;
use serde_json::{Value, json};

use super::*;
use crate::rules::{rules_of, supported};
use crate::testing::{Origin, create, event as new_event};

fn rules(version: &str) -> Arc<RoomVersionRules> {
    rules_of(version).expect("supported")
}

fn room_name(create: &Pdu) -> Value {
    json!(create.room_id.as_str())
}

/// A room's create event and a message after it, unsigned.
fn message(version: &str, origin: &Origin) -> (Pdu, Value) {
    let rules = rules(version);
    let create = create(origin, &rules, version, "@a:one");
    let auth: &[&Pdu] = if rules.event_format.allow_room_create_in_auth_events {
        &[&create]
    } else {
        &[]
    };
    let content = json!({ "msgtype": "m.text", "body": "hi <&> \u{1f600}" });
    let mut event = new_event(&rules, "m.room.message", "@a:one", None, content, (&[&create], auth), 2);
    event["room_id"] = room_name(&create);
    (create, event)
}

fn keys(origin: &Origin) -> PublicKeyMap {
    let mut keys = PublicKeyMap::new();
    origin.publish(&mut keys);
    keys
}

#[test]
fn every_version_reads_what_it_signed() {
    let origin = Origin::new("one");
    for version in supported() {
        let rules = rules(version.as_str());
        let (create, event) = message(version.as_str(), &origin);
        let pdu = origin.pdu(&event, &rules);
        let mut sent: Value = serde_json::from_str(&pdu.json).expect("JSON");
        sent["unsigned"] = json!({ "age": 7 });
        let checked = check_incoming(&sent.to_string(), &rules, &keys(&origin)).expect("valid");
        assert!(!checked.redacted);
        assert_eq!(checked.pdu.event_id, pdu.event_id);
        assert_eq!(checked.pdu.json, pdu.json, "`unsigned` is dropped");
        assert_eq!(checked.pdu.prev_events, std::slice::from_ref(&create.event_id));
        assert_eq!(checked.pdu.depth, 2);
        assert_eq!(checked.pdu.room_id, create.room_id);
        assert!(pdu.redacts.is_none() && pdu.state_key.is_none());
        for pdu in [create, pdu] {
            let again = pdu_from_checked(&pdu.json, &rules, pdu.event_id.clone()).expect("was checked");
            assert_eq!(format!("{again:?}"), format!("{pdu:?}"));
        }
    }
}

#[test]
fn ids_have_the_shape_of_their_version() {
    let origin = Origin::new("one");
    let id = |version: &str| create(&origin, &rules(version), version, "@a:one").event_id.to_string();
    assert!(id("1").ends_with(":one"));
    // 32 bytes in base64 without padding.
    assert_eq!(id("3").len(), 44);
    let tries = |version: &str| -> String {
        let rules = rules(version);
        let texts = (0..50).map(|ts| {
            let mut event = new_event(&rules, "m.room.create", "@a:one", Some(""), json!({}), (&[], &[]), ts);
            event["room_id"] = json!("!r:one");
            origin.pdu(&event, &rules).event_id.to_string()
        });
        texts.collect()
    };
    assert!(tries("3").contains(['+', '/']) && !tries("3").contains(['-', '_']));
    assert!(tries("4").contains(['-', '_']) && !tries("4").contains(['+', '/']));
    let create = create(&origin, &rules("12"), "12", "@a:one");
    assert_eq!(create.room_id.strip_sigil(), create.event_id.localpart());
}

#[test]
fn a_changed_content_is_redacted_and_a_changed_envelope_dropped() {
    let origin = Origin::new("one");
    for version in ["1", "6", "11", "12"] {
        let rules = rules(version);
        let (_, event) = message(version, &origin);
        let pdu = origin.pdu(&event, &rules);
        let mut forged: Value = serde_json::from_str(&pdu.json).expect("JSON");
        forged["content"]["body"] = json!("bye");
        let checked = check_incoming(&forged.to_string(), &rules, &keys(&origin)).expect("the signature holds");
        assert!(checked.redacted);
        assert_eq!(
            checked.pdu.event_id, pdu.event_id,
            "the id does not depend on redacted content"
        );
        assert_eq!(checked.pdu.content.get(), "{}");
        forged["depth"] = json!(99);
        let error = check_incoming(&forged.to_string(), &rules, &keys(&origin)).expect_err("not what was signed");
        assert!(matches!(error, PduError::Signature(_)));
        let error = check_incoming(&pdu.json, &rules, &PublicKeyMap::new()).expect_err("no key");
        assert!(matches!(error, PduError::Signature(_)));
    }
}

#[test]
fn redactions_name_their_target_where_the_version_says() {
    let origin = Origin::new("one");
    let redacts = |version: &str, top: bool| {
        let rules = rules(version);
        let (_, mut event) = message(version, &origin);
        event["type"] = json!("m.room.redaction");
        event["content"] = json!({});
        let holder = if top { &mut event } else { &mut event["content"] };
        holder["redacts"] = json!("$target");
        origin.pdu(&event, &rules).redacts.map(|id| id.to_string())
    };
    assert_eq!(redacts("10", true).as_deref(), Some("$target"));
    assert_eq!(redacts("10", false), None);
    assert_eq!(redacts("11", false).as_deref(), Some("$target"));
    assert_eq!(redacts("11", true), None);
}

#[test]
fn malformed_events_are_refused() {
    let origin = Origin::new("one");
    let bad = |version: &str, change: &dyn Fn(&mut Value)| {
        let rules = rules(version);
        let (_, mut event) = message(version, &origin);
        change(&mut event);
        let object = origin.sign(&event, &rules);
        let json = serde_json::to_string(&object).expect("JSON");
        assert!(
            parse_pdu(&json, &rules, None).is_err(),
            "{}",
            &json[..json.len().min(2_000)]
        );
        assert!(check_incoming(&json, &rules, &keys(&origin)).is_err());
    };
    for version in ["1", "11", "12"] {
        bad(version, &|event| event["sender"] = json!("a"));
        bad(version, &|event| {
            event["sender"] = json!(format!("@{}:one", "a".repeat(255)))
        });
        bad(version, &|event| event["room_id"] = json!("room"));
        bad(version, &|event| event["state_key"] = Value::Null);
        bad(version, &|event| event["state_key"] = json!("k".repeat(256)));
        bad(version, &|event| event["type"] = json!("t".repeat(256)));
        bad(version, &|event| event["depth"] = json!(-1));
        bad(version, &|event| event["depth"] = json!("1"));
        bad(version, &|event| event["origin_server_ts"] = json!(-1));
        bad(version, &|event| event["origin_server_ts"] = Value::Null);
        bad(version, &|event| event["prev_events"] = json!(["no sigil"]));
        bad(version, &|event| event["prev_events"] = json!(vec!["$e"; 21]));
        bad(version, &|event| event["auth_events"] = json!({}));
        bad(version, &|event| event["content"]["body"] = json!("b".repeat(65_150)));
    }
    bad("1", &|event| event["event_id"] = json!("$no-server"));
    bad("1", &|event| event["prev_events"] = json!(["$e:one"]));
    bad("11", &|event| event["prev_events"] = json!([["$e", {}]]));
    bad("12", &|event| {
        event["auth_events"] = json!([event["room_id"].as_str().expect("text").replace('!', "$")])
    });
    for text in ["", "[]", "null", "{", "{\"a\":1.5}", "{\"depth\":9007199254740992}"] {
        assert!(parse_pdu(text, &rules("11"), None).is_err(), "{text}");
    }
}

#[test]
fn a_create_event_that_names_its_room_is_refused_where_it_must_not() {
    let origin = Origin::new("one");
    let rules = rules("12");
    let mut event = new_event(&rules, "m.room.create", "@a:one", Some(""), json!({}), (&[], &[]), 1);
    event["room_id"] = json!("!r:one");
    let json = serde_json::to_string(&origin.sign(&event, &rules)).expect("JSON");
    assert!(parse_pdu(&json, &rules, None).is_err());
}

#[test]
fn rows_come_back_as_they_were() {
    let origin = Origin::new("one");
    for version in ["1", "6", "11", "12"] {
        let rules = rules(version);
        let (_, mut event) = message(version, &origin);
        event["type"] = json!("m.room.redaction");
        event["content"]["redacts"] = json!("$target");
        event["redacts"] = json!("$target");
        let pdu = origin.pdu(&event, &rules);
        let stored = StoredEvent {
            nid: EventNid(5),
            room_nid: RoomNid(2),
            pos: Some(StreamPos(9)),
            state_group: Some(StateGroupId(3)),
            status: Status::Rejected,
            redacted_by: Some(EventId::parse("$by").expect("valid")),
            txn: Some(("DEVICE".into(), "txn".into())),
            unsigned: Some("{}".into()),
            pdu: Arc::new(pdu),
        };
        let row = stored.to_row();
        let read = from_row(&row, &stored.pdu.room_id, &rules).expect("its own row");
        assert_eq!(read.to_row(), row);
        assert_eq!(read.pdu.prev_events, stored.pdu.prev_events);
        assert_eq!(read.pdu.auth_events, stored.pdu.auth_events);
        assert_eq!(read.pdu.redacts, stored.pdu.redacts);
        assert_eq!(read.pdu.redacts.as_ref().map(|id| id.as_str()), Some("$target"));
        assert_eq!(read.pdu.content.get(), stored.pdu.content.get());
        assert_eq!(read.status, Status::Rejected);
        assert!(read.pdu.rejected);
        let broken = event::Model {
            json: "{}".to_owned(),
            ..row
        };
        assert!(from_row(&broken, &stored.pdu.room_id, &rules).is_err());
    }
}

#[test]
fn names_that_no_column_holds_are_refused() {
    let origin = Origin::new("one");
    for version in ["1", "11"] {
        let rules = rules(version);
        let (_, event) = message(version, &origin);
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut changed = event.clone();
            change(&mut changed);
            let object = origin.sign(&changed, &rules);
            check_format(&object, &rules).is_err()
        };
        assert!(refused(&|event| event["type"] = json!("m.room\u{0}message")));
        assert!(refused(&|event| event["state_key"] = json!("\u{0}")));
        assert!(refused(&|event| {
            let parent = &mut event["prev_events"][0];
            let parent = if version == "1" { &mut parent[0] } else { parent };
            *parent = json!("$a\u{0}:one");
        }));
        // In content it is escaped wherever it is stored.
        let mut fine = event.clone();
        fine["content"] = json!({
            "body": "\u{0}", "m.relates_to": { "rel_type": "a\u{0}", "event_id": "$b\u{0}" },
        });
        let pdu = origin.pdu(&fine, &rules);
        assert_eq!(crate::event::relation_of(&pdu), (None, None));
        assert!(pdu.json.contains("\\u0000"));
    }
}

#[test]
fn the_largest_event_has_65_536_bytes() {
    let origin = Origin::new("one");
    let rules = rules("11");
    let (_, mut event) = message("11", &origin);
    let size = |object: &CanonicalJsonObject| serde_json::to_string(object).expect("serializes").len();
    event["content"] = json!({ "body": "" });
    let rest = size(&origin.sign(&event, &rules));
    for (bytes, fits) in [(65_535, true), (65_536, true), (65_537, false)] {
        event["content"] = json!({ "body": "x".repeat(bytes - rest) });
        let object = origin.sign(&event, &rules);
        assert_eq!((size(&object), check_format(&object, &rules).is_ok()), (bytes, fits));
    }
}
