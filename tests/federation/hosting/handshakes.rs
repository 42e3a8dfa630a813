//! Joins, leaves, knocks and invites.

use serde_json::{Value, json};

use super::Stage;
use crate::{
    common::{
        client::{AnswerExt, User, encode},
        db::Backend,
        homeserver::Homeserver,
    },
    federation::remote::{
        Remote, now,
        room::{Hosted, Membership, VERSION, event_id, sign},
    },
};

/// A template of the server, completed and signed by the peer.
async fn made(stage: &Stage, by: &Remote, step: &str, user: &str) -> Value {
    let path = format!("v1/make_{step}/{}/{}?ver={VERSION}", stage.room(), encode(user));
    let template = stage.get(by, &path).await.ok();
    assert_eq!(template["room_version"], VERSION);
    let mut event = template["event"].clone();
    event["origin"] = json!(by.name());
    event["origin_server_ts"] = json!(now());
    sign(by, &event)
}

fn place(stage: &Stage, event: &Value) -> String {
    format!("{}/{}", stage.room(), encode(&event_id(event)))
}

async fn membership(stage: &Stage, user: &str) -> Value {
    let path = format!("rooms/{}/state/m.room.member/{}", stage.room(), encode(user));
    stage.alice.get(&path).await.1["membership"].clone()
}

async fn joins(backend: Backend) {
    let stage = Stage::set(backend).await;
    let (remote, first, second) = (&stage.remote, stage.remote.user("first"), stage.remote.user("second"));
    let event = made(&stage, remote, "join", &first).await;
    let path = format!("v2/send_join/{}?omit_members=true", place(&stage, &event));
    let answer = stage.put(remote, &path, &event).await.ok();
    assert_eq!(answer["event"], event);
    assert_eq!(answer["servers_in_room"], json!([stage.server.name()]));
    assert!(answer["members_omitted"].is_boolean());
    assert_eq!(membership(&stage, &first).await, "join");
    // Once more is no mistake.
    stage.put(remote, &path, &event).await.ok();

    // The old path answers an object with the room's version in it.
    let event = made(&stage, remote, "join", &second).await;
    let path = format!("v1/send_join/{}", place(&stage, &event));
    let answer = stage.put(remote, &path, &event).await.ok();
    assert_eq!(
        (&answer["room_version"], &answer["origin"]),
        (&json!(VERSION), &json!(stage.server.name()))
    );
    let state = answer["state"].as_array().expect("a list");
    assert!(state.iter().any(|pdu| pdu["state_key"] == json!(first)) && answer["auth_chain"].is_array());
    assert_eq!(membership(&stage, &second).await, "join");

    let mut changed = made(&stage, remote, "join", &remote.user("third")).await;
    changed["content"]["displayname"] = json!("Mallory");
    let path = format!("v2/send_join/{}", place(&stage, &changed));
    stage.put(remote, &path, &changed).await.refused(400, "M_INVALID_PARAM");
    let path = format!("v1/make_join/{}/{}", stage.room(), encode(&first));
    stage
        .get(remote, &path)
        .await
        .refused(400, "M_INCOMPATIBLE_ROOM_VERSION");
    stage.shut_out().await;
    let path = format!("v1/make_join/{}/{}?ver={VERSION}", stage.room(), encode(&first));
    stage.get(remote, &path).await.refused(403, "M_FORBIDDEN");
}

async fn leaves(backend: Backend) {
    let stage = Stage::set(backend).await;
    let remote = &stage.remote;
    for (version, answer) in [("v2", json!({})), ("v1", json!([200, {}]))] {
        let user = remote.user(version);
        Membership::join(remote, &stage.server, &stage.room, version).await;
        let event = made(&stage, remote, "leave", &user).await;
        let path = format!("{version}/send_leave/{}", place(&stage, &event));
        assert_eq!(stage.put(remote, &path, &event).await.ok(), answer);
        assert_eq!(membership(&stage, &user).await, "leave");
        let path = format!("v1/make_leave/{}/{}", stage.room(), encode(&user));
        stage.get(remote, &path).await.refused(403, "M_FORBIDDEN");
    }
}

async fn knocks(backend: Backend) {
    let stage = Stage::set(backend).await;
    let (remote, user) = (&stage.remote, stage.remote.user("yves"));
    let path = format!("v1/make_knock/{}/{}?ver={VERSION}", stage.room(), encode(&user));
    stage.get(remote, &path).await.refused(403, "M_FORBIDDEN");
    stage
        .set_state("m.room.join_rules", json!({ "join_rule": "knock" }))
        .await;
    // Beyond the specification: a template, and nothing happens.
    let path = format!("v1/knock/{}/{}", stage.room(), encode(&user));
    let template = stage.get(remote, &path).await.ok();
    assert_eq!(template["event"]["content"]["membership"], "knock");
    assert_eq!(membership(&stage, &user).await, Value::Null);

    let event = made(&stage, remote, "knock", &user).await;
    let path = format!("v1/send_knock/{}", place(&stage, &event));
    let answer = stage.put(remote, &path, &event).await.ok();
    let state = answer["knock_room_state"].as_array().expect("a list");
    let create = state.iter().find(|pdu| pdu["type"] == "m.room.create").expect("there");
    assert!(
        create["signatures"].is_object() && create["auth_events"].is_array(),
        "a whole event"
    );
    assert_eq!(membership(&stage, &user).await, "knock");
}

