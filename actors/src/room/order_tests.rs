//! However events come, the room is the same, on both databases.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use entities::ids::RoomNid;
use entities::testing::each_backend;
use ruma::RoomVersionId;

use super::super::commands::{Import, Incoming};
use super::super::commit::tests::{check_stored, env};
use super::super::import::tests::ingest_all;
use super::super::resolve::StateIds;
use super::super::rules::rules_of;
use super::super::simulation::{History, history};
use super::super::{import, plan};
use super::*;
use crate::env::Env;
use crate::rng::Rng;

/// The room as `x` has it once one of its users has joined. `before`: the state before the join.
async fn joined(env: &Arc<Env>, version: &str, history: &History, join: &Pdu, before: &StateIds) -> Arc<RoomSnapshot> {
    let by_id: HashMap<_, _> = history.events.iter().map(|pdu| (&pdu.event_id, pdu)).collect();
    let mut open: Vec<&OwnedEventId> = before.values().chain(&join.auth_events).collect();
    let mut needed = HashSet::new();
    while let Some(id) = open.pop() {
        if needed.insert(id) {
            open.extend(&by_id[id].auth_events);
        }
    }
    let events = history.events.iter().filter(|pdu| needed.contains(&pdu.event_id));
    let import = Import {
        version: version.to_owned(),
        state: before.values().cloned().collect(),
        events: events.map(|pdu| Incoming::of(pdu)).collect(),
        join: Incoming::of(join),
        partial: None,
    };
    let id = RoomVersionId::try_from(version).expect("a version");
    let rules = rules_of(version).expect("supported");
    let empty = plan::empty_room(RoomNid(0), join.room_id.clone(), id, rules);
    let made = import::import(env, &Arc::new(empty), import).await;
    made.ok().expect("a valid room").room
}

/// Gives the room events in a random order, some at a time, until all have their place. What nobody has the parents of comes
/// with its state.
async fn give(
    env: &Arc<Env>,
    mut room: Arc<RoomSnapshot>,
    events: &[Arc<Pdu>],
    states: &HashMap<OwnedEventId, Arc<[OwnedEventId]>>,
    rng: &Rng,
) -> Arc<RoomSnapshot> {
    let mut waiting: Vec<Arc<Pdu>> = events.to_vec();
    while !waiting.is_empty() {
        let before = waiting.len();
        for at in (1..waiting.len()).rev() {
            waiting.swap(at, usize::try_from(rng.below(at as u64 + 1)).expect("small"));
        }
        let mut left = Vec::new();
        let mut rest = waiting.into_iter().peekable();
        while rest.peek().is_some() {
            let count = 1 + usize::try_from(rng.below(12)).expect("small");
            let pdus: Vec<Arc<Pdu>> = rest.by_ref().take(count).collect();
            let incoming = pdus.iter().map(|pdu| Incoming {
                state_before: states.get(&pdu.event_id).cloned(),
                ..Incoming::of(pdu)
            });
            let (newer, verdicts) = ingest_all(env, &room, incoming.collect(), events).await;
            room = newer;
            let missing = pdus.into_iter().zip(verdicts);
            left.extend(
                missing
                    .filter(|(_, v)| matches!(v, Verdict::Missing(_)))
                    .map(|(pdu, _)| pdu),
            );
        }
        assert!(left.len() < before, "{} events never find their parents", left.len());
        waiting = left;
    }
    room
}

fn ids(room: &RoomSnapshot) -> StateIds {
    let entries = room.state.iter();
    entries
        .map(|(key, entry)| (key.clone(), entry.event.pdu.event_id.clone()))
        .collect()
}

/// Everything is stored as the servers of the simulation have it.
async fn check(env: &Arc<Env>, room: &RoomSnapshot, history: &History) {
    check_stored(env, room).await;
    for pdu in &history.events {
        let stored = env
            .rooms
            .event_by_id(&pdu.event_id)
            .await
            .expect("readable")
            .expect("stored");
        let Some(group) = stored.state_group else { continue };
        let rejected = stored.status == Status::Rejected;
        assert_eq!(rejected, history.rejected.contains(&pdu.event_id), "{}", pdu.event_id);
        let state = env.rooms.state_at_group(group).await.expect("readable");
        let mut after: StateIds = state
            .iter()
            .map(|(key, e)| (key.clone(), e.pdu.event_id.clone()))
            .collect();
        if let Some(key) = pdu.key().filter(|_| !rejected) {
            after.insert(key, pdu.event_id.clone());
        }
        assert_eq!(after, history.after[&pdu.event_id], "the state after {}", pdu.json);
    }
}

