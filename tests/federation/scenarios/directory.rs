//! Profiles, aliases and public rooms of another server.

use serde_json::{Value, json};

use super::{eventually, has_state, shared_room, strings};
use crate::common::{
    client::{AnswerExt, encode, text},
    db::unique,
    homeserver::Town,
};

pub async fn profiles(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    let picture = format!("mxc://{}/picture", town.there.name());
    let own = format!("profile/{}", encode(&bob.user_id));
    for name in ["Bob", "Robert \u{1F375}"] {
        bob.put(&format!("{own}/displayname"), json!({ "displayname": name }))
            .await
            .ok();
        eventually("the name", async || {
            let (status, answer) = alice.get(&own).await;
            let found = status == 200 && answer["displayname"] == name;
            if found {
                Ok(())
            } else {
                Err(format!("{status} {answer}"))
            }
        })
        .await;
        has_state(
            &alice,
            &room,
            ("m.room.member", &bob.user_id),
            "/displayname",
            json!(name),
        )
        .await;
    }
    bob.put(&format!("{own}/avatar_url"), json!({ "avatar_url": picture }))
        .await
        .ok();
    has_state(
        &alice,
        &room,
        ("m.room.member", &bob.user_id),
        "/avatar_url",
        json!(picture),
    )
    .await;
    eventually("the picture", async || {
        let (status, answer) = alice.get(&format!("{own}/avatar_url")).await;
        let found = status == 200 && answer == json!({ "avatar_url": picture });
        if found {
            Ok(())
        } else {
            Err(format!("{status} {answer}"))
        }
    })
    .await;
    let nobody = format!("@{}:{}", unique("nobody"), town.there.name());
    alice
        .get(&format!("profile/{}", encode(&nobody)))
        .await
        .refused(404, "M_NOT_FOUND");
}

pub async fn aliases(town: &Town) {
    let (alice, bob) = town.people().await;
    let name = unique("tea");
    let options = json!({ "preset": "public_chat", "room_alias_name": name });
    let room = town.room(&alice, options).await;
    let path = format!("directory/room/{}", encode(&format!("#{name}:{}", town.here.name())));
    let found = bob.get(&path).await.ok();
    assert_eq!(found["room_id"], room.as_str());
    assert!(strings(&found["servers"]).contains(&town.here.name()), "{found}");
    let unknown = format!("#{}:{}", unique("nothing"), town.here.name());
    bob.get(&format!("directory/room/{}", encode(&unknown)))
        .await
        .refused(404, "M_NOT_FOUND");
    alice.delete(&path, None).await.ok();
    eventually("the end of the alias", async || {
        let (status, answer) = bob.get(&path).await;
        if status == 404 {
            Ok(())
        } else {
            Err(format!("{status} {answer}"))
        }
    })
    .await;
}

pub async fn public_rooms(town: &Town) {
    let (alice, bob) = town.people().await;
    let mut rooms = Vec::new();
    let name = unique("Tea");
    for number in 0..3 {
        let options = json!({ "visibility": "public", "preset": "public_chat", "name": format!("{name} {number}"), "topic": "Leaves" });
        rooms.push(town.room(&alice, options).await);
    }
    town.room(
        &alice,
        json!({ "visibility": "private", "preset": "public_chat", "name": format!("{name} unlisted") }),
    )
    .await;
    rooms.sort();
    let path = format!("publicRooms?server={}", encode(town.here.name()));
    let search = json!({ "filter": { "generic_search_term": name }, "limit": 50 });
    eventually("the rooms of the other server", async || {
        let (status, answer) = bob.post(&path, search.clone()).await;
        let mut found: Vec<_> = answer["chunk"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|room| text(room, "room_id"))
            .collect();
        found.sort();
        if status == 200 && found == rooms {
            Ok(())
        } else {
            Err(format!("{status} {answer}"))
        }
    })
    .await;
    let answer = bob.post(&path, search).await.ok();
    let room = &answer["chunk"][0];
    assert_eq!(
        (&room["topic"], &room["num_joined_members"]),
        (&json!("Leaves"), &json!(1)),
        "{room}"
    );
    // Page by page, without a filter.
    let mut seen: Vec<Value> = Vec::new();
    let mut since = String::new();
    loop {
        let page = bob.get(&format!("{path}&limit=2{since}")).await.ok();
        seen.extend(page["chunk"].as_array().cloned().unwrap_or_default());
        assert!(seen.len() < 10_000, "the list has no end");
        match page["next_batch"].as_str() {
            Some(next) => since = format!("&since={}", encode(next)),
            None => break,
        }
    }
    for room in &rooms {
        assert_eq!(
            seen.iter().filter(|found| found["room_id"] == room.as_str()).count(),
            1,
            "{room}"
        );
    }
}
