//! One of the two servers is away for a while, or dies in the middle of things.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Feed, PATIENCE, converse, eventually, join_via,
    keys::{has_changed, has_devices, localpart, numbers, send, upload},
    meet, shared_room,
    signing::device_keys,
    texts,
};
use crate::common::{
    client::{AnswerExt, User, encode},
    homeserver::Town,
};

/// Two rooms with the same two people.
async fn two_rooms(town: &Town) -> (User, User, [String; 2]) {
    let (alice, bob, first) = shared_room(town).await;
    let second = town.room(&alice, json!({ "preset": "public_chat" })).await;
    join_via(&bob, &second, &[town.here.name()]).await.ok();
    meet(&second, &[&alice, &bob]).await;
    (alice, bob, [first, second])
}

/// Waits until a user's server has these messages, each once and in this order.
async fn has_texts(user: &User, room: &str, expected: &[String]) {
    eventually(&format!("all messages at {}", user.user_id), async || {
        let found = texts(user, room).await;
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?} instead of {expected:?}"))
        }
    })
    .await;
}

pub async fn of_the_other(town: &Town) {
    let (alice, bob, rooms) = two_rooms(town).await;
    for room in &rooms {
        converse(room, &[&alice, &bob]).await;
    }
    town.there.stop().await;
    let mut said = [texts(&alice, &rooms[0]).await, texts(&alice, &rooms[1]).await];
    for number in 0..15 {
        for (room, said) in rooms.iter().zip(&mut said) {
            let body = format!("{number} during the outage");
            alice.send_text(room, &body).await;
            said.push(body);
        }
    }
    alice
        .set_state(&rooms[0], "m.room.topic", "", json!({ "topic": "missed" }))
        .await;
    town.there.restart().await;
    town.here.forgive(town.there.name()).await;
    for (room, said) in rooms.iter().zip(&said) {
        has_texts(&bob, room, said).await;
    }
    super::has_state(&bob, &rooms[0], ("m.room.topic", ""), "/topic", json!("missed")).await;

    // The same again, but now the server that comes back is the first to say something.
    town.there.kill();
    for (room, said) in rooms.iter().zip(&mut said) {
        alice.send_text(room, "unheard").await;
        said.push("unheard".to_owned());
    }
    town.there.restart().await;
    let body = "I am back".to_owned();
    bob.send_text(&rooms[1], &body).await;
    has_texts(&bob, &rooms[0], &said[0]).await;
    eventually("everything in the room that was written to", async || {
        let [mut here, mut there] = [texts(&alice, &rooms[1]).await, texts(&bob, &rooms[1]).await];
        let mut expected = said[1].clone();
        expected.push(body.clone());
        for list in [&mut here, &mut there, &mut expected] {
            list.sort();
        }
        if here == expected && there == expected {
            Ok(())
        } else {
            Err(format!("{here:?} {there:?}"))
        }
    })
    .await;
    for room in &rooms {
        converse(room, &[&alice, &bob]).await;
    }
}

