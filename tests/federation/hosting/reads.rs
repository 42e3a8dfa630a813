//! Events, states, auth chains, history.

use serde_json::{Value, json};

use super::Stage;
use crate::{
    common::{
        client::{AnswerExt, encode},
        db::Backend,
        homeserver::Homeserver,
    },
    federation::remote::{
        Remote,
        room::{Membership, event_id},
    },
};

/// Every question about a room that only its servers may ask, as a method, a path and a body.
fn questions(room: &str, event: &str) -> Vec<(&'static str, String, Option<Value>)> {
    let get = |path: String| ("GET", path, None);
    let gap = json!({ "earliest_events": [], "latest_events": [event], "limit": 5 });
    let (room, event) = (encode(room), encode(event));
    vec![
        get(format!("v1/event/{event}")),
        get(format!("v1/state/{room}?event_id={event}")),
        get(format!("v1/state_ids/{room}?event_id={event}")),
        get(format!("v1/event_auth/{room}/{event}")),
        get(format!("v1/get_event_auth/{room}/{event}")),
        get(format!("v1/backfill/{room}?v={event}&limit=5")),
        ("POST", format!("v1/get_missing_events/{room}"), Some(gap)),
        get(format!("v1/timestamp_to_event/{room}?ts=0&dir=f")),
        get(format!("unstable/org.matrix.msc4370/extremities/{room}")),
    ]
}

async fn ask(stage: &Stage, by: &Remote, event: &str) -> Vec<(String, (u16, Value))> {
    let mut answers = Vec::new();
    for (method, path, body) in questions(&stage.room, event) {
        let full = format!("/_matrix/federation/{path}");
        answers.push((path, by.request(&stage.server, method, &full, body.as_ref()).await));
    }
    answers
}

async fn answers_are_for_servers_in_the_room(backend: Backend) {
    let stage = Stage::set(backend).await;
    Membership::join(&stage.remote, &stage.server, &stage.room, "yves").await;
    let event = stage.alice.send_text(&stage.room, "hello").await;
    for (path, (status, answer)) in ask(&stage, &stage.remote, &event).await {
        assert_eq!(status, 200, "{path}: {answer}");
    }
    for (path, answer) in ask(&stage, &stage.stranger, &event).await {
        assert_eq!((answer.0, &answer.1["errcode"]), (403, &json!("M_FORBIDDEN")), "{path}");
    }
    // Without a signature nobody is answered.
    for (method, path, body) in questions(&stage.room, &event) {
        let path = format!("/_matrix/federation/{path}");
        let answer = stage
            .server
            .server
            .client
            .request(method, &path, None, body.as_ref())
            .await;
        assert_eq!(answer.0, 401, "{path}: {}", answer.1);
    }
    stage.shut_out().await;
    for (path, answer) in ask(&stage, &stage.remote, &event).await {
        assert_eq!((answer.0, &answer.1["errcode"]), (403, &json!("M_FORBIDDEN")), "{path}");
    }
}

