//! Leaves and knocks.

use serde_json::{Value, json};

use super::world::{is_refused, raw, read, remote, with_world};
use crate::flows::hosting::{Step, knock};
use crate::room::commands::Draft;
use crate::room::membership::join_rule;

#[test]
fn users_of_other_servers_leave() {
    with_world(|world| async move {
        for version in ["1", "11", "12"] {
            let room_id = world.room(version, "public_chat").await;
            let yves = remote("yves");
            is_refused(world.make(&room_id, &yves, Step::Leave).await, 403, "M_FORBIDDEN");
            world.shake(&room_id, &yves, Step::Join).await.expect("public");
            world.shake(&room_id, &yves, Step::Leave).await.expect("joined");
            assert_eq!(world.view(&room_id).await.membership(&yves), "leave", "{version}");
            assert_eq!(world.view(&room_id).await.joined_servers.len(), 1);
        }
    });
}

#[test]
fn invites_are_rejected_by_leaving() {
    with_world(|world| async move {
        let room_id = world.room("11", "private_chat").await;
        let yves = remote("yves");
        let invite = Draft::state(
            super::world::local("alice"),
            "m.room.member",
            yves.as_str(),
            raw(&json!({ "membership": "invite" })),
        );
        world.hub.rooms().send(&room_id, invite).await.expect("allowed");
        assert_eq!(world.view(&room_id).await.membership(&yves), "invite");
        world.shake(&room_id, &yves, Step::Leave).await.expect("invited");
        assert_eq!(world.view(&room_id).await.membership(&yves), "leave");
        // Nobody leaves for others.
        world
            .shake(&room_id, &yves, Step::Leave)
            .await
            .expect_err("not in the room");
    });
}

#[test]
fn users_of_other_servers_knock() {
    with_world(|world| async move {
        for version in ["7", "11", "12"] {
            let room_id = world.room(version, "private_chat").await;
            let yves = remote("yves");
            is_refused(world.make(&room_id, &yves, Step::Knock).await, 403, "M_FORBIDDEN");
            world
                .state(&room_id, "m.room.join_rules", "", &json!({ "join_rule": "knock" }))
                .await;
            assert_eq!(join_rule(&*world.view(&room_id).await), "knock");
            world
                .state(&room_id, "m.room.name", "", &json!({ "name": "Behind the door" }))
                .await;
            let accepted = world.shake(&room_id, &yves, Step::Knock).await.expect("open to knocks");
            assert_eq!(world.view(&room_id).await.membership(&yves), "knock", "{version}");
            let told = read(Ok(knock(&accepted)));
            let events = told["knock_room_state"].as_array().expect("a list");
            let find = |kind: &str| events.iter().find(|pdu| pdu["type"] == kind);
            assert_eq!(
                find("m.room.name").expect("there")["content"]["name"],
                "Behind the door"
            );
            let create: &Value = find("m.room.create").expect("there");
            assert!(
                create["signatures"]["x"].is_object() && create["auth_events"].is_array(),
                "a whole event"
            );
            assert!(find("m.room.member").is_none() && find("m.room.power_levels").is_none());

            // The knock is taken back, or answered by a ban.
            world.shake(&room_id, &yves, Step::Leave).await.expect("knocking");
            world
                .state(&room_id, "m.room.member", "@yves:y", &json!({ "membership": "ban" }))
                .await;
            is_refused(world.make(&room_id, &yves, Step::Knock).await, 403, "M_FORBIDDEN");
        }
        let old = world.room("6", "public_chat").await;
        is_refused(world.make(&old, &remote("yves"), Step::Knock).await, 403, "M_FORBIDDEN");
    });
}
