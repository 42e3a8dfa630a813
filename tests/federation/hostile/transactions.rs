//! Transactions that come again, are too large, or are no transactions.

use std::slice::from_ref;

use serde_json::{Value, json};

use super::Scene;
use crate::{
    common::{client::AnswerExt, db::Backend},
    federation::{
        remote::room::event_id,
        scenarios::{sees, texts},
    },
};

async fn a_repeated_transaction_gets_the_same_answer(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let event = at.message("once");
    let forged = crate::federation::remote::room::sign(
        &scene.remote,
        &json!({
            "room_id": "!nowhere:elsewhere.test", "sender": at.user_id, "type": "m.room.message", "content": {},
            "origin_server_ts": 1, "depth": 1, "prev_events": [], "auth_events": [],
        }),
    );
    let pdus = [event.clone(), forged];
    let edu = json!({
        "edu_type": "m.direct_to_device",
        "content": {
            "sender": at.user_id, "type": "org.example.note", "message_id": "the one",
            "messages": { &scene.alice.user_id: { &scene.alice.device_id: { "n": 1 } } },
        },
    });
    let first = scene
        .remote
        .send_as(&scene.server, "same", &pdus, from_ref(&edu))
        .await
        .ok();
    sees(&scene.alice, &scene.room, &event_id(&event)).await;
    for _ in 0..3 {
        let again = scene
            .remote
            .send_as(&scene.server, "same", &pdus, from_ref(&edu))
            .await
            .ok();
        assert_eq!(again, first);
    }
    // After a restart too.
    scene.server.server.kill();
    scene.server.server.restart().await;
    let again = scene
        .remote
        .send_as(&scene.server, "same", &pdus, from_ref(&edu))
        .await
        .ok();
    assert_eq!(again, first);
    // Other content under the same id is not looked at.
    at.follow(&event);
    let other = at.message("under the same id");
    let again = scene.remote.send_as(&scene.server, "same", &[other], &[]).await.ok();
    assert_eq!(again, first);
    // The same event in another transaction is no second one.
    scene
        .remote
        .send(&scene.server, &[event.clone(), event.clone()], &[edu])
        .await
        .ok();
    scene.goes_on(&mut at).await;
    let texts = texts(&scene.alice, &scene.room).await;
    assert_eq!(texts.iter().filter(|text| *text == "once").count(), 1, "{texts:?}");
    assert!(!texts.iter().any(|text| text == "under the same id"), "{texts:?}");
    let sync = scene.alice.sync(None, 0, None).await;
    let notes = sync["to_device"]["events"].as_array().map_or(0, Vec::len);
    assert_eq!(notes, 1, "{sync}");
}

async fn transactions_have_limits(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let events: Vec<Value> = (0..51).map(|number| at.message(&format!("{number}"))).collect();
    let (status, answer) = scene.remote.send(&scene.server, &events, &[]).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer["errcode"].is_string(), "{answer}");
    let edu =
        json!({ "edu_type": "m.typing", "content": { "room_id": scene.room, "user_id": at.user_id, "typing": true } });
    let (status, answer) = scene.remote.send(&scene.server, &[], &vec![edu.clone(); 101]).await;
    assert_eq!(status, 400, "{answer}");
    assert_eq!(texts(&scene.alice, &scene.room).await, Vec::<String>::new());

    let answer = scene
        .remote
        .send(&scene.server, &events[..50], &vec![edu; 100])
        .await
        .ok();
    assert_eq!(
        answer["pdus"].as_object().map(serde_json::Map::len),
        Some(50),
        "{answer}"
    );
    for event in &events[..50] {
        sees(&scene.alice, &scene.room, &event_id(event)).await;
    }
    at.latest = vec![event_id(&events[49])];
    scene.goes_on(&mut at).await;
}

async fn what_is_no_transaction_is_refused(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let event = at.message("in a bad transaction");
    let good = scene.remote.transaction(&[event], &[]);
    let mut bodies = vec![json!({}), json!({ "pdus": "none" })];
    for (key, value) in [
        ("pdus", json!({})),
        ("pdus", json!("x")),
        ("edus", json!(7)),
        ("origin", json!("elsewhere.test")),
    ] {
        let mut body = good.clone();
        body[key] = value;
        bodies.push(body);
    }
    for (number, body) in bodies.iter().enumerate() {
        let path = format!("/_matrix/federation/v1/send/bad{number}");
        let (status, answer) = scene.remote.put(&scene.server, &path, body).await;
        assert!([400, 403].contains(&status), "{body}: {status} {answer}");
        assert!(answer["errcode"].is_string(), "{answer}");
    }
    // Things that are no events among the events do not spoil the others.
    let event = at.message("among rubbish");
    let rubbish = [
        json!({}),
        json!(null),
        json!([]),
        json!("x"),
        json!({ "room_id": scene.room }),
        event.clone(),
    ];
    scene
        .remote
        .send(
            &scene.server,
            &rubbish,
            &[json!({}), json!({ "edu_type": 1 }), json!("x")],
        )
        .await
        .ok();
    sees(&scene.alice, &scene.room, &event_id(&event)).await;
    at.follow(&event);
    scene.goes_on(&mut at).await;
    let texts = texts(&scene.alice, &scene.room).await;
    assert!(!texts.iter().any(|text| text == "in a bad transaction"), "{texts:?}");
}

crate::federation::both_backends! {
    a_repeated_transaction_gets_the_same_answer
    transactions_have_limits
    what_is_no_transaction_is_refused
}
