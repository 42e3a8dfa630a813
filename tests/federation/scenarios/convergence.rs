//! Both servers change a room at once; in the end they agree.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{act, converse, eventually, has_membership, join_via, meet, pages, sees, shared_room, state};
use crate::common::{
    client::{AnswerExt, User, encode, text},
    homeserver::Town,
};

async fn state_ids(user: &User, room: &str) -> BTreeSet<String> {
    let events = user.get(&format!("rooms/{}/state", encode(room))).await.ok();
    let events = events.as_array().expect("a room's state is a list");
    events.iter().map(|event| text(event, "event_id")).collect()
}

/// Waits until both servers have the same state.
pub async fn agree(room: &str, alice: &User, bob: &User) {
    eventually("one state on both servers", async || {
        let (here, there) = (state_ids(alice, room).await, state_ids(bob, room).await);
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
        let differences = (only(&here, &there), only(&there, &here));
        if here == there {
            Ok(())
        } else {
            Err(format!("{differences:?}"))
        }
    })
    .await;
}

pub async fn simultaneous_messages(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    let say = async |user: &User| {
        let mut sent = Vec::new();
        for number in 0..10 {
            sent.push(user.send_text(&room, &format!("{number}")).await);
        }
        sent
    };
    let (of_alice, of_bob) = tokio::join!(say(&alice), say(&bob));
    let sent: Vec<String> = [of_alice, of_bob].concat();
    for reader in [&alice, &bob] {
        for event_id in &sent {
            sees(reader, &room, event_id).await;
        }
    }
    converse(&room, &[&alice, &bob]).await;
    for reader in [&alice, &bob] {
        let events = pages(reader, &room).await;
        let ids: Vec<_> = events.iter().map(|event| text(event, "event_id")).collect();
        let once: BTreeSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), once.len(), "nothing is there twice");
        assert!(sent.iter().all(|id| once.contains(id)), "nothing is missing");
    }
    agree(&room, &alice, &bob).await;
}

/// Makes a user a moderator, and waits until the user's server knows.
async fn promote(alice: &User, room: &str, user: &User) {
    let mut levels = state(alice, room, "m.room.power_levels", "").await.ok();
    levels["users"][&user.user_id] = json!(50);
    let event_id = alice.set_state(room, "m.room.power_levels", "", levels).await;
    sees(user, room, &event_id).await;
}

pub async fn simultaneous_state(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    promote(&alice, &room, &bob).await;
    for round in 0..4 {
        let set = async |user: &User| {
            let content = |what: &str| json!({ "topic": format!("{what} {round} of {}", user.user_id) });
            let first = user.set_state(&room, "m.room.topic", "", content("first")).await;
            let second = user.set_state(&room, "org.example.topic", "", content("second")).await;
            [first, second]
        };
        let (of_alice, of_bob) = tokio::join!(set(&alice), set(&bob));
        for event_id in of_alice {
            sees(&bob, &room, &event_id).await;
        }
        for event_id in of_bob {
            sees(&alice, &room, &event_id).await;
        }
        agree(&room, &alice, &bob).await;
    }
    converse(&room, &[&alice, &bob]).await;
    agree(&room, &alice, &bob).await;
}

/// A moderator there changes the room while being banned here. Who is first is open, but not that both agree.
pub async fn bans_beat_what_they_race_with(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    let carol = town.remote("carol").await;
    join_via(&carol, &room, &[town.here.name()]).await.ok();
    meet(&room, &[&alice, &bob, &carol]).await;
    promote(&alice, &room, &bob).await;
    let topic = format!("rooms/{}/state/m.room.topic", encode(&room));
    let change = async |n: u32| -> (u16, Value) { bob.put(&topic, json!({ "topic": format!("by bob {n}") })).await };
    let banned = async || act(&alice, &room, "ban", &bob).await.ok();
    let (_, _) = tokio::join!(banned(), async {
        for n in 0..20 {
            if change(n).await.0 != 200 {
                break;
            }
        }
    });
    has_membership(&carol, &room, &bob, "ban").await;
    has_membership(&alice, &room, &bob, "ban").await;
    change(100).await.refused(403, "M_FORBIDDEN");
    converse(&room, &[&alice, &carol]).await;
    agree(&room, &alice, &carol).await;
}
