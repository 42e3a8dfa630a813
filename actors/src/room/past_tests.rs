//! History that is fetched later, on both databases.

use entities::ids::{RoomNid, StreamPos};
use entities::testing::each_backend;
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::super::commands::{Backfill, Incoming};
use super::super::commit::tests::{check_stored, env};
use super::super::elsewhere::Elsewhere;
use super::super::import::tests::ingest;
use super::super::{import, plan};
use super::*;
use crate::env::Env;
use crate::rng::Rng;

async fn joined(env: &Arc<Env>, room: &mut Elsewhere) -> Arc<RoomSnapshot> {
    let version = RoomVersionId::try_from(room.version.as_str()).expect("a version");
    let empty = plan::empty_room(RoomNid(0), room.room_id.clone(), version, room.rules.clone());
    let made = import::import(env, &Arc::new(empty), room.import("@alice:x")).await;
    made.ok().expect("a valid room").room
}

async fn fetch(
    env: &Arc<Env>,
    room: &Arc<RoomSnapshot>,
    events: Vec<Incoming>,
    outliers: &[Arc<Pdu>],
) -> (Arc<RoomSnapshot>, Vec<Verdict>) {
    let outliers = outliers.iter().map(|event| Incoming::of(event)).collect();
    let visible = env.visible();
    let before = (room.state_group, room.pos, room.extremities.clone());
    match backfill(env, room, Backfill { events, outliers }).await {
        Received::Settled(room, verdicts) => {
            check_stored(env, &room).await;
            assert_eq!((room.state_group, room.pos, room.extremities.clone()), before);
            assert!(env.visible() >= visible);
            (room, verdicts.expect("placed"))
        }
        Received::InDoubt(error) => panic!("{error}"),
    }
}

/// The ids of the whole timeline, oldest first, as readers find it.
async fn timeline(env: &Env, room: &RoomSnapshot) -> Vec<OwnedEventId> {
    let page = env.rooms.timeline_range(room.nid, None, None, 1_000, false).await;
    let events = page.expect("readable");
    events.iter().map(|event| event.pdu.event_id.clone()).collect()
}

fn ids(events: &[Arc<Pdu>]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.event_id.clone()).collect()
}

