//! Backfill, missing events, times, and what of it is redacted.

use std::sync::Arc;

use entities::testing::each_backend;
use ruma::{EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, UInt};
use serde_json::{Value, json};

use super::world::{World, ids, read, refusal, unknown, y};
use crate::env::Env;
use crate::room::commands::Verdict;
use crate::room::commit::tests::{env, raw, user};
use crate::room::event::Pdu;
use crate::room::export::answers;
use crate::room::export::history::Gap;

async fn backfill(world: &World, from: &[OwnedEventId], limit: usize) -> Vec<Value> {
    let answer = read(answers::backfill(&world.env, y(), &world.room_id, from, limit).await);
    assert_eq!(answer["origin"], "x");
    answer["pdus"].as_array().expect("a list").clone()
}

async fn missing(world: &World, earliest: &[OwnedEventId], latest: &[OwnedEventId], min_depth: i64) -> Vec<Value> {
    missing_up_to(world, (earliest, latest), min_depth, 10).await
}

async fn missing_up_to(
    world: &World,
    (earliest, latest): (&[OwnedEventId], &[OwnedEventId]),
    min_depth: i64,
    limit: usize,
) -> Vec<Value> {
    let gap = Gap {
        earliest,
        latest,
        min_depth,
        limit,
    };
    let answer = read(answers::missing(&world.env, y(), &world.room_id, &gap).await);
    answer["events"].as_array().expect("a list").clone()
}

async fn named(world: &World, pdus: &[Value]) -> Vec<OwnedEventId> {
    let mut ids = Vec::new();
    for pdu in pdus {
        ids.push(world.id_of(pdu).await);
    }
    ids
}

#[tokio::test]
async fn backfill_goes_back_from_the_given_events() {
    each_backend(|db| async move {
        let mut world = World::joined(env(db.store().await, 11).await, "11").await;
        let mut texts = Vec::new();
        for n in 0..130 {
            texts.push(world.text(&n.to_string()).await);
        }
        let newest_first =
            |from: usize, count: usize| ids(&texts[from + 1 - count..=from].iter().rev().collect::<Vec<_>>());
        let from = |at: usize| ids(&[&texts[at]]);
        assert_eq!(
            named(&world, &backfill(&world, &from(129), 5).await).await,
            newest_first(129, 5)
        );
        assert_eq!(
            named(&world, &backfill(&world, &from(60), 50).await).await,
            newest_first(60, 50)
        );
        assert_eq!(
            backfill(&world, &from(129), 1_000).await.len(),
            100,
            "the most there is at a time"
        );
        assert_eq!(backfill(&world, &from(129), 0).await.len(), 0);
        let all = backfill(&world, &from(60), 100).await;
        assert_eq!(
            all.last().expect("there")["type"],
            "m.room.create",
            "back to the beginning"
        );

        // Both sides of a fork, the deepest first.
        let side = world
            .event_on(&[&texts[128]], "m.room.message", None, json!({ "body": "side" }))
            .await;
        assert_eq!(world.ingest(std::slice::from_ref(&side)).await, [Verdict::Accepted]);
        let merge = world.text("merge").await;
        let pdus = backfill(&world, &[merge.event_id.clone(), unknown().to_owned()], 4).await;
        let mut forked = named(&world, &pdus).await;
        assert_eq!(
            (forked.remove(0), forked.pop()),
            (merge.event_id.clone(), Some(texts[128].event_id.clone()))
        );
        forked.sort();
        let mut expected = vec![side.event_id.clone(), texts[129].event_id.clone()];
        expected.sort();
        assert_eq!(forked, expected);
    })
    .await;
}

#[tokio::test]
async fn missing_events_lie_between() {
    each_backend(|db| async move {
        let mut world = World::joined(env(db.store().await, 12).await, "11").await;
        let mut texts = Vec::new();
        for n in 0..12 {
            texts.push(world.text(&n.to_string()).await);
        }
        let (first, last) = (ids(&[&texts[2]]), ids(&[&texts[11]]));
        let between = missing(&world, &first, &last, 0).await;
        let expected: Vec<OwnedEventId> = texts[3..11].iter().map(|pdu| pdu.event_id.clone()).collect();
        assert_eq!(named(&world, &between).await, expected, "parents before children");
        let few = missing_up_to(&world, (&first, &last), 0, 3).await;
        assert_eq!(named(&world, &few).await, expected[5..], "those next to the latest");
        let deep = missing(&world, &[], &last, texts[9].depth).await;
        assert_eq!(named(&world, &deep).await, ids(&[&texts[9], &texts[10]]));
        assert!(missing(&world, &[], &[unknown().to_owned()], 0).await.is_empty());

        // Breadth first over both sides of a fork.
        let side = world
            .event_on(&[&texts[10]], "m.room.message", None, json!({ "body": "side" }))
            .await;
        world.ingest(std::slice::from_ref(&side)).await;
        let merge = world.text("merge").await;
        let latest = [merge.event_id.clone()];
        let found = named(&world, &missing(&world, &ids(&[&texts[9]]), &latest, 0).await).await;
        assert_eq!(found[0], texts[10].event_id);
        let mut fork = found[1..].to_vec();
        fork.sort();
        let mut expected = vec![side.event_id.clone(), texts[11].event_id.clone()];
        expected.sort();
        assert_eq!(fork, expected);
    })
    .await;
}

