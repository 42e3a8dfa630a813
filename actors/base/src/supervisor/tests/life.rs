//! Starting, creating, passivating, draining.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::toy::{Cmd, Counter, Greeter, quick, run_with};
use crate::error::{DomainError, Outcome};
use crate::stats::{ListQuery, Phase, Sort};
use crate::supervisor::{Handle, Kind, Liveness, Passivation, Settings};

fn is_not_found<T: std::fmt::Debug>(outcome: &Outcome<T>) -> bool {
    outcome
        .as_ref()
        .is_err_and(|error| error.errcode() == Some("M_NOT_FOUND"))
}

fn is_unavailable<T: std::fmt::Debug>(outcome: &Outcome<T>) -> bool {
    matches!(outcome, Err(DomainError::Unavailable { .. }))
}

#[test]
fn starts_on_demand_and_keeps_its_state() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        assert_eq!(bench.counters.registry().len(Kind::Room), 0);
        assert_eq!(bench.add("a", 1).await.expect("stored"), 1);
        assert_eq!(bench.add("a", 2).await.expect("stored"), 2);
        assert_eq!(bench.world.loads.load(SeqCst), 1);
        let seen = bench.counters.observe("a").await.expect("in memory");
        assert_eq!((seen.status, seen.info.phase), (Liveness::Alive, Phase::Live));
        assert_eq!(seen.state.expect("alive")["count"], 2);
        let listed = bench.counters.stats_list(ListQuery {
            sort: Sort::Handled,
            limit: 9,
            ..ListQuery::default()
        });
        assert_eq!(
            (listed.len(), &*listed[0].key, listed[0].handled, listed[0].queue),
            (1, "a", 2, 0)
        );
        assert!(bench.counters.is_present("a") && !bench.counters.is_present("b"));
        assert!(bench.counters.observe("b").await.is_none());
    });
}

#[test]
fn the_unknown_is_not_looked_up_twice() {
    run_with(quick(), async |bench| {
        assert!(is_not_found(&bench.add("a", 1).await));
        assert!(is_not_found(&bench.add("a", 1).await));
        assert_eq!(bench.world.loads.load(SeqCst), 1);
        assert_eq!(bench.counters.registry().len(Kind::Room), 0, "nothing of it stays");
        bench.world.put("a");
        bench.counters.forget_absent("a");
        assert_eq!(bench.add("a", 1).await.expect("stored"), 1);
    });
}

#[test]
fn what_was_stored_during_the_load_counts() {
    run_with(quick(), async |bench| {
        bench.world.load_ms.store(50, SeqCst);
        let asking = {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.add("a", 1).await })
        };
        bench
            .until("loading", |b| b.world.loads_at_once.load(SeqCst) == 1)
            .await;
        bench.counters.forget_absent("a");
        // The toy reads at the end of the delay; the first look may already have this, the second must.
        tokio::time::sleep(Duration::from_millis(60)).await;
        bench.world.put("a");
        assert_eq!(asking.await.expect("no panic").expect("stored"), 1);
        assert_eq!(bench.world.loads.load(SeqCst), 2);
    });
}

#[test]
fn a_creating_command_starts_what_is_not_there() {
    run_with(quick(), async |bench| {
        assert!(is_not_found(&bench.add("a", 1).await));
        assert_eq!(bench.counters.ask("a", Cmd::Create).await.expect("made"), 0);
        assert_eq!(bench.add("a", 1).await.expect("stored"), 1);
        // A refused creation leaves nothing behind.
        let refused = bench.counters.ask("b", Cmd::CreateBadly).await;
        assert_eq!(refused.expect_err("refused").errcode(), Some("M_FORBIDDEN"));
        assert!(is_not_found(&bench.add("b", 1).await));
        assert!(bench.counters.ask("b", Cmd::Create).await.is_ok());
        assert_eq!(bench.add("b", 1).await.expect("stored"), 1);
        assert_eq!(bench.counters.ask("b", Cmd::Purge).await.expect("purged"), 1);
        assert!(is_not_found(&bench.add("b", 2).await));
        bench.assert_no_violation();
    });
}

