//! Answers to our own questions that are lies, never end, or never come.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Scene;
use crate::{
    common::{
        client::{AnswerExt, encode},
        db::Backend,
    },
    federation::{
        remote::{
            Remote,
            http::{Answer, Request},
            now,
            room::{Hosted, event_id, sign},
        },
        scenarios::{eventually, join_via, sees, texts},
    },
};

/// The longest that a client may wait for its join.
const BOUND: Duration = Duration::from_secs(60);

/// Lets the peer answer joins of a room; `welcome` changes what it says in the end.
fn host(remote: &Remote, hosted: &Hosted, welcome: impl Fn(Value) -> Answer + Send + Sync + 'static) {
    let (room, name) = (hosted.room_id.clone(), remote.name().to_owned());
    let hosted = Hosted {
        room_id: room.clone(),
        state: hosted.state.clone(),
    };
    remote.behave(move |request: &Request| {
        let path = request.path.replace("%21", "!").replace("%3A", ":").replace("%40", "@");
        let make = format!("/_matrix/federation/v1/make_join/{room}/");
        if let Some(user) = path.strip_prefix(&make) {
            let user = user.split('?').next().unwrap_or_default();
            return Some(Answer::Json(200, hosted.template(user)));
        }
        let send = format!("/_matrix/federation/v2/send_join/{room}/");
        path.starts_with(&send)
            .then(|| welcome(hosted.welcome(&name, &request.json())))
    });
}

async fn lies_about_a_room_let_nobody_in(backend: Backend) {
    let scene = Scene::set(backend).await;
    let remote = &scene.remote;
    type Lie = Box<dyn Fn(Value) -> Answer + Send + Sync>;
    let changed = |change: fn(&mut Value)| -> Lie {
        Box::new(move |mut answer| {
            change(&mut answer);
            Answer::Json(200, answer)
        })
    };
    let lies: Vec<(&str, Lie)> = vec![
        ("no state", changed(|answer| answer["state"] = json!([]))),
        (
            "no create event",
            changed(|answer| {
                for list in ["state", "auth_chain"] {
                    answer[list].as_array_mut().expect("a list").remove(0);
                }
            }),
        ),
        (
            "unsigned state",
            changed(|answer| {
                for list in ["state", "auth_chain"] {
                    for event in answer[list].as_array_mut().expect("a list") {
                        event["signatures"] = json!({});
                    }
                }
            }),
        ),
        (
            "state of another room",
            changed(|answer| {
                for list in ["state", "auth_chain"] {
                    for event in answer[list].as_array_mut().expect("a list") {
                        event["room_id"] = json!("!other:elsewhere.test");
                    }
                }
            }),
        ),
        ("rubbish", changed(|answer| *answer = json!({ "state": "none" }))),
        (
            "an error",
            Box::new(|_| Answer::Json(500, json!({ "errcode": "M_UNKNOWN", "error": "no" }))),
        ),
        ("noise", Box::new(|_| Answer::Noise)),
    ];
    for (number, (what, lie)) in lies.into_iter().enumerate() {
        let hosted = Hosted::new(remote, &format!("lie{number}"));
        host(remote, &hosted, lie);
        let (status, answer) = join_via(&scene.alice, &hosted.room_id, &[remote.name()]).await;
        assert!(status >= 400, "{what}: {status} {answer}");
        assert!(answer["errcode"].is_string(), "{what}: {answer}");
        let sync = scene.alice.sync(None, 0, None).await;
        assert!(sync["rooms"]["join"].get(&hosted.room_id).is_none(), "{what}");
        scene.alive().await;
    }
    // The same room told truly.
    let hosted = Hosted::new(remote, "truth");
    host(remote, &hosted, |answer| Answer::Json(200, answer));
    join_via(&scene.alice, &hosted.room_id, &[remote.name()]).await.ok();
    let joined = scene.alice.get("joined_rooms").await.ok();
    assert!(joined.to_string().contains(&hosted.room_id), "{joined}");
}

/// State that the room's own rules do not allow is left out.
async fn forged_state_in_a_join_is_left_out(backend: Backend) {
    let scene = Scene::set(backend).await;
    let remote = &scene.remote;
    let hosted = Hosted::new(remote, "forged");
    let ids: Vec<String> = hosted.state.iter().map(event_id).collect();
    let mut draft = json!({
        "room_id": hosted.room_id, "sender": remote.user("stranger"), "type": "m.room.name", "state_key": "",
        "content": { "name": "forged" }, "origin_server_ts": now(), "depth": 5,
        "prev_events": [&ids[3]], "auth_events": [&ids[0], &ids[2]],
    });
    let by_a_stranger = sign(remote, &draft);
    draft["sender"] = json!(remote.user("creator"));
    draft["auth_events"] = json!([&ids[0], &ids[1], &ids[2]]);
    draft["type"] = json!("m.room.topic");
    draft["content"] = json!({ "topic": "true" });
    let by_the_creator = sign(remote, &draft);
    host(remote, &hosted, move |mut answer| {
        let state = answer["state"].as_array_mut().expect("a list");
        state.extend([by_a_stranger.clone(), by_the_creator.clone()]);
        Answer::Json(200, answer)
    });
    let (status, answer) = join_via(&scene.alice, &hosted.room_id, &[remote.name()]).await;
    if status == 200 {
        let room = encode(&hosted.room_id);
        scene
            .alice
            .get(&format!("rooms/{room}/state/m.room.name/"))
            .await
            .refused(404, "M_NOT_FOUND");
        let topic = scene.alice.get(&format!("rooms/{room}/state/m.room.topic/")).await.ok();
        assert_eq!(topic["topic"], "true");
    } else {
        assert!((400..503).contains(&status), "{status} {answer}");
    }
    scene.alive().await;
}

