//! Who may ask.

use std::sync::Arc;

use entities::testing::each_backend;
use ruma::{MilliSecondsSinceUnixEpoch, RoomId, ServerName, UInt, room_id, server_name};
use serde_json::json;

use super::world::{World, read, refusal, unknown, y};
use crate::env::Env;
use crate::room::commit::tests::{env, made};
use crate::room::event::Pdu;
use crate::room::export::answers;
use crate::room::export::history::Gap;

type Refusal = (u16, String);

/// Every question of a server in the room, with what it is refused.
async fn ask_all(env: &Env, server: &ServerName, room_id: &RoomId, event: &Pdu) -> Vec<Refusal> {
    let id = &event.event_id;
    let named = std::slice::from_ref(id);
    let gap = Gap {
        earliest: &[],
        latest: named,
        min_depth: 0,
        limit: 10,
    };
    let now = MilliSecondsSinceUnixEpoch(UInt::MAX);
    vec![
        refusal(answers::event(env, server, id).await),
        refusal(answers::state(env, server, room_id, id).await),
        refusal(answers::state_ids(env, server, room_id, id).await),
        refusal(answers::event_auth(env, server, room_id, id).await),
        refusal(answers::backfill(env, server, room_id, named, 10).await),
        refusal(answers::missing(env, server, room_id, &gap).await),
        refusal(answers::near(env, server, room_id, now, true).await),
        refusal(answers::extremities(env, server, room_id).await),
    ]
}

fn all(status: u16, errcode: &str) -> Vec<Refusal> {
    vec![(status, errcode.to_owned()); 8]
}

#[tokio::test]
async fn only_servers_in_the_room_are_answered() {
    each_backend(|db| async move {
        let mut world = World::joined(env(db.store().await, 1).await, "11").await;
        let env: Arc<Env> = world.env.clone();
        let event = world.text("hello").await;
        let room_id = world.room_id.clone();
        let asked = ask_all(&env, server_name!("z"), &room_id, &event).await;
        assert_eq!(asked, all(403, "M_FORBIDDEN"));
        assert!(answers::state_ids(&env, y(), &room_id, &event.event_id).await.is_ok());

        let elsewhere = room_id!("!elsewhere:z");
        let refused = refusal(answers::state(&env, y(), elsewhere, &event.event_id).await);
        assert_eq!(refused, (404, "M_NOT_FOUND".to_owned()));

        world
            .remote("m.room.member", Some("@yves:y"), json!({ "membership": "leave" }))
            .await;
        assert_eq!(ask_all(&env, y(), &room_id, &event).await, all(403, "M_FORBIDDEN"));
    })
    .await;
}

#[tokio::test]
async fn servers_that_are_shut_out_are_not_answered() {
    each_backend(|db| async move {
        let world = World::joined(env(db.store().await, 2).await, "11").await;
        let event = world.text("hello").await;
        world
            .state("m.room.server_acl", json!({ "allow": ["*"], "deny": ["Y"] }))
            .await;
        let asked = ask_all(&world.env, y(), &world.room_id, &event).await;
        assert_eq!(asked, all(403, "M_FORBIDDEN"));
        let members = answers::members(&world.env, y(), &world.room_id, false).await;
        assert_eq!(refusal(members), (404, "M_NOT_FOUND".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn events_are_those_of_the_room() {
    each_backend(|db| async move {
        let world = World::joined(env(db.store().await, 3).await, "11").await;
        let other = made(&world.env, "11").await;
        let foreign = other.timeline.last().expect("there").pdu.event_id.clone();
        let missing = (404, "M_NOT_FOUND".to_owned());
        for id in [&*foreign, unknown()] {
            let (env, room_id) = (&world.env, &world.room_id);
            assert_eq!(refusal(answers::state(env, y(), room_id, id).await), missing);
            assert_eq!(refusal(answers::state_ids(env, y(), room_id, id).await), missing);
            assert_eq!(refusal(answers::event_auth(env, y(), room_id, id).await), missing);
            assert_eq!(refusal(answers::room_event(env, y(), room_id, id).await), missing);
            let backfill = read(answers::backfill(env, y(), room_id, &[id.to_owned()], 10).await);
            assert_eq!(backfill["pdus"], json!([]));
        }
        assert_eq!(refusal(answers::event(&world.env, y(), unknown()).await), missing);
        assert_eq!(refusal(answers::event(&world.env, y(), &foreign).await).0, 403);
    })
    .await;
}

#[tokio::test]
async fn what_strangers_learn_of_a_room() {
    each_backend(|db| async move {
        let world = World::joined(env(db.store().await, 4).await, "11").await;
        let (env, room_id, z) = (&world.env, &world.room_id, server_name!("z"));
        let hidden = world.text("for members").await;
        let missing = (404, "M_NOT_FOUND".to_owned());
        assert_eq!(refusal(answers::members(env, z, room_id, true).await), missing);
        assert_eq!(refusal(answers::join_rules(env, z, room_id).await), missing);
        assert_eq!(refusal(answers::room_auth(env, z, room_id).await), missing);
        assert_eq!(
            refusal(answers::room_event(env, z, room_id, &hidden.event_id).await),
            missing
        );
        // A public room tells how large it is.
        let state = world.room().await.state.len();
        let complexity = answers::complexity(env, z, room_id).await.expect("public");
        let shown = complexity["v1"].as_f64().expect("a number");
        assert!((shown * 500.0 - f64::from(u32::try_from(state).expect("few"))).abs() < 5.0 && shown > 0.0);
        world.state("m.room.join_rules", json!({ "join_rule": "invite" })).await;
        assert_eq!(refusal(answers::complexity(env, z, room_id).await), missing);

        let change = json!({ "history_visibility": "world_readable" });
        world.state("m.room.history_visibility", change).await;
        let open = world.text("for all").await;
        let members = answers::members(env, z, room_id, false).await.expect("readable");
        assert_eq!(members["joined"], json!(["@alice:x", "@yves:y"]));
        let profiles = answers::members(env, z, room_id, true).await.expect("readable");
        assert_eq!(profiles["joined"][1]["user_id"], "@yves:y");
        let rules = answers::join_rules(env, z, room_id).await.expect("readable");
        assert_eq!((&rules["join_rule"], &rules["allow"]), (&json!("invite"), &json!([])));
        let shown = answers::room_event(env, z, room_id, &open.event_id)
            .await
            .expect("readable");
        assert_eq!(
            (&shown["content"]["body"], &shown["event_id"]),
            (&json!("for all"), &json!(open.event_id))
        );
        assert_eq!(
            refusal(answers::room_event(env, z, room_id, &hidden.event_id).await),
            missing
        );
        assert!(answers::complexity(env, z, room_id).await.is_ok());
    })
    .await;
}