#[test]
fn commands_before_the_creating_one_are_refused_those_after_it_run() {
    run_with(quick(), async |bench| {
        bench.world.load_ms.store(30, SeqCst);
        let (one, two, three) = tokio::join!(
            bench.add("a", 1),
            bench.counters.ask("a", Cmd::Create),
            bench.add("a", 3)
        );
        assert!(is_not_found(&one));
        assert_eq!((two.expect("made"), three.expect("stored")), (0, 1));
    });
}

#[test]
fn some_commands_start_nobody() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        assert!(is_not_found(&bench.counters.ask("a", Cmd::Poke).await));
        assert_eq!(bench.world.loads.load(SeqCst), 0);
        bench.add("a", 1).await.expect("stored");
        assert_eq!(bench.counters.ask("a", Cmd::Poke).await.expect("live"), 1);
    });
}

#[test]
fn an_actor_can_begin_with_a_command_to_itself() {
    run_with(quick(), async |bench| {
        let greeters: Handle<Greeter> = Handle::start(&bench.fabric, Arc::clone(&bench.world), quick());
        bench.world.greets.store(true, SeqCst);
        assert_eq!(greeters.ask("x", "count").await.expect("answered"), 1);
        assert_eq!(greeters.ask("x", "count").await.expect("answered"), 1);
        let kinds: Vec<Kind> = bench.fabric.registry.totals().iter().map(|lane| lane.kind).collect();
        assert_eq!(kinds, [Kind::Room, Kind::Room, Kind::Peer, Kind::Peer]);
    });
}

#[test]
fn the_idle_leave_and_come_back() {
    let settings = Settings {
        idle: Duration::from_millis(20),
        ..quick()
    };
    run_with(settings, async |bench| {
        bench.world.put("a");
        bench.add("a", 1).await.expect("stored");
        bench
            .until("passivated", |b| b.counters.registry().is_empty(Kind::Room))
            .await;
        assert_eq!(bench.add("a", 2).await.expect("stored"), 2);
        assert_eq!(bench.world.loads.load(SeqCst), 2);
        let totals = bench.fabric.registry.totals();
        let sum = |f: fn(&crate::stats::LaneInfo) -> u64| totals.iter().map(f).sum::<u64>();
        assert_eq!(
            (sum(|l| l.passivations), sum(|l| l.recreations), sum(|l| l.handled)),
            (1, 1, 2)
        );
        bench.assert_no_violation();
    });
}

#[test]
fn the_pinned_stay_unless_an_administrator_asks() {
    let settings = Settings {
        idle: Duration::from_millis(10),
        ..quick()
    };
    run_with(settings, async |bench| {
        bench.world.put("a");
        bench.world.pinned.store(true, SeqCst);
        bench.add("a", 1).await.expect("stored");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(bench.world.loads.load(SeqCst), 1);
        assert!(bench.counters.is_present("a"));
        assert_eq!(bench.add("a", 2).await.expect("stored"), 2);
        bench.until("passivated", |_| true).await;
        loop {
            match bench.counters.passivate("a").await.expect("answered") {
                // The walk was asking at the same moment.
                Passivation::Busy => {}
                done => break assert_eq!(done, Passivation::Passivated),
            }
        }
        assert_eq!(
            bench.counters.passivate("a").await.expect("answered"),
            Passivation::NotLive
        );
    });
}

#[test]
fn who_works_is_not_passivated_and_loses_nothing() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        let sleeping = {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.counters.ask("a", Cmd::Sleep(80)).await })
        };
        bench
            .until("at work", |b| {
                b.counters
                    .registry()
                    .get(Kind::Room, "a")
                    .is_some_and(|s| s.info().busy_since_ms.is_some())
            })
            .await;
        let (passivation, added) = tokio::join!(bench.counters.passivate("a"), bench.add("a", 1));
        assert_eq!(passivation.expect("answered"), Passivation::Busy);
        assert_eq!(added.expect("stored"), 1);
        assert!(sleeping.await.expect("no panic").is_ok());
        assert_eq!(bench.world.loads.load(SeqCst), 1);
    });
}

