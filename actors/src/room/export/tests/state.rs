//! States and auth chains.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use entities::testing::each_backend;
use ruma::OwnedEventId;
use serde_json::{Value, json};

use super::world::{World, read, refusal, y};
use crate::env::Env;
use crate::room::commit::tests::env;
use crate::room::event::Pdu;
use crate::room::export::answers;

fn set(ids: &Value) -> BTreeSet<String> {
    let ids = ids.as_array().expect("a list").iter();
    ids.map(|id| id.as_str().expect("an id").to_owned()).collect()
}

async fn ids_of(world: &World, pdus: &Value) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for pdu in pdus.as_array().expect("a list") {
        assert!(ids.insert(world.id_of(pdu).await.to_string()), "no event comes twice");
    }
    ids
}

/// The chain, walked event by event.
async fn chain_by_hand(world: &World, roots: &[OwnedEventId]) -> BTreeSet<String> {
    let room = world.room().await;
    let mut open: Vec<OwnedEventId> = roots.to_vec();
    let mut chain = BTreeSet::new();
    while let Some(id) = open.pop() {
        let event = world.env.rooms.event_by_id(&id).await.expect("the database answers");
        for id in &event.expect("stored").pdu.auth_events {
            if chain.insert(id.to_string()) {
                open.push(id.clone());
            }
        }
    }
    if room.rules.authorization.room_create_event_id_as_room_id {
        let create = room.state_event("m.room.create", "").expect("there");
        chain.insert(create.pdu.event_id.to_string());
    }
    chain
}

async fn at(world: &World, event: &Pdu) -> (Value, Value) {
    let (env, room_id) = (&world.env, &world.room_id);
    (
        read(answers::state(env, y(), room_id, &event.event_id).await),
        read(answers::state_ids(env, y(), room_id, &event.event_id).await),
    )
}

async fn states(env: Arc<Env>, version: &str) {
    let mut world = World::joined(env, version).await;
    let current = |room: &crate::room::snapshot::RoomSnapshot| -> BTreeSet<String> {
        let ids = room.state.values().map(|entry| entry.event.pdu.event_id.to_string());
        ids.collect()
    };
    let mut expected = HashMap::new();
    let mut events = Vec::new();
    for turn in 0..3 {
        let before = current(&*world.room().await);
        let name = world.state("m.room.name", json!({ "name": turn.to_string() })).await;
        expected.insert(name.event_id.clone(), before);
        let before = current(&*world.room().await);
        let profile = json!({ "membership": "join", "displayname": turn.to_string() });
        let member = world.remote("m.room.member", Some("@yves:y"), profile).await;
        expected.insert(member.event_id.clone(), before);
        let before = current(&*world.room().await);
        let text = world.text("hello").await;
        expected.insert(text.event_id.clone(), before);
        events.extend([name, member, text]);
    }
    for event in &events {
        let (state, ids) = at(&world, event).await;
        assert_eq!(set(&ids["pdu_ids"]), expected[&event.event_id], "{version}");
        assert_eq!(
            ids_of(&world, &state["pdus"]).await,
            expected[&event.event_id],
            "{version}"
        );
        let roots: Vec<_> = set(&ids["pdu_ids"])
            .into_iter()
            .filter_map(|id| id.try_into().ok())
            .collect();
        let chain = chain_by_hand(&world, &roots).await;
        assert_eq!(set(&ids["auth_chain_ids"]), chain, "{version}");
        assert_eq!(ids_of(&world, &state["auth_chain"]).await, chain, "{version}");
        assert_eq!(state["room_version"], version);

        let auth = answers::event_auth(&world.env, y(), &world.room_id, &event.event_id).await;
        let auth = ids_of(&world, &read(auth)["auth_chain"]).await;
        assert_eq!(auth, chain_by_hand(&world, std::slice::from_ref(&event.event_id)).await);
    }
}

#[tokio::test]
async fn states_come_with_their_auth_chains() {
    each_backend(|db| async move {
        let env = env(db.store().await, 5).await;
        for version in ["1", "3", "11", "12"] {
            states(env.clone(), version).await;
        }
    })
    .await;
}

#[tokio::test]
async fn long_auth_chains_are_read_in_few_generations() {
    each_backend(|db| async move {
        let first = env(db.store().await, 6).await;
        let mut world = World::joined(first, "11").await;
        let mut newest = None;
        for turn in 0..40 {
            let profile = json!({ "membership": "join", "displayname": format!("{turn}\u{0}") });
            newest = Some(world.remote("m.room.member", Some("@yves:y"), profile).await);
        }
        let newest = newest.expect("there");
        let expected = chain_by_hand(&world, std::slice::from_ref(&newest.event_id)).await;
        assert!(expected.len() > 40);
        // A new process, with nothing in memory.
        world.env = env(db.store().await, 7).await;
        let auth = answers::event_auth(&world.env, y(), &world.room_id, &newest.event_id).await;
        assert_eq!(ids_of(&world, &read(auth)["auth_chain"]).await, expected);
    })
    .await;
}

#[tokio::test]
async fn a_room_that_is_still_being_joined_tells_no_state() {
    each_backend(|db| async move {
        let world = World::joined(env(db.store().await, 8).await, "11").await;
        let event = world.text("hello").await;
        let partial = entities::partial_room::Model {
            room_nid: world.room().await.nid.0,
            event_id: event.event_id.to_string(),
            via: "y".to_owned(),
            servers: "[]".to_owned(),
            started_ts: 1,
        };
        let rows = entities::store::rows::Rows {
            partial_rooms: vec![partial],
            ..Default::default()
        };
        world.env.store.import(&rows).await.expect("stored");
        let (env, room_id, id) = (&world.env, &world.room_id, &event.event_id);
        let missing = (404, "M_NOT_FOUND".to_owned());
        assert_eq!(refusal(answers::state(env, y(), room_id, id).await), missing);
        assert_eq!(refusal(answers::state_ids(env, y(), room_id, id).await), missing);
        assert!(answers::event(env, y(), id).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn extremities_are_what_a_new_event_follows() {
    each_backend(|db| async move {
        let mut world = World::joined(env(db.store().await, 9).await, "11").await;
        let root = world.text("root").await;
        let left = world.text("left").await;
        let body = json!({ "body": "right" });
        let right = world.event_on(&[&root], "m.room.message", None, body).await;
        world.ingest(std::slice::from_ref(&right)).await;
        let told = answers::extremities(&world.env, y(), &world.room_id)
            .await
            .expect("shared");
        let expected = [&left.event_id, &right.event_id].map(ToString::to_string);
        assert_eq!(set(&told["prev_events"]), BTreeSet::from(expected));
    })
    .await;
}
