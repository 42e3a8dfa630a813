use ruma::{room_id, user_id};
use serde_json::{Value, json};

use super::*;
use crate::key::ServerKey;
use crate::rng::Rng;

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("serializes")
}

fn good() -> Value {
    json!({
        "type": "m.room.member", "room_id": "!r:s", "sender": "@u:x", "state_key": "@u:x",
        "content": { "membership": "join", "displayname": "not yours", "join_authorised_via_users_server": "@v:s" },
        "depth": 7, "origin": "s", "origin_server_ts": 1,
        "prev_events": ["$prev"], "auth_events": ["$create", "$rules"],
    })
}

fn profile() -> Profile {
    Profile {
        displayname: Some("U".to_owned()),
        avatar_url: None,
    }
}

fn wish<'a>(profile: &'a Profile, membership: &'static str) -> Wish<'a> {
    Wish {
        room_id: room_id!("!r:s"),
        user: user_id!("@u:x"),
        membership,
        reason: Some("why"),
        profile,
    }
}

fn read(event: &Value, version: Option<&str>) -> Result<Template, String> {
    let version = version.map(|version| RoomVersionId::try_from(version).expect("a version"));
    Template::read(&raw(event), version.as_ref(), &wish(&profile(), "join"))
}

fn origin() -> Origin {
    Origin {
        server: "x".try_into().expect("a name"),
        key: Arc::new(ServerKey::new(&[7; 32], "a")),
        rng: Rng::seeded(1),
    }
}

#[test]
fn a_template_is_believed_where_the_graph_is_concerned_and_nowhere_else() {
    let profile = profile();
    let template = read(&good(), Some("10")).expect("a good one");
    let pdu = template.event(&wish(&profile, "join"), &origin(), 5).expect("an event");
    let content: Value = pdu.content_as().expect("an object");
    let expected = json!({
        "membership": "join", "displayname": "U", "reason": "why", "join_authorised_via_users_server": "@v:s",
    });
    assert_eq!(content, expected);
    assert_eq!(pdu.origin_server_ts.get(), ruma::uint!(5));
    let prev: Vec<_> = pdu.prev_events.iter().map(|id| id.as_str()).collect();
    assert_eq!((prev, pdu.auth_events.len(), pdu.depth), (vec!["$prev"], 2, 7));
    let whole: Value = serde_json::from_str(&pdu.json).expect("JSON");
    assert!(whole["signatures"]["x"].is_object() && whole["origin"] == "x");
    assert_eq!(
        parse::event_id_of(&parse::canonical(&pdu.json).expect("canonical"), &template.rules).ok(),
        Some(pdu.event_id)
    );
}

#[test]
fn nobody_vouches_where_rooms_cannot_be_restricted() {
    let template = read(&good(), Some("7")).expect("a good one");
    let pdu = template
        .event(&wish(&profile(), "join"), &origin(), 5)
        .expect("an event");
    assert!(!pdu.content.get().contains("join_authorised_via_users_server"));
}

#[test]
fn the_first_versions_name_events_and_hashes() {
    let mut event = good();
    event["prev_events"] = json!([["$prev:s", { "sha256": "x" }]]);
    event["auth_events"] = json!([["$auth:s", { "sha256": "x" }]]);
    let template = read(&event, None).expect("version 1");
    assert_eq!(template.version, RoomVersionId::V1);
    let pdu = template
        .event(&wish(&profile(), "join"), &origin(), 5)
        .expect("an event");
    assert_eq!(pdu.event_id.server_name().map(ruma::ServerName::as_str), Some("x"));
    // The same references are no good in version 3.
    let template = read(&event, Some("3")).expect("the fields are there");
    assert!(template.event(&wish(&profile(), "join"), &origin(), 5).is_err());
}

#[test]
fn templates_of_something_else_are_refused() {
    assert!(read(&good(), Some("99")).is_err(), "nobody asked for that version");
    for (path, value) in [
        ("/type", json!("m.room.name")),
        ("/room_id", json!("!other:s")),
        ("/sender", json!("@v:x")),
        ("/state_key", json!("@v:x")),
        ("/content/membership", json!("leave")),
        ("/content/membership", json!(null)),
        ("/content/join_authorised_via_users_server", json!("nobody")),
        ("/content", json!([])),
        ("/depth", json!("7")),
        ("/depth", json!(7.5)),
        ("/prev_events", json!([])),
        ("/prev_events", json!("$prev")),
        ("/auth_events", json!({})),
    ] {
        let mut event = good();
        *event.pointer_mut(path).expect("there") = value.clone();
        assert!(read(&event, Some("10")).is_err(), "{path} = {value}");
    }
    for field in [
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "depth",
        "prev_events",
        "auth_events",
    ] {
        let mut event = good();
        event.as_object_mut().expect("an object").remove(field);
        assert!(read(&event, Some("10")).is_err(), "without {field}");
    }
}

#[test]
fn who_leaves_shows_nothing() {
    let profile = profile();
    let content = content_of(&wish(&profile, "leave"));
    assert_eq!(content.keys().collect::<Vec<_>>(), ["membership", "reason"]);
}
