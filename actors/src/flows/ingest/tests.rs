//! What another server sends finds its place, with whatever it needs fetched from there.

use std::sync::Arc;

use entities::{inbound_pdu, inbound_txn};
use ruma::server_name;
use serde_json::{Value, json};

use super::testing::{NAME, Remote, sent, staged, status, yves};
use super::verify::verify;
use super::wake;
use crate::clock::Clock;
use crate::hub::Hub;
use crate::peer::testing::{World, until, with_world};
use crate::room::event::{Pdu, Status};

fn with_remote<F: Future<Output = ()> + Send + 'static>(
    version: &'static str,
    test: impl Fn(Arc<World>, Arc<Hub>, Remote) -> F + Send + Sync + Clone + 'static,
) {
    with_world(&Clock::system(), move |world| {
        let test = test.clone();
        async move {
            let hub = world.hub().await;
            let remote = Remote::enter(&hub, &world.wire, version).await;
            // The database is there as long as the world is.
            test(world.clone(), hub, remote).await;
            drop(world);
        }
    });
}

/// Until nothing of the room is staged.
async fn worked_off(hub: &Hub, remote: &Remote) {
    let left = || staged(hub, &remote.room_id);
    until!(
        "the staged events are worked off",
        // What is committed is shown a moment later.
        (left().await == 0 && !hub.env().ingests.is_busy(&remote.room_id)).then_some(())
    );
}

async fn all_are(hub: &Hub, pdus: &[Arc<Pdu>], wanted: Status) {
    for pdu in pdus {
        assert_eq!(status(hub, &pdu.event_id).await, Some(wanted), "{}", pdu.json);
    }
}

async fn extremities(hub: &Hub, remote: &Remote) -> Vec<String> {
    let room = hub.rooms().existing(&remote.room_id).await.expect("there");
    room.extremities.iter().map(|end| end.event_id.to_string()).collect()
}

/// How often something was asked.
fn questions(world: &World) -> usize {
    let heard = world.wire.heard();
    heard.iter().filter(|heard| !heard.path.contains("/v1/send/")).count()
}

/// How often one kind of request was made.
fn asked(world: &World, kind: &str) -> usize {
    let kind = format!("/_matrix/federation/v1/{kind}/");
    world
        .wire
        .heard()
        .iter()
        .filter(|heard| heard.path.starts_with(&kind))
        .count()
}

#[test]
fn events_join_the_room_in_every_format() {
    for version in ["1", "3", "10", "11", "12"] {
        with_remote(version, |world, hub, mut remote| async move {
            let mut branch = remote.branch(&hub).await;
            let mut pdus = remote.texts(&mut branch, 3);
            pdus.push(remote.state(
                &mut branch,
                "m.room.member",
                yves().as_str(),
                json!({
                    "membership": "join", "displayname": "Yves",
                }),
            ));
            // Children before parents, as no server should send them.
            pdus.reverse();
            let answer = remote.send(&hub, &pdus).await.expect("taken");
            let good: serde_json::Map<String, Value> =
                pdus.iter().map(|pdu| (pdu.event_id.to_string(), json!({}))).collect();
            assert_eq!(answer, json!({ "pdus": good }));
            worked_off(&hub, &remote).await;
            all_are(&hub, &pdus, Status::Accepted).await;
            assert_eq!(extremities(&hub, &remote).await, [pdus[0].event_id.to_string()]);
            assert_eq!(questions(&world), 0, "nothing was missing");
        });
    }
}

#[test]
fn events_in_between_are_fetched() {
    with_remote("11", |world, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let pdus = remote.texts(&mut branch, 45);
        remote.send(&hub, &pdus[44..]).await.expect("taken");
        worked_off(&hub, &remote).await;
        all_are(&hub, &pdus, Status::Accepted).await;
        assert_eq!(extremities(&hub, &remote).await, [pdus[44].event_id.to_string()]);
        assert_eq!(
            (asked(&world, "get_missing_events"), asked(&world, "state_ids")),
            (3, 0)
        );
    });
}

