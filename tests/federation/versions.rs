//! The events of a room of each version, from its first to its redactions and bans.

use serde_json::json;

use super::{
    scenarios::{act, has_membership, join_via, meet, messages, shared_room},
    town,
};
use crate::common::{client::AnswerExt, db::Backend};

async fn every_version(backend: Backend) {
    let (mut town, _authority) = town(backend, "1").await;
    for version in 1..=12 {
        town.version = version.to_string();
        println!("room version {version}");
        let (alice, bob, room) = shared_room(&town).await;
        messages::both_ways_in(&room, &alice, &bob).await;
        messages::redactions_in(&room, &alice, &bob).await;
        act(&alice, &room, "ban", &bob).await.ok();
        has_membership(&alice, &room, &bob, "ban").await;
        has_membership(&bob, &room, &bob, "ban").await;
        join_via(&bob, &room, &[town.here.name()])
            .await
            .refused(403, "M_FORBIDDEN");
        act(&alice, &room, "unban", &bob).await.ok();
        alice
            .set_state(&room, "m.room.topic", "", json!({ "topic": "Back?" }))
            .await;
        join_via(&bob, &room, &[town.here.name()]).await.ok();
        meet(&room, &[&alice, &bob]).await;
    }
}

super::both_backends! {
    every_version
}
