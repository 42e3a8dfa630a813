//! Joins, leaves, knocks and invitations that a peer has no right to.

use serde_json::{Value, json};

use super::Scene;
use crate::{
    common::{
        client::{AnswerExt, User, encode},
        db::Backend,
        homeserver::Homeserver,
    },
    federation::{
        remote::{
            Remote, now,
            room::{event_id, join_event, sign},
        },
        scenarios::state,
    },
};

async fn send_join(scene: &Scene, by: &Remote, room: &str, event: &Value) -> (u16, Value) {
    let path = format!(
        "/_matrix/federation/v2/send_join/{}/{}",
        encode(room),
        encode(&event_id(event))
    );
    by.put(&scene.server, &path, event).await
}

async fn joins_are_for_the_peers_own_users(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let (remote, room) = (&scene.remote, &scene.room);
    let other = Remote::start(&scene.authority).await;
    let closed = scene
        .alice
        .create_room(json!({ "preset": "private_chat", "room_version": "11" }))
        .await;
    for (room, user, expected) in [
        (room.as_str(), other.user("x"), [400, 403].as_slice()),
        (room, scene.alice.user_id.clone(), &[400, 403]),
        (room, "rubbish".to_owned(), &[400, 403]),
        (&closed, remote.user("x"), &[403, 403]),
        ("!nowhere:127.0.0.1", remote.user("x"), &[404, 404]),
    ] {
        let path = format!(
            "/_matrix/federation/v1/make_join/{}/{}?ver=11",
            encode(room),
            encode(&user)
        );
        let (status, answer) = remote.get(&scene.server, &path).await;
        assert!(expected.contains(&status), "{room} {user}: {status} {answer}");
    }
    let path = format!(
        "/_matrix/federation/v1/make_join/{}/{}?ver=1",
        encode(room),
        encode(&remote.user("x"))
    );
    remote
        .get(&scene.server, &path)
        .await
        .refused(400, "M_INCOMPATIBLE_ROOM_VERSION");

    let good = join_event(remote, &scene.server, room, &remote.user("friend")).await;
    let change = |key: &str, value: Value| {
        let mut event = good.clone();
        event[key] = value;
        sign(remote, &event)
    };
    let mut unsigned = good.clone();
    unsigned["signatures"] = json!({});
    for (what, event) in [
        (
            "another membership",
            change("content", json!({ "membership": "leave" })),
        ),
        ("another type", change("type", json!("m.room.message"))),
        ("another user", change("state_key", json!(remote.user("else")))),
        ("alice", {
            let mut event = good.clone();
            event["sender"] = json!(scene.alice.user_id);
            event["state_key"] = event["sender"].clone();
            sign(remote, &event)
        }),
        ("another room", change("room_id", json!(closed))),
        ("no authority", change("auth_events", json!([]))),
        ("no signature", unsigned),
        ("another server's signature", {
            let mut event = good.clone();
            event["signatures"] = json!({});
            sign(&other, &event)
        }),
    ] {
        let (status, answer) = send_join(&scene, remote, room, &event).await;
        assert!([400, 401, 403].contains(&status), "{what}: {status} {answer}");
    }
    let wrong = format!("/_matrix/federation/v2/send_join/{}/%24wrong", encode(room));
    let (status, answer) = remote.put(&scene.server, &wrong, &good).await;
    assert!([200, 400].contains(&status), "{status} {answer}");
    // Another server may not send this peer's join.
    let (status, answer) = send_join(&scene, &other, room, &good).await;
    assert!([400, 403].contains(&status), "{status} {answer}");

    scene
        .alice
        .post(
            &format!("rooms/{}/ban", encode(room)),
            json!({ "user_id": remote.user("banned") }),
        )
        .await
        .ok();
    let path = format!(
        "/_matrix/federation/v1/make_join/{}/{}?ver=11",
        encode(room),
        encode(&remote.user("banned"))
    );
    remote.get(&scene.server, &path).await.refused(403, "M_FORBIDDEN");
    at.latest = room_latest(&scene).await;
    scene.goes_on(&mut at).await;
}