/// Sends with the same transaction id until the server has said yes.
pub async fn insist(user: &User, room: &str, body: &str) {
    let path = format!("rooms/{}/send/m.room.message/{}", encode(room), user.next_txn_id());
    let content = json!({ "msgtype": "m.text", "body": body });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = user
            .client
            .try_request("PUT", &path, Some(&user.token), Some(&content))
            .await;
        match answer {
            Ok((200, _)) => return,
            Ok((status, answer)) if status < 500 => panic!("{body} is refused with {status}: {answer}"),
            Ok(_) | Err(_) => assert!(Instant::now() < deadline, "{body} cannot be sent"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nothing is lost and nothing is there twice, on either server.
pub async fn complete(readers: [&User; 2], room: &str, expected: &[String]) {
    for reader in readers {
        eventually(&format!("every message once at {}", reader.user_id), async || {
            let mut counts = BTreeMap::<String, usize>::new();
            for text in texts(reader, room).await {
                *counts.entry(text).or_default() += 1;
            }
            let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
            assert!(doubled.is_empty(), "doubled: {doubled:?}");
            let missing: Vec<_> = expected.iter().filter(|text| !counts.contains_key(*text)).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("missing: {missing:?}"))
            }
        })
        .await;
    }
}

/// Messages to devices are as durable as events.
pub async fn to_device(town: &Town) {
    let (alice, bob, _) = shared_room(town).await;
    // So that the devices are known where they are written to.
    for (user, other) in [(&alice, &bob), (&bob, &alice)] {
        user.post("keys/upload", json!({ "device_keys": device_keys(user) }))
            .await
            .ok();
        let asked = json!({ "device_keys": { &user.user_id: [] } });
        other.post("keys/query", asked).await.ok();
    }
    let mut feed = Feed::open(&bob).await;
    town.there.kill();
    for number in 0..5 {
        send(&alice, &bob, &bob.device_id, number).await;
    }
    town.here.kill();
    town.here.restart().await;
    for number in 5..10 {
        send(&alice, &bob, &bob.device_id, number).await;
    }
    town.there.restart().await;
    town.here.forgive(town.there.name()).await;
    assert_eq!(numbers(&mut feed, &alice, 9).await, (0..10).collect::<Vec<u64>>());
}

/// What happened to devices while nobody could be told is told later: who does not know of a device gives it no keys.
pub async fn device_lists(town: &Town) {
    let (alice, bob, _) = shared_room(town).await;
    upload(&bob, json!({ "device_keys": device_keys(&bob) })).await;
    has_devices(&alice, &bob, &[&bob]).await;
    let second = User::login(town.there.client(), localpart(&bob)).await;
    upload(&second, json!({ "device_keys": device_keys(&second) })).await;
    has_devices(&alice, &bob, &[&bob, &second]).await;
    let mut feed = Feed::open(&alice).await;
    town.here.kill();
    second.post("logout", json!({})).await.ok();
    let third = User::login(town.there.client(), localpart(&bob)).await;
    upload(&third, json!({ "device_keys": device_keys(&third) })).await;
    town.here.restart().await;
    town.there.forgive(town.here.name()).await;
    feed.until("the new device", |sync| has_changed(sync, &bob)).await;
    has_devices(&alice, &bob, &[&bob, &third]).await;
}

const KILLS: usize = 3;
const MESSAGES: usize = 60;

pub async fn receiver_killed(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    let said: Vec<String> = (0..MESSAGES).map(|number| format!("{number}")).collect();
    let speak = async {
        for body in &said {
            insist(&alice, &room, body).await;
        }
    };
    let interrupt = async {
        for round in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(150 + 130 * round as u64)).await;
            town.there.kill();
            town.there.restart().await;
            town.here.forgive(town.there.name()).await;
        }
    };
    tokio::join!(speak, interrupt);
    complete([&alice, &bob], &room, &said).await;
    converse(&room, &[&bob, &alice]).await;
}

pub async fn sender_killed(town: &Town) {
    let (alice, bob, rooms) = two_rooms(town).await;
    let said: Vec<String> = (0..MESSAGES).map(|number| format!("{number}")).collect();
    let speak = async {
        for body in &said {
            tokio::join!(insist(&alice, &rooms[0], body), insist(&alice, &rooms[1], body));
        }
    };
    let interrupt = async {
        for round in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(120 + 170 * round as u64)).await;
            town.here.kill();
            town.here.restart().await;
        }
    };
    tokio::join!(speak, interrupt);
    for room in &rooms {
        complete([&alice, &bob], room, &said).await;
    }
    // The last kill comes right after an answer, while the receiver is away: what was promised stands in the database only.
    town.there.kill();
    for room in &rooms {
        insist(&alice, room, "promised").await;
    }
    town.here.kill();
    town.there.restart().await;
    town.here.restart().await;
    town.here.forgive(town.there.name()).await;
    for room in &rooms {
        complete([&alice, &bob], room, &["promised".to_owned()]).await;
        converse(room, &[&alice, &bob]).await;
    }
}
