//! What surrounds an event on a server that was not there at the time.

use serde_json::json;

use super::{
    VERSION,
    scenarios::{eventually, join_via, meet, pages},
    town,
};
use crate::common::{
    client::{AnswerExt, encode, text},
    db::Backend,
};

async fn what_came_before_is_fetched(backend: Backend) {
    let (town, _authority) = town(backend, VERSION).await;
    let (alice, bob) = town.people().await;
    let room = town.room(&alice, json!({ "preset": "public_chat" })).await;
    for number in 0..30 {
        alice.send_text(&room, &format!("{number}")).await;
    }
    let first = pages(&alice, &room).await.pop().expect("a room has a first event");
    join_via(&bob, &room, &[town.here.name()]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    let own = bob.send_text(&room, "mine").await;
    let path = format!("rooms/{}/context/{}?limit=40", encode(&room), encode(&own));
    eventually("the messages before it", async || {
        let around = bob.get(&path).await.ok();
        let before = around["events_before"].as_array().expect("a list");
        let bodies: Vec<_> = before
            .iter()
            .filter_map(|event| event["content"]["body"].as_str())
            .collect();
        // Newest first.
        let expected: Vec<String> = (12..30).rev().map(|number| number.to_string()).collect();
        if bodies.starts_with(&expected.iter().map(String::as_str).collect::<Vec<_>>()) {
            Ok(())
        } else {
            Err(format!("{bodies:?}"))
        }
    })
    .await;
    // An event that another server told of by its time is here from then on.
    let ts = &first["origin_server_ts"];
    let by_time = format!(
        "/_matrix/client/v1/rooms/{}/timestamp_to_event?ts={ts}&dir=f",
        encode(&room)
    );
    let found = bob.get(&by_time).await.ok();
    assert_eq!(found["event_id"], first["event_id"], "{found}");
    let path = format!("rooms/{}/event/{}", encode(&room), encode(&text(&first, "event_id")));
    let event = bob.get(&path).await.ok();
    assert_eq!(event["type"], "m.room.create");
}

super::both_backends! {
    what_came_before_is_fetched
}