async fn slow_answers_hold_nobody_up(backend: Backend) {
    let scene = Scene::set(backend).await;
    let before = scene.server.server.memory_kib();
    let mut peers = Vec::new();
    for kind in 0..3 {
        let remote = Remote::start(&scene.authority).await;
        let hosted = Hosted::new(&remote, "slow");
        match kind {
            // To the first question, which anybody can answer off the shelf.
            0 => remote.behave(|request| request.path.contains("/make_join/").then_some(Answer::Silence)),
            1 => host(&remote, &hosted, |_| Answer::Trickle),
            _ => host(&remote, &hosted, |_| Answer::Endless),
        }
        peers.push((remote, hosted));
    }
    let begin = Instant::now();
    let join = async |remote: &Remote, hosted: &Hosted| {
        let (status, answer) = join_via(&scene.alice, &hosted.room_id, &[remote.name()]).await;
        assert!(status >= 400 && answer["errcode"].is_string(), "{status} {answer}");
    };
    let joins = futures_util::future::join_all(peers.iter().map(|(remote, hosted)| join(remote, hosted)));
    let meanwhile = async {
        for _ in 0..5 {
            let begin = Instant::now();
            scene.alive().await;
            assert!(begin.elapsed() < Duration::from_secs(5), "the room is held up");
        }
    };
    tokio::join!(joins, meanwhile);
    assert!(begin.elapsed() < BOUND, "a join took {:?}", begin.elapsed());
    let grown = scene.server.server.memory_kib().saturating_sub(before);
    assert!(grown < 150 * 1024, "memory grew by {grown} KiB");
}

/// Each event that is asked for has a parent that nobody has.
async fn endless_histories_are_given_up(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let mut draft = at.draft(
        "m.room.message",
        json!({ "msgtype": "m.text", "body": "a distant one" }),
    );
    draft["prev_events"] = json!([format!("${}", "u".repeat(43))]);
    draft["depth"] = json!(100_000);
    let event = at.sign(&draft);
    let (template, depth) = (draft.clone(), std::sync::atomic::AtomicU64::new(0));
    scene.remote.behave(move |request: &Request| {
        if !request.path.starts_with("/_matrix/federation/v1/get_missing_events/") {
            return None;
        }
        let number = depth.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let events: Vec<Value> = (0..10)
            .map(|position| {
                let mut event = template.clone();
                event["prev_events"] = json!([format!("${:0>43}", number * 100 + position)]);
                event["depth"] = json!(99_999 - number);
                event
            })
            .collect();
        Some(Answer::Json(200, json!({ "events": events })))
    });
    let before = scene.server.server.memory_kib();
    for _ in 0..3 {
        scene.remote.send(&scene.server, from_ref(&event), &[]).await.ok();
    }
    scene.goes_on(&mut at).await;
    let asked = scene.remote.asked("/_matrix/federation/v1/get_missing_events/").len();
    assert!(asked <= 30, "asked {asked} times");
    let grown = scene.server.server.memory_kib().saturating_sub(before);
    assert!(grown < 100 * 1024, "memory grew by {grown} KiB");
}

/// An honest peer is asked for what is missing, and gives it.
async fn missing_events_are_fetched(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let mut events = Vec::new();
    for number in 0..8 {
        let event = at.message(&format!("{number}"));
        at.follow(&event);
        events.push(event);
    }
    let last = events.pop().expect("there are eight");
    let missing = events.clone();
    scene.remote.behave(move |request: &Request| {
        let asked = request.path.starts_with("/_matrix/federation/v1/get_missing_events/");
        asked.then(|| Answer::Json(200, json!({ "events": missing })))
    });
    scene.remote.send(&scene.server, from_ref(&last), &[]).await.ok();
    sees(&scene.alice, &scene.room, &event_id(&last)).await;
    eventually("the missing ones", async || {
        let texts = texts(&scene.alice, &scene.room).await;
        let expected: Vec<_> = (0..8).map(|number| number.to_string()).collect();
        if texts == expected {
            Ok(())
        } else {
            Err(format!("{texts:?}"))
        }
    })
    .await;
    scene.goes_on(&mut at).await;
}

crate::federation::both_backends! {
    lies_about_a_room_let_nobody_in
    forged_state_in_a_join_is_left_out
    slow_answers_hold_nobody_up
    endless_histories_are_given_up
    missing_events_are_fetched
}
