//! What somebody sees who came late.

use serde_json::{Value, json};

use super::{converse, eventually, join_via, meet, pages, texts};
use crate::common::{
    client::{AnswerExt, encode},
    homeserver::Town,
};

/// More than a server sends along with a join or at the first request.
const MESSAGES: usize = 120;

pub async fn for_a_late_joiner(town: &Town) {
    let (alice, bob) = town.people().await;
    let room = town.room(&alice, json!({ "preset": "public_chat" })).await;
    let mut said = Vec::new();
    for number in 0..MESSAGES {
        let body = format!("{number}");
        alice.send_text(&room, &body).await;
        if number % 40 == 20 {
            alice
                .set_state(&room, "m.room.topic", "", json!({ "topic": body }))
                .await;
        }
        said.push(body);
    }
    join_via(&bob, &room, &[town.here.name()]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    eventually("the whole history", async || {
        let events = pages(&bob, &room).await;
        let last = events.last().map_or(Value::Null, |event| event["type"].clone());
        let texts = texts(&bob, &room).await;
        let found = texts == said && last == "m.room.create";
        if found {
            Ok(())
        } else {
            Err(format!("{} events back to {last}: {texts:?}", events.len()))
        }
    })
    .await;
    converse(&room, &[&alice, &bob]).await;
}

pub async fn hidden_from_a_late_joiner(town: &Town) {
    let (alice, bob) = town.people().await;
    let visibility = json!({ "history_visibility": "joined" });
    let visibility = json!({ "type": "m.room.history_visibility", "state_key": "", "content": visibility });
    let options = json!({ "preset": "public_chat", "initial_state": [visibility] });
    let room = town.room(&alice, options).await;
    for number in 0..5 {
        alice.send_text(&room, &format!("secret {number}")).await;
    }
    join_via(&bob, &room, &[town.here.name()]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    converse(&room, &[&alice, &bob]).await;
    let seen = texts(&bob, &room).await;
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(!seen.iter().any(|text| text.starts_with("secret")), "{seen:?}");
}

pub async fn by_time(town: &Town) {
    let (alice, bob) = town.people().await;
    let room = town.room(&alice, json!({ "preset": "public_chat" })).await;
    let events = pages(&alice, &room).await;
    let create = events.last().expect("a room has a first event").clone();
    for number in 0..30 {
        alice.send_text(&room, &format!("{number}")).await;
    }
    join_via(&bob, &room, &[town.here.name()]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    eventually("the first event by its time", async || {
        let ts = &create["origin_server_ts"];
        let path = format!(
            "/_matrix/client/v1/rooms/{}/timestamp_to_event?ts={ts}&dir=f",
            encode(&room)
        );
        let (status, answer) = bob.get(&path).await;
        let found = status == 200 && answer["event_id"] == create["event_id"];
        if found {
            Ok(())
        } else {
            Err(format!("{status} {answer}"))
        }
    })
    .await;
}
