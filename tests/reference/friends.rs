//! Section 6: friends.

use serde_json::{Value, json};

use super::{accounts::visitor, world::World};
use crate::common::client::text;

pub async fn walk(world: &mut World) {
    let (alice, bob) = (world.alice().clone(), world.bob().clone());
    let asked = world.section("6.1.2").done().await;
    world.section("6.1.2").refused(409, "M_CONFLICT").await;
    world
        .section("6.1.2")
        .body(json!({ "user_id": alice.user_id }))
        .refused(400, "M_INVALID_PARAM")
        .await;
    let incoming = world.section("6.1.6").by(&bob);
    let request = json!({ "user_id": "@", "message": "", "timestamp": 1, "status": "pending" });
    let incoming = incoming.like(json!({ "requests": [request] })).done().await;
    assert_eq!(incoming["requests"][0]["user_id"], alice.user_id);
    let outgoing = world.section("6.1.7").done().await;
    assert_eq!(outgoing["requests"][0]["user_id"], bob.user_id);
    let accepted = world
        .section("6.1.3")
        .by(&bob)
        .with("user_id", &alice.user_id)
        .done()
        .await;
    assert_eq!(
        (&accepted["room_id"], &accepted["status"]),
        (&asked["room_id"], &json!("accepted"))
    );

    world.section("6.1.9").with("user_id", &bob.user_id).done().await;
    let long = json!({ "note": "x".repeat(1_001) });
    world
        .section("6.1.9")
        .with("user_id", &bob.user_id)
        .body(long)
        .refused(400, "M_INVALID_PARAM")
        .await;
    world.section("6.1.10").with("user_id", &bob.user_id).done().await;
    let unknown = json!({ "status": "enemy" });
    world
        .section("6.1.10")
        .with("user_id", &bob.user_id)
        .body(unknown)
        .refused(400, "M_INVALID_PARAM")
        .await;
    let friends = world.section("6.1.1").done().await;
    assert_eq!(
        (&friends["total"], &friends["friends"][0]["note"]),
        (&json!(1), &json!("Met at conference"))
    );
    let info = world.section("6.1.11").with("user_id", &bob.user_id).done().await;
    assert_eq!(
        (&info["status"], &info["dm_room_id"]),
        (&json!("favorite"), &asked["room_id"])
    );
    direct_room(world, &text(&asked, "room_id")).await;

    world.section("6.1.8").with("user_id", &bob.user_id).done().await;
    world
        .section("6.1.8")
        .with("user_id", &bob.user_id)
        .refused(404, "M_NOT_FOUND")
        .await;
    world
        .section("6.1.11")
        .with("user_id", &bob.user_id)
        .refused(404, "M_NOT_FOUND")
        .await;

    let erin = visitor(world, "erin").await;
    let body = json!({ "user_id": erin.user_id });
    world.section("6.1.2").body(body.clone()).done().await;
    world
        .section("6.1.4")
        .by(&erin)
        .with("user_id", &alice.user_id)
        .done()
        .await;
    world.section("6.1.2").body(body).done().await;
    world.section("6.1.5").with("user_id", &erin.user_id).done().await;
    world
        .section("6.1.3")
        .by(&erin)
        .with("user_id", &alice.user_id)
        .refused(404, "M_NOT_FOUND")
        .await;
}

/// The room of two friends is a direct chat for every client.
async fn direct_room(world: &World, room: &str) {
    for (user, other) in [(world.alice(), world.bob()), (world.bob(), world.alice())] {
        let path = format!(
            "user/{}/account_data/m.direct",
            crate::common::client::encode(&user.user_id)
        );
        let (_, direct) = user.get(&path).await;
        let rooms = direct[&other.user_id].as_array();
        assert!(
            rooms.is_some_and(|rooms| rooms.contains(&Value::from(room))),
            "{direct}"
        );
    }
}