#[test]
fn branches_that_grew_meanwhile_come_together() {
    with_remote("10", |world, hub, mut remote| async move {
        let fork = remote.branch(&hub).await;
        let (mut left, mut right) = (fork.clone(), fork);
        let mut pdus = remote.texts(&mut left, 3);
        pdus.push(remote.state(
            &mut right,
            "m.room.member",
            yves().as_str(),
            json!({
                "membership": "join", "displayname": "Yves",
            }),
        ));
        pdus.extend(remote.texts(&mut right, 2));
        let mut both = right.clone();
        both.prev = vec![left.prev[0].clone(), right.prev[0].clone()];
        pdus.push(remote.text(&mut both, "both"));
        remote.send(&hub, &pdus[6..]).await.expect("taken");
        worked_off(&hub, &remote).await;
        all_are(&hub, &pdus, Status::Accepted).await;
        assert_eq!(extremities(&hub, &remote).await, [pdus[6].event_id.to_string()]);
        assert_eq!(asked(&world, "state_ids"), 0);
    });
}

#[test]
fn a_gap_that_is_too_wide_is_bridged_by_the_state_behind_it() {
    for version in ["6", "12"] {
        with_remote(version, |world, hub, mut remote| async move {
            let ours = extremities(&hub, &remote).await;
            let mut branch = remote.branch(&hub).await;
            // What only they know: a new name, and what follows from it.
            let renamed = remote.state(
                &mut branch,
                "m.room.member",
                yves().as_str(),
                json!({
                    "membership": "join", "displayname": "Yves",
                }),
            );
            let lost = remote.texts(&mut branch, 130);
            let last = remote.text(&mut branch, "here we are");
            remote.send(&hub, std::slice::from_ref(&last)).await.expect("taken");
            worked_off(&hub, &remote).await;
            assert_eq!(status(&hub, &last.event_id).await, Some(Status::Accepted));
            assert_eq!(
                status(&hub, &lost[0].event_id).await,
                None,
                "that far back nothing is fetched"
            );
            assert_eq!(status(&hub, &lost[129].event_id).await, Some(Status::Accepted));
            assert_eq!(status(&hub, &renamed.event_id).await, Some(Status::Outlier));
            let mut ends = extremities(&hub, &remote).await;
            ends.retain(|end| !ours.contains(end));
            assert_eq!(ends, [last.event_id.to_string()]);
            let room = hub.rooms().existing(&remote.room_id).await.expect("there");
            let member = room.state_event("m.room.member", yves().as_str()).expect("there");
            assert_eq!(member.pdu.event_id, renamed.event_id, "by the state of both branches");
            assert_eq!(asked(&world, "state_ids"), 1);
        });
    }
}

#[test]
fn where_nobody_tells_what_lies_between_the_state_is_enough() {
    with_remote("11", |world, hub, mut remote| async move {
        remote.book().refuses.insert("get_missing_events");
        let mut branch = remote.branch(&hub).await;
        let lost = remote.texts(&mut branch, 2);
        let last = remote.text(&mut branch, "here we are");
        remote.send(&hub, std::slice::from_ref(&last)).await.expect("taken");
        worked_off(&hub, &remote).await;
        assert_eq!(status(&hub, &last.event_id).await, Some(Status::Accepted));
        assert_eq!(status(&hub, &lost[1].event_id).await, None);
        assert_eq!(asked(&world, "state_ids"), 1);
    });
}