#[tokio::test]
async fn soft_failed_events_are_told_to_those_who_refer_to_them() {
    each_backend(|db| async move {
        let mut world = World::joined(env(db.store().await, 13).await, "11").await;
        let before = world.text("before").await;
        let levels = json!({ "users": { "@alice:x": 100 }, "events_default": 50, "state_default": 50 });
        let late = world
            .event_on(&[&before], "m.room.message", None, json!({ "body": "late" }))
            .await;
        world.state("m.room.power_levels", levels).await;
        let after = world.text("after").await;
        assert_eq!(world.ingest(std::slice::from_ref(&late)).await, [Verdict::SoftFailed]);
        let head = ids(&[&after]);
        assert!(
            !named(&world, &backfill(&world, &head, 50).await)
                .await
                .contains(&late.event_id)
        );
        assert_eq!(
            named(&world, &backfill(&world, std::slice::from_ref(&late.event_id), 2).await).await[0],
            late.event_id
        );
        let shown = read(answers::event(&world.env, y(), &late.event_id).await);
        assert_eq!(shown["pdus"][0]["content"]["body"], "late");
    })
    .await;
}

/// A room that shows members nothing from before they joined, with a message from each time.
async fn guarded(env: Arc<Env>, version: &str) -> (World, [Arc<Pdu>; 4]) {
    let mut world = World::new(env, version).await;
    let open = world.text("open").await;
    world
        .state("m.room.history_visibility", json!({ "history_visibility": "joined" }))
        .await;
    world.state("m.room.topic", json!({ "topic": "old" })).await;
    world.state("m.room.name", json!({ "name": "current" })).await;
    let hidden = world.text("hidden").await;
    world.join().await;
    world.state("m.room.topic", json!({ "topic": "new" })).await;
    let seen = world.text("seen").await;
    world
        .remote("m.room.member", Some("@yves:y"), json!({ "membership": "leave" }))
        .await;
    let meanwhile = world.text("meanwhile").await;
    world.join().await;
    (world, [open, hidden, seen, meanwhile])
}

async fn hides(env: Arc<Env>, version: &str) {
    let (world, [open, hidden, seen, meanwhile]) = guarded(env, version).await;
    let last = world.text("last").await;
    let pdus = backfill(&world, &ids(&[&last]), 100).await;
    let body = |id: &EventId, at: &[OwnedEventId]| {
        let place = at.iter().position(|other| other == id).expect("there are no holes");
        pdus[place]["content"]["body"].as_str().map(str::to_owned)
    };
    let names = named(&world, &pdus).await;
    let shown = |pdu: &Pdu| body(&pdu.event_id, &names);
    assert_eq!(shown(&open).as_deref(), Some("open"), "{version}");
    assert_eq!(shown(&hidden), None, "{version}");
    assert_eq!(shown(&seen).as_deref(), Some("seen"), "{version}");
    assert_eq!(shown(&meanwhile), None, "{version}");
    assert_eq!(shown(&last).as_deref(), Some("last"), "{version}");
    let content = |kind: &str| {
        let found = pdus.iter().filter(|pdu| pdu["type"] == kind);
        found.map(|pdu| pdu["content"].clone()).collect::<Vec<_>>()
    };
    // What is no longer state is hidden like messages, what is state is told anyway.
    assert_eq!(
        content("m.room.topic"),
        [json!({ "topic": "new" }), json!({})],
        "{version}"
    );
    assert_eq!(content("m.room.name"), [json!({ "name": "current" })], "{version}");
    assert!(
        content("m.room.member")
            .iter()
            .all(|content| content["membership"].is_string())
    );

    let one = read(answers::event(&world.env, y(), &hidden.event_id).await);
    assert_eq!(one["pdus"][0]["content"], json!({}), "{version}");
    assert_eq!(
        named(&world, one["pdus"].as_array().expect("a list")).await,
        ids(&[&hidden])
    );
    let gap = missing(&world, &[], &ids(&[&seen]), 0).await;
    assert!(!gap.iter().any(|pdu| pdu["content"]["body"] == "hidden"), "{version}");
}

#[tokio::test]
async fn what_a_server_may_not_see_is_redacted() {
    each_backend(|db| async move {
        let env = env(db.store().await, 14).await;
        for version in ["1", "6", "11", "12"] {
            hides(env.clone(), version).await;
        }
    })
    .await;
}

#[tokio::test]
async fn invited_servers_see_from_the_invite_on() {
    each_backend(|db| async move {
        let mut world = World::new(env(db.store().await, 15).await, "11").await;
        let visibility = json!({ "history_visibility": "invited" });
        world.state("m.room.history_visibility", visibility).await;
        let hidden = world.text("hidden").await;
        let invite = raw(&json!({ "membership": "invite" }));
        let draft = crate::room::commands::Draft::state(user("alice"), "m.room.member", "@yves:y", invite);
        world.local(draft).await;
        let seen = world.text("seen").await;
        let join = world.join().await;
        let pdus = backfill(&world, &ids(&[&join]), 4).await;
        assert_eq!(named(&world, &pdus).await[..2], ids(&[&join, &seen]));
        assert_eq!(pdus[1]["content"]["body"], "seen");
        assert_eq!(pdus[2]["content"]["membership"], "invite");
        assert_eq!(
            (world.id_of(&pdus[3]).await, &pdus[3]["content"]),
            (hidden.event_id.clone(), &json!({}))
        );
    })
    .await;
}

#[tokio::test]
async fn events_are_found_by_time() {
    each_backend(|db| async move {
        let world = World::joined(env(db.store().await, 16).await, "11").await;
        let text = world.text("hello").await;
        let (env, room_id) = (&world.env, &world.room_id);
        let found = answers::near(env, y(), room_id, text.origin_server_ts, true)
            .await
            .expect("there is one");
        assert_eq!(found["origin_server_ts"], json!(text.origin_server_ts));
        let never = MilliSecondsSinceUnixEpoch(UInt::MAX);
        let none = answers::near(env, y(), room_id, never, false).await;
        assert_eq!(refusal(none), (404, "M_NOT_FOUND".to_owned()));
    })
    .await;
}
