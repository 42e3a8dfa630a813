use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::rules::rules_of;
use crate::testing::{Origin, create, event};

fn pdu(
    origin: &Origin,
    rules: &RoomVersionRules,
    kind: &str,
    sender: &str,
    content: Value,
    extra: Value,
    ts: i64,
) -> Pdu {
    let mut json = event(rules, kind, sender, None, content, (&[], &[]), ts);
    json["room_id"] = json!("!room:one");
    if let (Some(json), Value::Object(extra)) = (json.as_object_mut(), extra) {
        json.extend(extra);
    }
    origin.pdu(&json, rules)
}

#[test]
fn pruning_keeps_the_id_and_what_the_room_rests_on() {
    let origin = Origin::new("one");
    for version in crate::rules::supported() {
        let rules = rules_of(version.as_str()).expect("supported");
        let message = pdu(
            &origin,
            &rules,
            "m.room.message",
            "@a:one",
            json!({ "body": "x" }),
            json!({}),
            1,
        );
        let pruned = prune_pdu(&message, &rules).expect("a PDU");
        assert_eq!(pruned.content.get(), "{}");
        assert_eq!(&*pruned.json, prune(&message.json, &rules).expect("a PDU"));
        let object = canonical(&pruned.json).expect("canonical");
        assert_eq!(
            crate::parse::event_id_of(&object, &rules).expect("hashable"),
            message.event_id
        );
        let create = create(&origin, &rules, version.as_str(), "@a:one");
        let pruned = prune_pdu(&create, &rules).expect("a PDU");
        assert_eq!(pruned.room_id, create.room_id);
        let keeps = rules.redaction.keep_room_create_content;
        assert_eq!(pruned.content.get().contains("room_version"), keeps);
    }
}

#[test]
fn who_may_redact_whom() {
    let (one, two) = (Origin::new("one"), Origin::new("two"));
    for version in ["1", "2", "3", "10", "11", "12"] {
        let rules = rules_of(version).expect("supported");
        let created = Arc::new(create(&one, &rules, version, "@a:one"));
        let power = Power::of(&rules, |kind, _| (kind == "m.room.create").then(|| created.clone())).expect("created");
        let target = pdu(
            &one,
            &rules,
            "m.room.message",
            "@b:one",
            json!({ "body": "x" }),
            json!({}),
            1,
        );
        let redaction = |origin: &Origin, sender: &str, target: &Pdu| {
            let id = json!({ "redacts": target.event_id.as_str() });
            let (content, top) = if rules.redaction.content_field_redacts {
                (id, json!({}))
            } else {
                (json!({}), id)
            };
            pdu(origin, &rules, "m.room.redaction", sender, content, top, 2)
        };
        let allowed = |redaction: &Pdu, target: &Pdu| redaction_allowed(redaction, target, &rules, &power);
        assert!(allowed(&redaction(&one, "@a:one", &target), &target), "the creator");
        assert!(allowed(&redaction(&one, "@b:one", &target), &target), "the sender");
        assert!(
            !allowed(&redaction(&two, "@b:two", &target), &target),
            "a user of another server"
        );
        let foreign = pdu(
            &two,
            &rules,
            "m.room.message",
            "@b:two",
            json!({ "body": "x" }),
            json!({}),
            1,
        );
        assert!(
            allowed(&redaction(&one, "@a:one", &foreign), &foreign),
            "the creator, an event from elsewhere"
        );
        assert!(!allowed(&redaction(&one, "@b:one", &foreign), &foreign));
        assert!(!allowed(&redaction(&one, "@a:one", &target), &foreign), "another event");
        assert!(
            !allowed(&redaction(&one, "@a:one", &created), &created),
            "the create event"
        );
    }
}