/// A room with some history, its import, and the batches in which the history comes: newest first.
async fn in_batches(env: Arc<Env>, version: &str, seed: u64) {
    let rng = Rng::seeded(seed);
    let mut room = Elsewhere::new(version);
    for nth in 0..30 {
        match nth % 6 {
            0 => drop(room.join(&format!("@u{nth}:z"))),
            1 => drop(room.send(
                "m.room.topic",
                "@yves:y",
                Some(""),
                &json!({ "topic": nth.to_string() }),
            )),
            2 => drop(room.member("@yves:y", &format!("@u{}:z", nth - 2), "ban")),
            _ => drop(room.text("@yves:y", &nth.to_string())),
        }
    }
    let history = room.events.clone();
    let mut snapshot = joined(&env, &mut room).await;
    let own = room.head.event_id.clone();
    let mut left = history.clone();
    while !left.is_empty() {
        let count = 1 + usize::try_from(rng.below(7)).expect("small");
        let batch = left.split_off(left.len().saturating_sub(count));
        let bottom = room.ids_before(&batch[0]);
        // What the state there held and holds no more is not known yet.
        let needed = room.chain(&room.before[&batch[0].event_id], &batch[0]);
        let mut events: Vec<Incoming> = batch.iter().map(|event| Incoming::of(event)).collect();
        events[0] = events[0].clone().with_state(bottom);
        // They come in any order.
        for at in (1..events.len()).rev() {
            events.swap(at, usize::try_from(rng.below(at as u64 + 1)).expect("small"));
        }
        let (newer, verdicts) = fetch(&env, &snapshot, events, &needed).await;
        assert!(
            verdicts.iter().all(|verdict| *verdict == Verdict::Accepted),
            "{verdicts:?}"
        );
        snapshot = newer;
        let wanted: Vec<OwnedEventId> = left.last().map(|event| event.event_id.clone()).into_iter().collect();
        assert_eq!(snapshot.gaps.keys().cloned().collect::<Vec<_>>(), wanted);
    }
    let whole = [ids(&history), vec![own]].concat();
    assert_eq!(timeline(&env, &snapshot).await, whole, "room version {version}");
    // Each event knows the state before it.
    for pdu in &history {
        let event = env
            .rooms
            .event_by_id(&pdu.event_id)
            .await
            .expect("readable")
            .expect("there");
        assert_eq!(event.status, Status::Accepted);
        assert!(event.pos.is_some_and(|pos| pos < StreamPos(0)));
        let state = env
            .rooms
            .state_at_group(event.state_group.expect("has one"))
            .await
            .expect("readable");
        let here: Vec<_> = state
            .iter()
            .map(|(key, e)| (key.clone(), e.pdu.event_id.clone()))
            .collect();
        let there = room.before[&pdu.event_id].iter();
        let there: Vec<_> = there.map(|(key, e)| (key.clone(), e.event_id.clone())).collect();
        assert_eq!(here, there, "{}", pdu.kind);
    }
    // All of it is known now.
    let again = history.iter().map(|event| Incoming::of(event)).collect();
    let (_, verdicts) = fetch(&env, &snapshot, again, &[]).await;
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Duplicate));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_comes_back_in_its_order() {
    each_backend(|db| async move {
        for (version, seed) in [("1", 1), ("6", 2), ("11", 3), ("12", 4)] {
            in_batches(env(db.store().await, seed).await, version, seed).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_middle_is_filled_in_its_place() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = Elsewhere::new("11");
        let snapshot = joined(&env, &mut room).await;
        let first = room.text("@yves:y", "heard");
        let missed: Vec<_> = (0..5).map(|nth| room.text("@yves:y", &nth.to_string())).collect();
        let last = room.text("@yves:y", "heard again");
        let (snapshot, _) = ingest(&env, &snapshot, vec![Incoming::of(&first)]).await;
        let unknown = Verdict::Missing(vec![missed[4].event_id.clone()]);
        let (snapshot, verdicts) = ingest(&env, &snapshot, vec![Incoming::of(&last)]).await;
        assert_eq!(verdicts, [unknown]);
        let given = Incoming::of(&last).with_state(room.ids_before(&last));
        let (snapshot, verdicts) = ingest(&env, &snapshot, vec![given]).await;
        assert_eq!(verdicts, [Verdict::Accepted]);
        check_stored(&env, &snapshot).await;
        assert_eq!(
            snapshot.extremities.len(),
            2,
            "nothing says that it follows what is here"
        );
        let gap = snapshot.gaps[&missed[4].event_id];
        assert!(snapshot.holes.contains_key(&gap.hole.expect("in the middle")));
        // The newer half, then the rest, which leads up to what was known.
        let half = [3, 4].map(|at| {
            let event = Incoming::of(&missed[at]);
            if at == 3 {
                event.with_state(room.ids_before(&missed[at]))
            } else {
                event
            }
        });
        let (snapshot, verdicts) = fetch(&env, &snapshot, half.to_vec(), &[]).await;
        assert_eq!(verdicts, [Verdict::Accepted, Verdict::Accepted]);
        let before = timeline(&env, &snapshot).await;
        assert_eq!(
            before[before.len() - 4..],
            [&first, &missed[3], &missed[4], &last].map(|e| e.event_id.clone())
        );
        let rest = missed[..3].iter().map(|event| Incoming::of(event)).collect();
        let (snapshot, verdicts) = fetch(&env, &snapshot, rest, &[]).await;
        assert_eq!(verdicts, [Verdict::Accepted, Verdict::Accepted, Verdict::Accepted]);
        assert!(
            snapshot.gaps.values().all(|gap| gap.hole.is_none()),
            "{:?}",
            snapshot.gaps
        );
        assert!(snapshot.holes.is_empty());
        let whole = [ids(&[first]), ids(&missed), ids(&[last])].concat();
        let after = timeline(&env, &snapshot).await;
        assert_eq!(after[after.len() - whole.len()..], whole);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_state_waits_and_what_is_not_authorized_is_hidden() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = Elsewhere::new("11");
        room.join("@zoe:z");
        let (head, state) = (room.head.clone(), room.state.clone());
        let topic = json!({ "topic": "mine" });
        let forged = Arc::new(room.event_on(&[&head], &state, "m.room.topic", "@zoe:z", Some(""), &topic));
        let next = Arc::new(room.event_on(&[&forged], &state, "m.room.message", "@zoe:z", None, &json!({})));
        room.append(next.clone());
        let snapshot = joined(&env, &mut room).await;
        let (snapshot, verdicts) = fetch(&env, &snapshot, vec![Incoming::of(&next)], &[]).await;
        assert_eq!(verdicts, [Verdict::Missing(vec![forged.event_id.clone()])]);
        let state: Arc<[OwnedEventId]> = state.values().map(|event| event.event_id.clone()).collect();
        let events = vec![Incoming::of(&forged).with_state(state), Incoming::of(&next)];
        let (snapshot, verdicts) = fetch(&env, &snapshot, events, &[]).await;
        assert!(matches!(verdicts[0], Verdict::Rejected(_)), "{verdicts:?}");
        assert_eq!(verdicts[1], Verdict::Accepted);
        // History goes on behind what was refused.
        assert_eq!(snapshot.gaps.keys().collect::<Vec<_>>(), [&head.event_id]);
        let shown = timeline(&env, &snapshot).await;
        assert!(shown.contains(&next.event_id) && !shown.contains(&forged.event_id));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redactions_prune_what_comes_after_them() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = Elsewhere::new("11");
        room.join("@zoe:z");
        let said = room.text("@yves:y", "oops");
        let meant = room.text("@yves:y", "stays");
        let snapshot = joined(&env, &mut room).await;
        let redact = |room: &mut Elsewhere, who: &str, what: &Pdu| {
            room.send("m.room.redaction", who, None, &json!({ "redacts": what.event_id }))
        };
        let redactions = [redact(&mut room, "@yves:y", &said), redact(&mut room, "@zoe:z", &meant)];
        let redactions = redactions.map(|event| Incoming::of(&event)).to_vec();
        let (snapshot, verdicts) = ingest(&env, &snapshot, redactions).await;
        assert_eq!(verdicts, [Verdict::Accepted, Verdict::Accepted]);
        assert!(snapshot.early_redactions);
        // Also after a restart.
        env.rooms.invalidate(&room.room_id);
        let snapshot = env.rooms.view(&room.room_id).await.expect("readable").expect("there");
        assert!(snapshot.early_redactions);
        let first = Incoming::of(&said).with_state(room.ids_before(&said));
        let (snapshot, verdicts) = fetch(&env, &snapshot, vec![first, Incoming::of(&meant)], &[]).await;
        assert_eq!(verdicts, [Verdict::Accepted, Verdict::Accepted]);
        let content = async |pdu: &Pdu| -> Value {
            let event = env
                .rooms
                .event_by_id(&pdu.event_id)
                .await
                .expect("readable")
                .expect("there");
            event.pdu.content_as().expect("an object")
        };
        assert_eq!(content(&said).await, json!({}));
        assert_eq!(content(&meant).await["body"], "stays", "zoe has no power");
        env.rooms.invalidate(&room.room_id);
        assert!(
            !env.rooms
                .view(&room.room_id)
                .await
                .expect("readable")
                .expect("there")
                .early_redactions
        );
        drop(snapshot);
    })
    .await;
}
