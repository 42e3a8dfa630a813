//! Events that must not come into the room, or only in part.

use std::slice::from_ref;

use serde_json::{Value, json};

use super::Scene;
use crate::{
    common::{
        client::{AnswerExt, encode},
        db::Backend,
        homeserver::Homeserver,
    },
    federation::{
        remote::{
            Credentials, Remote, now,
            room::{Membership, event_id, sign},
            submit,
        },
        scenarios::{pages, sees, state, texts},
    },
};

/// Integers of canonical JSON end here.
const LARGEST: u64 = (1 << 53) - 1;

/// Whether the server has an event for its user.
async fn has(scene: &Scene, id: &str) -> bool {
    let path = format!("rooms/{}/event/{}", encode(&scene.room), encode(id));
    scene.alice.get(&path).await.0 == 200
}

/// A draft of a message that the peer could send.
fn message(at: &Membership<'_>, body: &str) -> Value {
    at.draft("m.room.message", json!({ "msgtype": "m.text", "body": body }))
}

/// The event is refused by name, or left out of the answer as one that nobody can name, and not in the room.
async fn refuses(scene: &Scene, what: &str, event: &Value) {
    let (status, answer) = scene.remote.send(&scene.server, from_ref(event), &[]).await;
    assert_eq!(status, 200, "{what}: {answer}");
    let id = event_id(event);
    let result = &answer["pdus"][&id];
    assert!(result.is_null() || result["error"].is_string(), "{what}: {answer}");
    assert!(!has(scene, &id).await, "{what} is in the room");
}

/// The event is staged and answered for, as what fails authorization only is, or refused; either way it comes into nobody's
/// room. Answers its id.
async fn keeps_out(scene: &Scene, what: &str, event: &Value) -> String {
    let (status, answer) = scene.remote.send(&scene.server, from_ref(event), &[]).await;
    assert_eq!(status, 200, "{what}: {answer}");
    event_id(event)
}

/// What came before a good event of the same peer has been judged once that one is there.
async fn kept_out(scene: &Scene, at: &mut Membership<'_>, events: &[(String, String)]) {
    scene.goes_on(at).await;
    for (what, id) in events {
        assert!(!has(scene, id).await, "{what} is in the room");
    }
}

async fn forged_events_are_refused(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let other = Remote::start(&scene.authority).await;

    // Signed by another server than the sender's.
    refuses(
        &scene,
        "another server's signature",
        &sign(&other, &message(&at, "forged")),
    )
    .await;
    // Of a user of the server itself.
    let mut draft = message(&at, "forged");
    draft["sender"] = json!(scene.alice.user_id);
    refuses(&scene, "a message of alice", &at.sign(&draft)).await;
    // Changed after it was signed; hashes that are wrong have only the content removed.
    let mut event = at.message("original");
    event["depth"] = json!(at.depth + 2);
    refuses(&scene, "a changed depth", &event).await;
    let mut event = at.message("original");
    event["signatures"][scene.remote.name()][scene.remote.key().id()] = json!("AAAA");
    refuses(&scene, "a short signature", &event).await;
    event["signatures"] = json!({});
    refuses(&scene, "no signature", &event).await;
    // By somebody who is not in the room.
    let mut draft = message(&at, "not a member");
    draft["sender"] = json!(scene.remote.user("stranger"));
    let stranger = keeps_out(&scene, "a stranger's message", &at.sign(&draft)).await;
    kept_out(&scene, &mut at, &[("a stranger's message".to_owned(), stranger)]).await;

    let mut event = at.message("original");
    event["content"]["body"] = json!("another text");
    let id = event_id(&event);
    scene.remote.send(&scene.server, from_ref(&event), &[]).await.ok();
    let seen = sees(&scene.alice, &scene.room, &id).await;
    assert_eq!(seen["content"], json!({}), "what does not fit its hash is redacted");
    at.follow(&event);
    scene.goes_on(&mut at).await;
}