/// Whether the room ended as in the simulation; where late events were soft-failed it may not have.
fn agrees(room: &RoomSnapshot, history: &History) -> bool {
    let ends: HashSet<_> = room.extremities.iter().map(|end| end.event_id.clone()).collect();
    if ends != history.extremities {
        return false;
    }
    assert_eq!(ids(room), history.current);
    true
}

async fn from_the_beginning(env: Arc<Env>, version: &str, seed: u64) -> bool {
    let history = history(version, seed, 30);
    let [create, join, rest @ ..] = &*history.events else {
        panic!("no room");
    };
    let before = history.after[&create.event_id].clone();
    let room = joined(&env, version, &history, join, &before).await;
    let rng = Rng::seeded(seed);
    let (wild, calm) = rest.split_at(history.wild - 2);
    let mut room = give(&env, room, wild, &HashMap::new(), &rng).await;
    for pdu in calm {
        room = give(&env, room, std::slice::from_ref(pdu), &HashMap::new(), &rng).await;
    }
    check(&env, &room, &history).await;
    agrees(&room, &history)
}

async fn from_a_later_join(env: Arc<Env>, version: &str, seed: u64) -> bool {
    let history = history(version, seed, 30);
    let is_join = |pdu: &Arc<Pdu>| pdu.is_state("m.room.member", "@u1:x");
    let at = history.events.iter().position(is_join).expect("they join early");
    let join = &history.events[at];
    let [parent] = &*join.prev_events else { return true };
    let room = joined(&env, version, &history, join, &history.after[parent].clone()).await;
    // What the room has seen by then is not told again.
    let by_id: HashMap<_, _> = history.events.iter().map(|pdu| (&pdu.event_id, pdu)).collect();
    let mut past = HashSet::new();
    let mut open = vec![&join.event_id];
    while let Some(id) = open.pop() {
        if past.insert(id) {
            open.extend(&by_id[id].prev_events);
        }
    }
    let rest: Vec<Arc<Pdu>> = history
        .events
        .iter()
        .filter(|pdu| !past.contains(&pdu.event_id))
        .cloned()
        .collect();
    let calm = history.events.len() - history.wild;
    let (wild, calm) = rest.split_at(rest.len() - calm);
    // Beside the join others went on from what was before it.
    let beside = wild.iter().filter(|pdu| {
        pdu.prev_events
            .iter()
            .any(|id| past.contains(id) && *id != join.event_id)
    });
    let states = beside.map(|pdu| {
        let parents: Vec<StateIds> = pdu.prev_events.iter().map(|id| history.after[id].clone()).collect();
        assert_eq!(parents.len(), 1, "the room begins quietly");
        let ids: Vec<OwnedEventId> = parents[0].values().cloned().collect();
        (pdu.event_id.clone(), Arc::from(ids))
    });
    let states: HashMap<OwnedEventId, Arc<[OwnedEventId]>> = states.collect();
    let rng = Rng::seeded(seed);
    let mut room = give(&env, room, wild, &states, &rng).await;
    for pdu in calm {
        room = give(&env, room, std::slice::from_ref(pdu), &HashMap::new(), &rng).await;
    }
    check(&env, &room, &history).await;
    agrees(&room, &history)
}

const VERSIONS: [&str; 5] = ["1", "2", "6", "11", "12"];

/// Runs a test in every version, on a database of its own each, and demands that most rooms ended as in the simulation.
async fn in_all_versions<F: Future<Output = bool> + Send>(
    first_seed: u64,
    test: impl Fn(Arc<Env>, &'static str, u64) -> F + Copy + Send + Sync,
) {
    let agreed = Arc::new(AtomicUsize::new(0));
    for (version, seed) in VERSIONS.into_iter().zip(first_seed..) {
        let agreed = agreed.clone();
        each_backend(|db| {
            let agreed = agreed.clone();
            async move {
                let env = env(db.store().await, seed).await;
                let alike = test(env, version, seed).await;
                agreed.fetch_add(usize::from(alike), Ordering::Relaxed);
            }
        })
        .await;
    }
    let agreed = agreed.load(Ordering::Relaxed);
    assert!(agreed > VERSIONS.len() / 2, "only {agreed} rooms ended alike");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_order_gives_the_same_room() {
    in_all_versions(1, from_the_beginning).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_join_gives_the_same_room() {
    in_all_versions(11, from_a_later_join).await;
}