async fn invites(backend: Backend) {
    let stage = Stage::set(backend).await;
    let remote = &stage.remote;
    let bob = User::register(stage.server.client(), "bob").await;
    for version in ["v2", "v1"] {
        let room = Hosted::new(remote, version);
        let ids: Vec<String> = room.state.iter().take(3).map(event_id).collect();
        let mut draft = json!({
            "room_id": room.room_id, "sender": remote.user("creator"), "state_key": bob.user_id,
            "type": "m.room.member", "content": { "membership": "invite" }, "origin_server_ts": now(),
            "depth": 9, "prev_events": [event_id(&room.state[3])], "auth_events": ids,
        });
        draft["origin"] = json!(remote.name());
        let event = sign(remote, &draft);
        let path = format!(
            "{version}/invite/{}/{}",
            encode(&room.room_id),
            encode(&event_id(&event))
        );
        if version == "v1" {
            // That path is for the first two room versions, whose events carry their ids.
            let (status, answer) = stage.put(remote, &path, &event).await;
            assert_eq!((status, &answer["errcode"]), (400, &json!("M_INVALID_PARAM")));
            continue;
        }
        let body = json!({ "room_version": VERSION, "event": event, "invite_room_state": room.state });
        let answer = stage.put(remote, &path, &body).await.ok();
        let mut expected = event.clone();
        let ours = stage.server.name();
        expected["signatures"][ours] = answer["event"]["signatures"][ours].clone();
        assert!(expected["signatures"][ours].is_object());
        assert_eq!(answer, json!({ "event": expected }));
        let sync = bob
            .sync_until(None, |sync| sync["rooms"]["invite"][&room.room_id].is_object())
            .await;
        let told = sync["rooms"]["invite"][&room.room_id]["invite_state"]["events"].clone();
        let kinds: Vec<&Value> = told
            .as_array()
            .expect("a list")
            .iter()
            .map(|event| &event["type"])
            .collect();
        assert!(
            kinds.contains(&&json!("m.room.create")) && kinds.contains(&&json!("m.room.member")),
            "{told}"
        );
    }
}

async fn third_party_invites(backend: Backend) {
    let stage = Stage::set(backend).await;
    let remote = &stage.remote;
    User::register(stage.server.client(), "bob").await;
    let path = format!("v1/exchange_third_party_invite/{}", stage.room());
    let body = |kind: &str, content: Value| {
        json!({
            "type": kind, "room_id": stage.room, "sender": stage.alice.user_id,
            "state_key": remote.user("yves"), "content": content,
        })
    };
    let signed = json!({ "mxid": remote.user("yves"), "token": "t", "signatures": { "id": { "ed25519:0": "AAAA" } } });
    let content = json!({ "membership": "invite", "third_party_invite": { "display_name": "y", "signed": signed } });
    stage
        .put(remote, &path, &body("m.room.member", content.clone()))
        .await
        .refused(403, "M_FORBIDDEN");
    stage
        .put(remote, &path, &body("m.room.name", content.clone()))
        .await
        .refused(400, "M_INVALID_PARAM");
    let without = json!({ "membership": "invite" });
    stage
        .put(remote, &path, &body("m.room.member", without))
        .await
        .refused(400, "M_MISSING_PARAM");
    let mut elsewhere = body("m.room.member", content.clone());
    elsewhere["room_id"] = json!("!elsewhere:x");
    stage
        .put(remote, &path, &elsewhere)
        .await
        .refused(400, "M_INVALID_PARAM");
    let old = stage
        .post(remote, "v1/thirdparty/invite", &body("m.room.member", content))
        .await;
    old.refused(403, "M_FORBIDDEN");

    // Identity servers sign no requests.
    let path = "/_matrix/federation/v1/3pid/onbind";
    let bound = |mxid: &str| json!({ "medium": "email", "address": "b@e", "mxid": mxid, "invites": [] });
    let client = stage.server.client();
    let bob = format!("@bob:{}", stage.server.name());
    for method in ["PUT", "POST"] {
        let answer = client.request(method, path, None, Some(&bound(&bob))).await;
        assert_eq!(answer.ok(), json!({}));
        let answer = client
            .request(method, path, None, Some(&bound(&remote.user("yves"))))
            .await;
        answer.refused(400, "M_INVALID_PARAM");
    }
}

crate::federation::both_backends! {
    joins
    leaves
    knocks
    invites
    third_party_invites
}