async fn events_and_states(backend: Backend) {
    let stage = Stage::set(backend).await;
    let at = Membership::join(&stage.remote, &stage.server, &stage.room, "yves").await;
    let remote = &stage.remote;
    let name = stage.set_state("m.room.name", json!({ "name": "Cats" })).await;
    let event = stage.alice.send_text(&stage.room, "hello").await;
    let (room, id) = (stage.room(), encode(&event));

    let one = stage.get(remote, &format!("v1/event/{id}")).await.ok();
    assert_eq!(
        (&one["origin"], one["pdus"].as_array().map(Vec::len)),
        (&json!(stage.server.name()), Some(1))
    );
    assert_eq!(event_id(&one["pdus"][0]), event);
    assert!(one["pdus"][0].get("unsigned").is_none() && one["origin_server_ts"].is_u64());

    let state = stage.get(remote, &format!("v1/state/{room}?event_id={id}")).await.ok();
    let ids = stage
        .get(remote, &format!("v1/state_ids/{room}?event_id={id}"))
        .await
        .ok();
    for (whole, named) in [("pdus", "pdu_ids"), ("auth_chain", "auth_chain_ids")] {
        let whole = sorted(state[whole].as_array().expect("a list").iter().map(event_id));
        let text = |id: &Value| id.as_str().expect("text").to_owned();
        assert_eq!(whole, sorted(ids[named].as_array().expect("a list").iter().map(text)));
    }
    let pdus = ids["pdu_ids"].as_array().expect("a list");
    assert!(pdus.contains(&json!(name)) && pdus.contains(&json!(at.latest[0])));
    let before = stage
        .get(remote, &format!("v1/state_ids/{room}?event_id={}", encode(&name)))
        .await
        .ok();
    assert!(
        !before["pdu_ids"].as_array().expect("a list").contains(&json!(name)),
        "the state before it"
    );

    let auth = stage.get(remote, &format!("v1/event_auth/{room}/{id}")).await.ok();
    let kinds = auth["auth_chain"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|pdu| pdu["type"].clone());
    assert!(kinds.collect::<Vec<_>>().contains(&json!("m.room.create")));

    let unknown = encode("$unknown");
    for path in [
        format!("v1/event/{unknown}"),
        format!("v1/state/{room}?event_id={unknown}"),
        format!("v1/state_ids/{room}?event_id={unknown}"),
        format!("v1/event_auth/{room}/{unknown}"),
        format!("v1/state/{}?event_id={id}", encode("!nowhere:x")),
    ] {
        stage.get(remote, &path).await.refused(404, "M_NOT_FOUND");
    }
    stage
        .get(remote, &format!("v1/state/{room}"))
        .await
        .refused(400, "M_MISSING_PARAM");
    stage
        .get(remote, "v1/event/rubbish")
        .await
        .refused(400, "M_INVALID_PARAM");
}

fn sorted(ids: impl Iterator<Item = String>) -> Vec<String> {
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    ids
}

