//! Branches are joined, on both databases.

use entities::ids::RoomNid;
use entities::testing::each_backend;
use ruma::RoomVersionId;
use serde_json::json;

use super::super::commands::{Incoming, Ingest};
use super::super::commit::tests::{check_stored, env};
use super::super::elsewhere::Elsewhere;
use super::super::receive::receive;
use super::super::{import, plan};
use super::*;
use crate::room::commands::Verdict;

async fn with_branches(env: &Arc<Env>, count: usize, silent: bool) -> Arc<RoomSnapshot> {
    let mut elsewhere = Elsewhere::new("11");
    if silent {
        let levels = json!({ "users": { "@yves:y": 100 }, "events_default": 50 });
        elsewhere.send("m.room.power_levels", "@yves:y", Some(""), &levels);
    }
    let empty = plan::empty_room(
        RoomNid(0),
        elsewhere.room_id.clone(),
        RoomVersionId::V11,
        elsewhere.rules.clone(),
    );
    let made = import::import(env, &Arc::new(empty), elsewhere.import("@alice:x")).await;
    let room = made.ok().expect("a valid room").room;
    let (fork, state) = (elsewhere.head.clone(), elsewhere.state.clone());
    let pdus = (0..count).map(|nth| {
        let content = json!({ "body": nth.to_string() });
        let pdu = elsewhere.event_on(&[&fork], &state, "m.room.message", "@yves:y", None, &content);
        Incoming::of(&pdu)
    });
    let ingest = Ingest {
        pdus: pdus.collect(),
        outliers: Vec::new(),
    };
    match after(env, receive(env, &room, ingest).await).await {
        Received::Settled(room, verdicts) => {
            let verdicts = verdicts.expect("placed");
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Accepted));
            check_stored(env, &room).await;
            room
        }
        Received::InDoubt(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_branches_are_joined_without_a_word() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let room = with_branches(&env, 15, false).await;
        // All of them have one child now.
        assert_eq!(room.extremities.len(), 1);
        let ids: Vec<_> = room.extremities.iter().map(|end| end.event_id.clone()).collect();
        let ends = env.rooms.events_by_id(&ids).await.expect("readable");
        let dummy = ends.values().find(|event| event.pdu.is_dummy()).expect("there");
        assert_eq!(
            (dummy.pdu.sender.as_str(), dummy.pdu.prev_events.len()),
            ("@alice:x", 15)
        );
        assert!(room.timeline.iter().all(|event| !event.pdu.is_dummy()));
        assert_eq!(room.timeline.len(), 16);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_branches_and_rooms_without_a_voice_are_left_alone() {
    each_backend(|db| async move {
        let one = env(db.store().await, 1).await;
        assert_eq!(with_branches(&one, 10, false).await.extremities.len(), 10);
    })
    .await;
    each_backend(|db| async move {
        let other = env(db.store().await, 1).await;
        assert_eq!(with_branches(&other, 15, true).await.extremities.len(), 15);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_follows_every_branch() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        // One joining event after they came: the next is for a minute later.
        let room = with_branches(&env, 60, false).await;
        assert_eq!(room.extremities.len(), 41);
        let room = before(&env, room).await.expect("placed");
        assert_eq!(room.extremities.len(), 3);
        check_stored(&env, &room).await;
        let few = before(&env, room.clone()).await.expect("nothing to do");
        assert_eq!(few.pos, room.pos);
    })
    .await;
}