#[test]
fn the_longest_idle_make_room_for_the_heavy() {
    // Two arbiters: 100 each.
    let settings = Settings {
        weight_capacity: 200,
        ..quick()
    };
    run_with(settings, async |bench| {
        bench.world.heavy.store(30, SeqCst);
        for n in 0..40 {
            let key = format!("k{n}");
            bench.world.put(&key);
            bench.add(&key, n).await.expect("stored");
        }
        bench
            .until("light enough", |b| {
                b.fabric.registry.totals().iter().all(|lane| lane.weight <= 100)
            })
            .await;
        assert!(bench.counters.is_present("k39"), "the newest stays");
        assert!(!bench.counters.is_present("k0"), "the oldest left");
        assert!(
            bench.counters.registry().len(Kind::Room) >= 3,
            "no more than needed left"
        );
        for n in 0..40 {
            assert_eq!(
                bench.counters.ask(&format!("k{n}"), Cmd::Get).await.expect("answered"),
                1
            );
        }
        bench.assert_no_violation();
    });
}

#[test]
fn loads_are_bounded() {
    let settings = Settings { loads: 3, ..quick() };
    run_with(settings, async |bench| {
        bench.world.load_ms.store(5, SeqCst);
        let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
        keys.iter().for_each(|key| bench.world.put(key));
        let asks = keys.iter().map(|key| bench.add(key, 1));
        assert!(futures_util::future::join_all(asks).await.iter().all(Outcome::is_ok));
        assert!(
            bench.world.most_loads_at_once.load(SeqCst) <= 6,
            "three on each of two arbiters"
        );
        assert!(bench.world.most_loads_at_once.load(SeqCst) >= 3);
    });
}

#[test]
fn increments_that_wait_together_run_together() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        let asks = (0..100).map(|op| bench.add("a", op));
        assert!(futures_util::future::join_all(asks).await.iter().all(Outcome::is_ok));
        let info = bench
            .counters
            .registry()
            .get(Kind::Room, "a")
            .expect("in memory")
            .info();
        assert_eq!((info.handled, info.queue), (100, 0));
        assert!(info.batches <= 30, "{} batches", info.batches);
        assert_eq!(
            bench.world.stored("a"),
            (0..100).collect::<Vec<u64>>(),
            "in the order of asking"
        );
    });
}

#[test]
fn draining_finishes_what_was_accepted_and_refuses_the_rest() {
    run_with(quick(), async |bench| {
        for key in ["a", "b", "c"] {
            bench.world.put(key);
        }
        bench.add("c", 1).await.expect("stored");
        let (first, second, loading, left, late) = tokio::join!(
            bench.counters.ask("a", Cmd::Sleep(50)),
            bench.add("a", 1),
            bench.add("b", 1),
            bench.counters.drain(Duration::from_secs(5)),
            bench.add("c", 2),
        );
        assert_eq!(
            (
                first.expect("done"),
                second.expect("done"),
                loading.expect("done"),
                left
            ),
            (0, 1, 1, 0)
        );
        assert!(is_unavailable(&late));
        assert_eq!(bench.counters.registry().len(Kind::Room), 0);
        assert_eq!(
            bench.counters.drain(Duration::from_secs(1)).await,
            0,
            "draining twice is fine"
        );
        bench.assert_no_violation();
    });
}

#[test]
fn a_drain_does_not_wait_for_ever() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        bench.counters.tell("a", Cmd::Sleep(400)).expect("accepted");
        assert_eq!(bench.counters.drain(Duration::from_millis(50)).await, 1);
        assert_eq!(bench.counters.drain(Duration::from_secs(5)).await, 0);
    });
}

#[test]
fn handles_can_be_shared_between_threads() {
    fn check<T: Send + Sync + Clone>() {}
    check::<Handle<Counter>>();
}