#[test]
fn unknown_auth_events_are_fetched() {
    for missing in ["none", "event_auth"] {
        with_remote("11", move |world, hub, mut remote| async move {
            remote.book().refuses.insert(missing);
            let mut side = remote.branch(&hub).await;
            let mut branch = side.clone();
            // Authorized by an event of a branch that is not known here.
            let name = json!({ "membership": "join", "displayname": "Yves" });
            let renamed = remote.state(&mut side, "m.room.member", yves().as_str(), name);
            let mut auth: Vec<Arc<Pdu>> = [("m.room.create", ""), ("m.room.power_levels", "")]
                .into_iter()
                .filter_map(|(kind, key)| branch.state.get(&(kind.to_owned(), key.to_owned())).cloned())
                .collect();
            auth.push(renamed.clone());
            let text = ("m.room.message", None);
            let last = remote.add_with(&mut branch, &yves(), text, &json!({ "body": "me again" }), &auth);
            remote.send(&hub, std::slice::from_ref(&last)).await.expect("taken");
            worked_off(&hub, &remote).await;
            assert_eq!(status(&hub, &last.event_id).await, Some(Status::Accepted));
            assert_eq!(status(&hub, &renamed.event_id).await, Some(Status::Outlier));
            assert_eq!(asked(&world, "event_auth"), 1);
            assert_eq!(asked(&world, "event"), usize::from(missing == "event_auth"));
        });
    }
}

#[test]
fn an_event_whose_parents_nobody_has_waits_for_them() {
    with_remote("11", |world, hub, mut remote| async move {
        remote.book().refuses.extend(["get_missing_events", "state_ids"]);
        let mut branch = remote.branch(&hub).await;
        let pdus = remote.texts(&mut branch, 3);
        remote.send(&hub, &pdus[2..]).await.expect("taken");
        until!("it was tried", (asked(&world, "state_ids") > 0).then_some(()));
        assert_eq!(staged(&hub, &remote.room_id).await, 1);
        assert_eq!(status(&hub, &pdus[2].event_id).await, None);
        // They come by themselves, and it need not be tried again by the clock.
        remote.send(&hub, &pdus[..2]).await.expect("taken");
        worked_off(&hub, &remote).await;
        all_are(&hub, &pdus, Status::Accepted).await;
        assert_eq!(extremities(&hub, &remote).await, [pdus[2].event_id.to_string()]);
    });
}

/// Stages events as a transaction does, and no more.
async fn stage(hub: &Hub, pdus: &[Arc<Pdu>]) {
    let txn = inbound_txn::Model {
        origin: NAME.to_owned(),
        txn_id: "staged".to_owned(),
        response: "{}".to_owned(),
        received_ts: hub.env().clock.now_ms(),
    };
    let first = hub.env().ids.take(pdus.len()).await.expect("numbers");
    let row = |(nid, pdu): (i64, &Arc<Pdu>)| inbound_pdu::Model {
        nid,
        origin: NAME.to_owned(),
        room_id: pdu.room_id.to_string(),
        event_id: pdu.event_id.to_string(),
        json: pdu.json.to_string(),
        received_ts: txn.received_ts,
    };
    let rows: Vec<_> = (first..).zip(pdus).map(row).collect();
    hub.env().store.stage(&txn, &rows).await.expect("staged");
}

#[test]
fn the_next_process_goes_on_with_what_is_staged() {
    with_remote("11", |world, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let pdus = remote.texts(&mut branch, 120);
        // A transaction of which nothing has found its place, with one event that has and one that is missing.
        remote.send(&hub, &pdus[..1]).await.expect("taken");
        worked_off(&hub, &remote).await;
        stage(&hub, &[&pdus[..60], &pdus[61..]].concat()).await;
        let hub = world.hub().await;
        worked_off(&hub, &remote).await;
        all_are(&hub, &pdus, Status::Accepted).await;
        assert_eq!(extremities(&hub, &remote).await, [pdus[119].event_id.to_string()]);
        assert!(!hub.env().ingests.is_busy(&remote.room_id));
    });
}

