//! Restricted rooms.

use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use super::world::{World, is_refused, local, read, remote, with_world};
use crate::flows::hosting::{Step, join};

/// A room that members of `allowed` may join.
async fn restricted(world: &World, version: &str, allowed: &[&RoomId]) -> OwnedRoomId {
    let room_id = world.room(version, "private_chat").await;
    let allow: Vec<Value> = allowed
        .iter()
        .map(|room_id| json!({ "type": "m.room_membership", "room_id": room_id }))
        .collect();
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    world.state(&room_id, "m.room.join_rules", "", &rule).await;
    room_id
}

#[test]
fn members_of_another_room_are_let_in() {
    with_world(|world| async move {
        for version in ["8", "10", "11", "12"] {
            let club = world.room(version, "public_chat").await;
            let room_id = restricted(&world, version, &[&club]).await;
            let yves = remote("yves");
            is_refused(world.make(&room_id, &yves, Step::Join).await, 403, "M_FORBIDDEN");
            world.shake(&club, &yves, Step::Join).await.expect("public");
            let template = world.make(&room_id, &yves, Step::Join).await.expect("in the club");
            let event = serde_json::to_value(&template.event).expect("JSON");
            assert_eq!(
                event["content"]["join_authorised_via_users_server"],
                json!(local("alice"))
            );
            let (id, pdu) = world.sign(&template);
            let accepted = world
                .send(&room_id, (&id, &pdu), Step::Join)
                .await
                .expect("vouched for");
            assert!(world.view(&room_id).await.is_joined(&yves), "{version}");
            let answer = read(join(world.hub.env(), &accepted, false).await);
            let signatures = answer["event"]["signatures"].as_object().expect("signed");
            assert!(
                signatures.contains_key("x") && signatures.contains_key("y"),
                "{version}"
            );
            assert_eq!(answer["event"]["hashes"], pdu["hashes"]);
        }
    });
}

#[test]
fn who_cannot_be_let_in_is_told_why() {
    with_world(|world| async move {
        let yves = remote("yves");
        let club = world.room("11", "public_chat").await;
        let elsewhere = ruma::room_id!("!elsewhere:z");
        let both = restricted(&world, "11", &[&club, elsewhere]).await;
        is_refused(
            world.make(&both, &yves, Step::Join).await,
            400,
            "M_UNABLE_TO_AUTHORISE_JOIN",
        );
        let nobody = restricted(&world, "11", &[]).await;
        is_refused(world.make(&nobody, &yves, Step::Join).await, 403, "M_FORBIDDEN");

        world.shake(&club, &yves, Step::Join).await.expect("public");
        world.make(&both, &yves, Step::Join).await.expect("one room is enough");
        // Who is invited needs nobody to vouch.
        world
            .state(&both, "m.room.member", "@yvonne:y", &json!({ "membership": "invite" }))
            .await;
        let template = world.make(&both, &remote("yvonne"), Step::Join).await.expect("invited");
        let event = serde_json::to_value(&template.event).expect("JSON");
        assert_eq!(event["content"], json!({ "membership": "join" }));
        world
            .shake(&both, &remote("yvonne"), Step::Join)
            .await
            .expect("invited");
        // Nobody here may invite: somebody of another server might.
        let levels = json!({ "users": { "@alice:x": 50 }, "invite": 100 });
        world.state(&both, "m.room.power_levels", "", &levels).await;
        is_refused(
            world.make(&both, &yves, Step::Join).await,
            400,
            "M_UNABLE_TO_GRANT_JOIN",
        );
    });
}

#[test]
fn what_held_for_the_template_must_hold_for_the_join() {
    with_world(|world| async move {
        let yves = remote("yves");
        let club = world.room("11", "public_chat").await;
        let room_id = restricted(&world, "11", &[&club]).await;
        world.shake(&club, &yves, Step::Join).await.expect("public");
        let template = world.make(&room_id, &yves, Step::Join).await.expect("in the club");
        let (id, pdu) = world.sign(&template);
        world.shake(&club, &yves, Step::Leave).await.expect("in the club");
        is_refused(world.send(&room_id, (&id, &pdu), Step::Join).await, 403, "M_FORBIDDEN");

        // Nobody vouches for oneself.
        world.shake(&club, &yves, Step::Join).await.expect("public");
        let mut event = serde_json::to_value(&template.event).expect("JSON");
        event["content"] = json!({ "membership": "join" });
        let (id, pdu) = world.sign_value(&event, "11");
        is_refused(world.send(&room_id, (&id, &pdu), Step::Join).await, 403, "M_FORBIDDEN");
        event["content"]["join_authorised_via_users_server"] = json!("@nobody:x");
        let (id, pdu) = world.sign_value(&event, "11");
        is_refused(world.send(&room_id, (&id, &pdu), Step::Join).await, 403, "M_FORBIDDEN");
        assert!(!world.view(&room_id).await.is_joined(&yves));
    });
}