async fn history(backend: Backend) {
    let stage = Stage::set(backend).await;
    let at = Membership::join(&stage.remote, &stage.server, &stage.room, "yves").await;
    let remote = &stage.remote;
    let mut sent = Vec::new();
    for n in 0..8 {
        sent.push(stage.alice.send_text(&stage.room, &n.to_string()).await);
    }
    let room = stage.room();
    let path = format!("v1/backfill/{room}?v={}&limit=3", encode(&sent[7]));
    let answer = stage.get(remote, &path).await.ok();
    let ids: Vec<String> = answer["pdus"]
        .as_array()
        .expect("a list")
        .iter()
        .map(event_id)
        .collect();
    assert_eq!(ids, [&sent[7], &sent[6], &sent[5]].map(Clone::clone));

    let gap = json!({ "earliest_events": at.latest, "latest_events": [sent[7]], "limit": 100 });
    let answer = stage
        .post(remote, &format!("v1/get_missing_events/{room}"), &gap)
        .await
        .ok();
    let ids: Vec<String> = answer["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(event_id)
        .collect();
    assert_eq!(ids, sent[..7]);
    let gap = json!({ "latest_events": [sent[7]] });
    let answer = stage.post(remote, &format!("v1/get_missing_events/{room}"), &gap).await;
    answer.refused(400, "M_MISSING_PARAM");

    let found = stage
        .get(remote, &format!("v1/timestamp_to_event/{room}?ts=0&dir=f"))
        .await
        .ok();
    assert!(found["event_id"].is_string() && found["origin_server_ts"].is_u64());
    let path = format!("v1/timestamp_to_event/{room}?ts=0&dir=b");
    stage.get(remote, &path).await.refused(404, "M_NOT_FOUND");
    let told = stage
        .get(remote, &format!("unstable/org.matrix.msc4370/extremities/{room}"))
        .await
        .ok();
    assert_eq!(told, json!({ "prev_events": [sent[7]] }));
}

async fn what_is_hidden_is_redacted(backend: Backend) {
    let stage = Stage::set(backend).await;
    let change = json!({ "history_visibility": "joined" });
    stage.set_state("m.room.history_visibility", change).await;
    let hidden = stage.alice.send_text(&stage.room, "hidden").await;
    let at = Membership::join(&stage.remote, &stage.server, &stage.room, "yves").await;
    let seen = stage.alice.send_text(&stage.room, "seen").await;
    let path = format!("v1/backfill/{}?v={}&limit=10", stage.room(), encode(&seen));
    let answer = stage.get(&stage.remote, &path).await.ok();
    let pdus = answer["pdus"].as_array().expect("a list");
    let find = |id: &str| pdus.iter().find(|pdu| event_id(pdu) == id).expect("there are no holes");
    assert_eq!(find(&seen)["content"]["body"], "seen");
    assert_eq!(find(&at.latest[0])["content"]["membership"], "join");
    assert_eq!(find(&hidden)["content"], json!({}));
}

async fn what_the_reference_has_besides(backend: Backend) {
    let stage = Stage::set(backend).await;
    let (remote, stranger, room) = (&stage.remote, &stage.stranger, stage.room());
    let event = stage.alice.send_text(&stage.room, "hello").await;
    let paths = [
        format!("v1/members/{room}"),
        format!("v1/members/{room}/joined"),
        format!("v1/room_auth/{room}"),
        format!("v1/get_joining_rules/{room}"),
        format!("v1/room/{room}/{}", encode(&event)),
        format!("v1/query/directory/room/{room}"),
    ];
    for path in &paths {
        stage.get(stranger, path).await.refused(404, "M_NOT_FOUND");
    }
    let complexity = stage
        .get(stranger, &format!("unstable/rooms/{room}/complexity"))
        .await
        .ok();
    assert!(complexity["v1"].is_f64());
    let path = format!("unstable/rooms/{}/complexity", encode("!nowhere:x"));
    stage.get(stranger, &path).await.refused(404, "M_NOT_FOUND");

    let at = Membership::join(remote, &stage.server, &stage.room, "yves").await;
    let members = stage.get(remote, &paths[0]).await.ok();
    assert_eq!(members["total"], 2);
    assert!(
        members["joined"]
            .as_array()
            .expect("a list")
            .contains(&json!(at.user_id))
    );
    let profiles = stage.get(remote, &paths[1]).await.ok();
    assert_eq!(profiles["joined"].as_array().map(Vec::len), Some(2));
    let auth = stage.get(remote, &paths[2]).await.ok();
    assert!(auth["auth_chain"].as_array().is_some_and(|chain| !chain.is_empty()));
    let rules = stage.get(remote, &paths[3]).await.ok();
    assert_eq!((&rules["join_rule"], &rules["allow"]), (&json!("public"), &json!([])));
    let one = stage.get(remote, &paths[4]).await.ok();
    assert_eq!(
        (&one["content"]["body"], &one["event_id"]),
        (&json!("hello"), &json!(event))
    );
    let found = stage.get(remote, &paths[5]).await.ok();
    let expected = (&json!(stage.room), &json!(false));
    assert_eq!((&found["room_id"], &found["world_readable"]), expected, "{found}");
    assert!(
        found["servers"].as_array().is_some_and(|servers| !servers.is_empty()),
        "{found}"
    );

    let name = format!("profile/{}/displayname", encode(&stage.alice.user_id));
    stage.alice.put(&name, json!({ "displayname": "Alice" })).await.ok();
    let path = format!("v1/query/profile/{}", encode(&stage.alice.user_id));
    assert_eq!(stage.get(stranger, &path).await.ok()["displayname"], "Alice");
    let nobody = format!("v1/query/profile/{}", encode(&remote.user("yves")));
    stage.get(stranger, &nobody).await.refused(404, "M_NOT_FOUND");
    for path in ["v1/keys/upload", "v2/key/clone"] {
        stage.post(remote, path, &json!({})).await.refused(403, "M_FORBIDDEN");
    }
    let about = stage.server.client().get("/_matrix/federation/v1").await.ok();
    assert_eq!(about["server_name"], stage.server.name());
}

crate::federation::both_backends! {
    answers_are_for_servers_in_the_room
    events_and_states
    history
    what_is_hidden_is_redacted
    what_the_reference_has_besides
}
