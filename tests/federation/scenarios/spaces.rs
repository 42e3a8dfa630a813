//! Spaces whose rooms are on several servers.

use serde_json::{Value, json};

use super::{eventually, join_via, meet};
use crate::common::{
    client::{AnswerExt, User, encode, text},
    homeserver::Town,
};

async fn add_child(user: &User, space: &str, child: &str, via: &str) {
    user.set_state(space, "m.space.child", child, json!({ "via": [via] }))
        .await;
}

/// The rooms that a user finds in a space.
async fn rooms(user: &User, space: &str) -> Result<Vec<Value>, String> {
    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy?limit=50", encode(space));
    let (status, answer) = user.get(&path).await;
    let rooms = answer["rooms"].as_array().filter(|_| status == 200);
    rooms.cloned().ok_or_else(|| format!("{status} {answer}"))
}

pub async fn hierarchy(town: &Town) {
    let (alice, bob) = town.people().await;
    let make = async |user: &User, name: &str, space: bool| {
        let creation = if space { json!({ "type": "m.space" }) } else { json!({}) };
        let options = json!({ "preset": "public_chat", "name": name, "creation_content": creation });
        town.room(user, options).await
    };
    let space = make(&alice, "Space", true).await;
    let (near, far) = (make(&alice, "Near", false).await, make(&bob, "Far", false).await);
    let (inner, deep) = (make(&bob, "Inner", true).await, make(&bob, "Deep", false).await);
    let closed = town
        .room(&bob, json!({ "preset": "private_chat", "name": "Closed" }))
        .await;
    add_child(&bob, &inner, &deep, town.there.name()).await;
    add_child(&alice, &space, &near, town.here.name()).await;
    for child in [&far, &inner, &closed] {
        add_child(&alice, &space, child, town.there.name()).await;
    }
    let mut expected = vec![space.clone(), near.clone(), far.clone(), inner.clone(), deep.clone()];
    expected.sort();
    eventually("the rooms of both servers", async || {
        let rooms = rooms(&alice, &space).await?;
        let mut found: Vec<_> = rooms.iter().map(|room| text(room, "room_id")).collect();
        found.sort();
        if found == expected {
            Ok(())
        } else {
            Err(format!("{rooms:#?}"))
        }
    })
    .await;
    let summary = rooms(&alice, &space).await.expect("it was there before");
    let far_room = summary.iter().find(|room| room["room_id"] == far.as_str());
    let far_room = far_room.expect("it was there before");
    assert_eq!(
        (&far_room["name"], &far_room["join_rule"]),
        (&json!("Far"), &json!("public")),
        "{far_room}"
    );

    // And from there: the rooms that bob is not in are here.
    join_via(&bob, &space, &[town.here.name()]).await.ok();
    meet(&space, &[&alice, &bob]).await;
    expected.push(closed);
    expected.sort();
    eventually("the rooms of both servers from there", async || {
        let rooms = rooms(&bob, &space).await?;
        let mut found: Vec<_> = rooms.iter().map(|room| text(room, "room_id")).collect();
        found.sort();
        if found == expected {
            Ok(())
        } else {
            Err(format!("{rooms:#?}"))
        }
    })
    .await;
}