/// The newest event of the room.
async fn room_latest(scene: &Scene) -> Vec<String> {
    let id = scene.alice.send_text(&scene.room, "the newest").await;
    vec![id]
}

async fn invitations_are_checked(backend: Backend) {
    let scene = Scene::set(backend).await;
    let remote = &scene.remote;
    let carol = User::register(scene.server.client(), "carol").await;
    let room = format!("!theirs:{}", remote.name());
    let draft = |sender: &str, target: &str| {
        json!({
            "room_id": room, "sender": sender, "state_key": target, "type": "m.room.member",
            "content": { "membership": "invite" }, "origin_server_ts": now(), "depth": 5,
            "prev_events": [format!("${}", "p".repeat(43))], "auth_events": [format!("${}", "a".repeat(43))],
        })
    };
    let send = async |room: &str, event: &Value, version: &str| {
        let path = format!(
            "/_matrix/federation/v2/invite/{}/{}",
            encode(room),
            encode(&event_id(event))
        );
        let body = json!({ "room_version": version, "event": event, "invite_room_state": [] });
        remote.put(&scene.server, &path, &body).await
    };
    let creator = remote.user("creator");
    let good = sign(remote, &draft(&creator, &carol.user_id));
    let nobody = format!("@nobody:{}", scene.server.name());
    let mut unsigned = good.clone();
    unsigned["signatures"] = json!({});
    let mut joined = draft(&creator, &carol.user_id);
    joined["content"] = json!({ "membership": "join" });
    for (what, event) in [
        (
            "in alice's name",
            sign(remote, &draft(&scene.alice.user_id, &carol.user_id)),
        ),
        (
            "to another server's user",
            sign(remote, &draft(&creator, "@x:elsewhere.test")),
        ),
        ("to nobody", sign(remote, &draft(&creator, &nobody))),
        ("not an invitation", sign(remote, &joined)),
        ("unsigned", unsigned),
    ] {
        let (status, answer) = send(&room, &event, "11").await;
        assert!((400..500).contains(&status), "{what}: {status} {answer}");
    }
    let (status, answer) = send("!another:elsewhere.test", &good, "11").await;
    assert!((400..500).contains(&status), "another room: {status} {answer}");
    send(&room, &good, "99")
        .await
        .refused(400, "M_INCOMPATIBLE_ROOM_VERSION");
    let sync = carol.sync(None, 0, None).await;
    assert!(
        sync["rooms"]["invite"]
            .as_object()
            .is_none_or(|invites| invites.is_empty()),
        "{sync}"
    );

    let answer = send(&room, &good, "11").await.ok();
    assert!(
        answer["event"]["signatures"][scene.server.name()].is_object(),
        "{answer}"
    );
    carol
        .sync_until(None, |sync| sync["rooms"]["invite"][&room].is_object())
        .await;
    // A server that is not in a room of ours cannot invite into it, nor end anybody's membership there.
    let leave = json!({ "membership": "leave" });
    let mut event = draft(&creator, &creator);
    event["room_id"] = json!(scene.room);
    event["content"] = leave;
    let event = sign(remote, &event);
    let path = format!(
        "/_matrix/federation/v2/send_leave/{}/{}",
        encode(&scene.room),
        encode(&event_id(&event))
    );
    let (status, answer) = remote.put(&scene.server, &path, &event).await;
    assert!([400, 403, 404].contains(&status), "{status} {answer}");
    let own = state(&scene.alice, &scene.room, "m.room.member", &scene.alice.user_id)
        .await
        .ok();
    assert_eq!(own["membership"], "join");
    scene.alive().await;
}

crate::federation::both_backends! {
    joins_are_for_the_peers_own_users
    invitations_are_checked
}
