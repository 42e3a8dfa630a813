//! Typing, receipts and presence.

use serde_json::{Value, json};

use super::{Feed, sees, shared_room, strings};
use crate::common::{
    client::{AnswerExt, encode},
    homeserver::Town,
};

/// The ephemeral events of a room in a /sync answer, of one type.
fn ephemeral<'a>(sync: &'a Value, room: &str, event_type: &'a str) -> impl Iterator<Item = &'a Value> {
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array();
    events
        .into_iter()
        .flatten()
        .filter(move |event| event["type"] == event_type)
}

pub async fn typing(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    for (writer, reader) in [(&bob, &alice), (&alice, &bob)] {
        let mut feed = Feed::open(reader).await;
        let path = format!("rooms/{}/typing/{}", encode(&room), encode(&writer.user_id));
        writer
            .put(&path, json!({ "typing": true, "timeout": 30_000 }))
            .await
            .ok();
        let typing = |sync: &Value| {
            let last = ephemeral(sync, &room, "m.typing").last()?;
            Some(strings(&last["content"]["user_ids"]).contains(&writer.user_id.as_str()))
        };
        feed.until("that somebody types", |sync| typing(sync).filter(|typing| *typing))
            .await;
        writer.put(&path, json!({ "typing": false })).await.ok();
        feed.until("that nobody types", |sync| typing(sync).filter(|typing| !typing))
            .await;
    }
}

pub async fn receipts(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    for (writer, reader) in [(&alice, &bob), (&bob, &alice)] {
        let event_id = writer.send_text(&room, "read me").await;
        sees(reader, &room, &event_id).await;
        let mut feed = Feed::open(writer).await;
        let path = format!("rooms/{}/receipt", encode(&room));
        reader
            .post(&format!("{path}/m.read.private/{}", encode(&event_id)), json!({}))
            .await
            .ok();
        reader
            .post(&format!("{path}/m.read/{}", encode(&event_id)), json!({}))
            .await
            .ok();
        let receipt = feed
            .until("the receipt", |sync| {
                let mut all = ephemeral(sync, &room, "m.receipt").map(|event| &event["content"][&event_id]);
                all.find(|receipt| receipt["m.read"][&reader.user_id].is_object())
                    .cloned()
            })
            .await;
        assert!(receipt["m.read"][&reader.user_id]["ts"].is_u64(), "{receipt}");
        assert!(receipt.get("m.read.private").is_none(), "{receipt}");
    }
}

pub async fn presence(town: &Town) {
    let (alice, bob, _) = shared_room(town).await;
    for (writer, reader) in [(&bob, &alice), (&alice, &bob)] {
        let mut feed = Feed::open(reader).await;
        for status in ["at tea", "gone for coffee"] {
            let path = format!("presence/{}/status", encode(&writer.user_id));
            let body = json!({ "presence": "online", "status_msg": status });
            writer.put(&path, body).await.ok();
            feed.until(status, |sync| {
                let mut events = sync["presence"]["events"].as_array()?.iter();
                events.find(|event| {
                    event["sender"] == writer.user_id.as_str() && event["content"]["status_msg"] == status
                })?;
                Some(())
            })
            .await;
        }
    }
}
