//! EDUs about users that are not the peer's.

use std::slice::from_ref;

use serde_json::{Value, json};

use super::Scene;
use crate::{
    common::{
        client::{AnswerExt, User},
        db::Backend,
        homeserver::Homeserver,
    },
    federation::{
        remote::room::event_id,
        scenarios::{Feed, sees, texts},
    },
};

fn edu(edu_type: &str, content: Value) -> Value {
    json!({ "edu_type": edu_type, "content": content })
}

/// Each says something in the name of a user of the server itself, or of a room that the peer is not in.
fn lies(scene: &Scene, stranger: &User, closed: &str, mallory: &str) -> Vec<Value> {
    let (alice, room) = (&scene.alice.user_id, &scene.room);
    let receipt = json!({ "data": { "ts": 1 }, "event_ids": ["$x"] });
    let note = |sender: &str, id: &str| {
        json!({
            "sender": sender, "type": "org.example.lie", "message_id": id,
            "messages": { alice: { "*": { "lie": true } } },
        })
    };
    let device = json!({ "user_id": stranger.user_id, "device_id": "LIE", "stream_id": 1, "prev_id": [] });
    vec![
        edu(
            "m.typing",
            json!({ "room_id": room, "user_id": stranger.user_id, "typing": true }),
        ),
        edu(
            "m.typing",
            json!({ "room_id": closed, "user_id": mallory, "typing": true }),
        ),
        edu(
            "m.typing",
            json!({ "room_id": "!nowhere:elsewhere.test", "user_id": mallory, "typing": true }),
        ),
        edu(
            "m.receipt",
            json!({ room: { "m.read": { &stranger.user_id: receipt } } }),
        ),
        edu("m.receipt", json!({ closed: { "m.read": { mallory: receipt } } })),
        edu(
            "m.presence",
            json!({ "push": [{ "user_id": stranger.user_id, "presence": "online", "status_msg": "a lie" }] }),
        ),
        edu("m.direct_to_device", note(&stranger.user_id, "a")),
        edu("m.direct_to_device", note("@x:elsewhere.test", "b")),
        edu("m.device_list_update", device.clone()),
        edu(
            "m.signing_key_update",
            json!({ "user_id": stranger.user_id, "master_key": { "user_id": stranger.user_id, "usage": ["master"], "keys": { "ed25519:x": "x" } } }),
        ),
        edu("m.typing", json!("rubbish")),
        edu("m.receipt", json!({ room: { "m.read": "rubbish" } })),
        edu("m.presence", json!({ "push": [1, {}, { "user_id": "rubbish" }] })),
        edu("m.direct_to_device", json!({})),
        edu("m.device_list_update", json!({ "user_id": mallory })),
        edu("org.example.unknown", json!({})),
    ]
}

async fn nobody_speaks_for_others(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let carol = User::register(scene.server.client(), "carol").await;
    carol.join(&scene.room).await;
    let closed = scene.alice.create_room(json!({ "preset": "private_chat" })).await;
    let mut feed = Feed::open(&scene.alice).await;
    let lies = lies(&scene, &carol, &closed, &at.user_id);
    scene.remote.send(&scene.server, &[], &lies).await.ok();
    // The same again, one by one: one bad EDU must not hide what another one does.
    for lie in &lies {
        scene.remote.send(&scene.server, &[], from_ref(lie)).await.ok();
    }
    let truth = edu(
        "m.typing",
        json!({ "room_id": scene.room, "user_id": at.user_id, "typing": true }),
    );
    scene.remote.send(&scene.server, &[], &[truth]).await.ok();
    let mut everything = String::new();
    feed.until("that mallory types", |sync| {
        everything.push_str(&sync.to_string());
        let typing = &sync["rooms"]["join"][&scene.room]["ephemeral"]["events"];
        typing.to_string().contains(&at.user_id).then_some(())
    })
    .await;
    for trace in [carol.user_id.as_str(), "lie", closed.as_str()] {
        assert!(!everything.contains(trace), "{trace} is in {everything}");
    }
    scene.goes_on(&mut at).await;
}

/// Others write such numbers into EDUs, and sign them as they write them.
async fn fractions_hold_nothing_up(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let typing = json!({ "room_id": scene.room, "user_id": at.user_id, "typing": true, "org.example.n": [0.5, 1e-7] });
    let mut fraction = at.draft("m.room.message", json!({ "msgtype": "m.text", "body": "half" }));
    let event = at.message("beside it");
    let mut feed = Feed::open(&scene.alice).await;
    let answer = scene
        .remote
        .send(&scene.server, from_ref(&event), &[edu("m.typing", typing)])
        .await;
    assert_eq!(answer.ok()["pdus"][event_id(&event)], json!({}));
    feed.until("that mallory types", |sync| {
        let typing = &sync["rooms"]["join"][&scene.room]["ephemeral"]["events"];
        typing.to_string().contains(&at.user_id).then_some(())
    })
    .await;
    sees(&scene.alice, &scene.room, &event_id(&event)).await;
    at.follow(&event);
    // In events they are refused, and nothing beside them.
    fraction["content"]["n"] = json!(0.5);
    let next = at.message("after it");
    let answer = scene
        .remote
        .send(&scene.server, &[fraction, next.clone()], &[])
        .await
        .ok();
    assert_eq!(answer["pdus"][event_id(&next)], json!({}), "{answer}");
    sees(&scene.alice, &scene.room, &event_id(&next)).await;
    let seen = texts(&scene.alice, &scene.room).await;
    assert_eq!(seen, ["beside it", "after it"]);
    at.follow(&next);
    scene.goes_on(&mut at).await;
}

crate::federation::both_backends! {
    fractions_hold_nothing_up
    nobody_speaks_for_others
}