async fn events_without_authority_change_nothing(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let before = state(&scene.alice, &scene.room, "m.room.power_levels", "").await.ok();
    let own = json!({ "users": { &at.user_id: 100 } });
    let member = |membership: &str| json!({ "membership": membership });
    let attempts = [
        ("m.room.power_levels", String::new(), own),
        ("m.room.join_rules", String::new(), json!({ "join_rule": "invite" })),
        ("m.room.create", String::new(), json!({ "room_version": "11" })),
        ("m.room.member", scene.alice.user_id.clone(), member("ban")),
        ("m.room.member", scene.alice.user_id.clone(), member("join")),
        ("m.room.member", scene.remote.user("friend"), member("join")),
        ("m.room.server_acl", String::new(), json!({ "allow": [] })),
        ("m.room.tombstone", String::new(), json!({ "replacement_room": "!x:y" })),
    ];
    let mut out = Vec::new();
    for (event_type, state_key, content) in attempts {
        let mut draft = at.draft(event_type, content);
        draft["state_key"] = json!(state_key);
        let what = format!("{event_type} {state_key:?}");
        let id = keeps_out(&scene, &what, &at.sign(&draft)).await;
        out.push((what, id));
    }
    kept_out(&scene, &mut at, &out).await;
    assert_eq!(
        state(&scene.alice, &scene.room, "m.room.power_levels", "").await.ok(),
        before
    );
    let own = state(&scene.alice, &scene.room, "m.room.member", &scene.alice.user_id)
        .await
        .ok();
    assert_eq!(own["membership"], "join");
    // An event may not choose what it is judged by: auth events that are not its own.
    let mut draft = message(&at, "with the wrong auth events");
    draft["auth_events"] = json!([]);
    let none = keeps_out(&scene, "no auth events", &at.sign(&draft)).await;
    let mut draft = message(&at, "with unknown auth events");
    draft["auth_events"] = json!([format!("${}", "A".repeat(43))]);
    let unknown = keeps_out(&scene, "unknown auth events", &at.sign(&draft)).await;
    let out = [
        ("no auth events".to_owned(), none),
        ("unknown auth events".to_owned(), unknown),
    ];
    kept_out(&scene, &mut at, &out).await;
}

async fn events_of_other_rooms_are_refused(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let closed = scene
        .alice
        .create_room(json!({ "preset": "private_chat", "room_version": "11" }))
        .await;
    let mut draft = message(&at, "into a room that I am not in");
    draft["room_id"] = json!(closed);
    let id = keeps_out(&scene, "a closed room", &at.sign(&draft)).await;
    for room in ["!nowhere:elsewhere.test", "!nowhere:127.0.0.1", "no room id"] {
        let mut draft = message(&at, "into a room that I am not in");
        draft["room_id"] = json!(room);
        refuses(&scene, room, &at.sign(&draft)).await;
    }
    // Alice's server has judged it once she says something there that comes after it.
    let last = scene.alice.send_text(&closed, "closed").await;
    sees(&scene.alice, &closed, &last).await;
    scene.goes_on(&mut at).await;
    assert_eq!(texts(&scene.alice, &closed).await, ["closed"]);
    let path = format!("rooms/{}/event/{}", encode(&closed), encode(&id));
    scene.alice.get(&path).await.refused(404, "M_NOT_FOUND");
    // The peer may not read there either.
    let (room, remote) = (encode(&closed), &scene.remote);
    let events = pages(&scene.alice, &closed).await;
    let id = encode(events[0]["event_id"].as_str().expect("events have ids"));
    for path in [
        format!("state/{room}?event_id={id}"),
        format!("state_ids/{room}?event_id={id}"),
        format!("event/{id}"),
        format!("backfill/{room}?v={id}&limit=10"),
        format!("event_auth/{room}/{id}"),
    ] {
        let (status, answer) = remote
            .get(&scene.server, &format!("/_matrix/federation/v1/{path}"))
            .await;
        assert!([403, 404].contains(&status), "{path}: {status} {answer}");
    }
    scene.goes_on(&mut at).await;
}

async fn oversized_events_are_refused(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    // The limit is on the whole event, as canonical JSON.
    let sized = |at: &Membership<'_>, size: usize| {
        let rest = at.message("").to_string().len();
        let event = at.message(&"x".repeat(size - rest));
        assert_eq!(event.to_string().len(), size);
        event
    };
    let largest = sized(&at, 65_536);
    let answer = scene.remote.send(&scene.server, from_ref(&largest), &[]).await.ok();
    assert_eq!(answer["pdus"][&event_id(&largest)], json!({}), "{answer}");
    at.follow(&largest);
    refuses(&scene, "65,537 bytes", &sized(&at, 65_537)).await;
    // The size comes before the hash.
    let mut enormous = at.message("small");
    enormous["content"]["body"] = json!("x".repeat(300_000));
    refuses(&scene, "300,000 bytes", &enormous).await;
    for key in ["type", "sender", "room_id", "state_key"] {
        let mut draft = message(&at, "long");
        draft[key] = match key {
            "sender" => json!(scene.remote.user(&"x".repeat(300))),
            "room_id" => json!(format!("!{}:{}", "x".repeat(300), scene.server.name())),
            _ => json!("x".repeat(256)),
        };
        refuses(&scene, key, &at.sign(&draft)).await;
    }
    scene.goes_on(&mut at).await;
}