#[test]
fn rejected_events_are_final_and_what_follows_them_is_not_lost() {
    with_remote("11", |world, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let levels = json!({ "users": { "@yves:y": 100 } });
        let grab = remote.state(&mut branch, "m.room.power_levels", "", levels);
        branch.state = remote.branch(&hub).await.state;
        let text = remote.text(&mut branch, "after that");
        remote.send(&hub, &[grab.clone(), text.clone()]).await.expect("taken");
        worked_off(&hub, &remote).await;
        assert_eq!(status(&hub, &grab.event_id).await, Some(Status::Rejected));
        assert_eq!(status(&hub, &text.event_id).await, Some(Status::Accepted));
        remote.send(&hub, std::slice::from_ref(&grab)).await.expect("taken");
        worked_off(&hub, &remote).await;
        assert_eq!(status(&hub, &grab.event_id).await, Some(Status::Rejected));
        assert_eq!(questions(&world), 0);
    });
}

#[test]
fn events_for_a_room_that_was_left_meanwhile_are_dropped() {
    with_remote("11", |_, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let pdus = remote.texts(&mut branch, 2);
        let alice = super::testing::alice();
        let leave = crate::flows::membership::Change {
            room_id: &remote.room_id,
            sender: &alice,
            target: &alice,
            reason: None,
        };
        let action = crate::room::membership::Action::Leave;
        crate::flows::membership::change(&hub, &leave, action)
            .await
            .expect("left");
        stage(&hub, &pdus).await;
        wake(&hub, &remote.room_id);
        worked_off(&hub, &remote).await;
        assert_eq!(status(&hub, &pdus[0].event_id).await, None);
    });
}

#[test]
fn forged_events_fill_no_gap() {
    with_remote("11", |world, hub, mut remote| async move {
        let mut branch = remote.branch(&hub).await;
        let pdus = remote.texts(&mut branch, 3);
        let mut forged = (*pdus[1]).clone();
        let signature = forged.json.rfind("\"ed25519:1\":\"").expect("it is signed") + 14;
        let mut json = forged.json.to_string();
        let other = if json.as_bytes()[signature] == b'A' { "B" } else { "A" };
        json.replace_range(signature..=signature, other);
        forged.json = json.into();
        let (rules, origin) = (Arc::new(remote.rules.clone()), server_name!("y"));
        let checked = verify(&hub, &rules, vec![sent(&forged)], origin).await;
        assert!(checked.expect("checked").is_empty());
        remote.book().replace(&pdus[1].event_id, Arc::new(forged));
        remote.send(&hub, &pdus[2..]).await.expect("taken");
        worked_off(&hub, &remote).await;
        // The state behind it is not forged.
        assert_eq!(status(&hub, &pdus[2].event_id).await, Some(Status::Accepted));
        assert_eq!(status(&hub, &pdus[1].event_id).await, None);
        assert_eq!(asked(&world, "state_ids"), 1);
    });
}

#[test]
fn what_nobody_can_tell_holds_no_other_event_up() {
    with_remote("11", |world, hub, mut remote| async move {
        remote.book().refuses.extend(["get_missing_events", "state_ids"]);
        let before = remote.branch(&hub).await;
        let mut orphans = Vec::new();
        for n in 0..60 {
            let mut lost = before.clone();
            remote.text(&mut lost, &format!("nobody has {n}"));
            orphans.push(remote.text(&mut lost, &format!("orphan {n}")));
        }
        let mut branch = before;
        let good = remote.texts(&mut branch, 2);
        // Behind all the others.
        stage(&hub, &[orphans.clone(), good.clone()].concat()).await;
        wake(&hub, &remote.room_id);
        until!(
            "the good ones are there",
            (status(&hub, &good[1].event_id).await == Some(Status::Accepted)).then_some(())
        );
        assert!(asked(&world, "state_ids") < 10, "they did not wait for the others");
        until!("each was tried", (asked(&world, "state_ids") >= 60).then_some(()));
        assert_eq!(staged(&hub, &remote.room_id).await, 60);
    });
}