async fn too_many_parents_are_refused(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let ids = |count: usize| (0..count).map(|number| format!("${number:0>43}")).collect::<Vec<_>>();
    for (key, count) in [
        ("prev_events", 1_000),
        ("prev_events", 21),
        ("auth_events", 11),
        ("auth_events", 500),
    ] {
        let mut draft = message(&at, "a very distant relative");
        let list = draft[key].as_array_mut().expect("both are lists");
        list.extend(ids(count).into_iter().map(Value::from));
        refuses(&scene, key, &at.sign(&draft)).await;
    }
    let mut draft = message(&at, "an orphan");
    draft["prev_events"] = json!([]);
    let id = keeps_out(&scene, "no parents", &at.sign(&draft)).await;
    kept_out(&scene, &mut at, &[("no parents".to_owned(), id)]).await;
}

async fn numbers_beyond_canonical_json_are_refused(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let path = "/_matrix/federation/v1/send/numbers";
    for (at_number, number) in ["1.5", "1e3", "9007199254740992", "-9007199254740992", "1E400", "-0.0"]
        .iter()
        .enumerate()
    {
        let mut event = at.message("numbers");
        event["content"]["org.example.n"] = json!("NUMBER");
        let body = scene
            .remote
            .transaction(&[event], &[])
            .to_string()
            .replace("\"NUMBER\"", number);
        let path = format!("{path}{at_number}");
        let header = Credentials::of(&scene.remote, &scene.server).header("PUT", &path, Some(&json!({})));
        let (status, answer) = submit(scene.server.client(), "PUT", &path, &header, Some(body)).await;
        assert!([400, 401].contains(&status), "{number}: {status} {answer}");
    }
    assert_eq!(texts(&scene.alice, &scene.room).await, Vec::<String>::new());
    scene.goes_on(&mut at).await;
}

async fn lies_about_time_change_no_order(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    for (key, value) in [
        // As late as the peer's keys are good for.
        ("origin_server_ts", json!(now() + 50 * 60_000)),
        ("origin_server_ts", json!(0)),
        ("depth", json!(LARGEST)),
    ] {
        let mut draft = message(&at, key);
        draft[key] = value;
        let event = at.sign(&draft);
        let answer = scene.remote.send(&scene.server, from_ref(&event), &[]).await.ok();
        let id = event_id(&event);
        assert_eq!(answer["pdus"][&id], json!({}), "{answer}");
        sees(&scene.alice, &scene.room, &id).await;
        // The room goes on for its own users, in the order of arrival.
        let next = scene.alice.send_text(&scene.room, &format!("after {key}")).await;
        sees(&scene.alice, &scene.room, &next).await;
        let texts = texts(&scene.alice, &scene.room).await;
        assert_eq!(
            texts[texts.len() - 2..],
            [key.to_owned(), format!("after {key}")],
            "{texts:?}"
        );
        at.latest = vec![next];
        at.depth = LARGEST - 1;
    }
    // No key is good for ever.
    let mut draft = message(&at, "the end of time");
    draft["origin_server_ts"] = json!(LARGEST);
    refuses(&scene, "the end of time", &at.sign(&draft)).await;
    let mut draft = message(&at, "a negative depth");
    draft["depth"] = json!(-1);
    refuses(&scene, "a negative depth", &at.sign(&draft)).await;
    let mut draft = message(&at, "a negative time");
    draft["origin_server_ts"] = json!(-1);
    refuses(&scene, "a negative time", &at.sign(&draft)).await;
    scene.alive().await;
}

crate::federation::both_backends! {
    forged_events_are_refused
    events_without_authority_change_nothing
    events_of_other_rooms_are_refused
    oversized_events_are_refused
    too_many_parents_are_refused
    numbers_beyond_canonical_json_are_refused
    lies_about_time_change_no_order
}
