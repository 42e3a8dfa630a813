//! Panics, doubt, overload, lateness.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::toy::{Bench, Cmd, quick, run_with};
use crate::error::{DomainError, Outcome};
use crate::stats::Phase;
use crate::supervisor::{BackoffSettings, Kind, Liveness, Settings, Watchdog, WatchdogSettings};

fn is_unavailable<T>(outcome: &Outcome<T>) -> bool {
    matches!(outcome, Err(DomainError::Unavailable { .. }))
}

fn spawn(bench: &Arc<Bench>, key: &'static str, command: Cmd) -> tokio::task::JoinHandle<Outcome<usize>> {
    let bench = Arc::clone(bench);
    tokio::spawn(async move { bench.counters.ask(key, command).await })
}

async fn at_work(bench: &Bench) {
    let busy = |b: &Bench| {
        b.counters
            .registry()
            .get(Kind::Room, "a")
            .is_some_and(|s| s.info().busy_since_ms.is_some())
    };
    bench.until("at work", busy).await;
}

#[test]
fn a_panic_ends_one_actor_which_comes_back() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        bench.world.put("b");
        bench.add("b", 1).await.expect("stored");
        for panic in [Cmd::PanicBefore, Cmd::PanicOnArbiter] {
            let count = bench.add("a", 1).await.expect("stored");
            assert!(is_unavailable(&bench.counters.ask("a", panic).await));
            // Waits for the pause to end.
            assert_eq!(bench.add("a", 2).await.expect("stored"), count + 1);
        }
        assert!(is_unavailable(&bench.counters.ask("a", Cmd::PanicAfter(9)).await));
        assert_eq!(
            bench.counters.ask("a", Cmd::Get).await.expect("answered"),
            5,
            "what was stored is seen"
        );
        assert_eq!(bench.add("b", 2).await.expect("stored"), 2);
        let seen = bench.counters.observe("a").await.expect("in memory");
        assert_eq!((seen.info.panics, seen.info.restarts), (3, 3));
        assert_eq!(seen.last_panic.as_deref(), Some("told to panic after"));
        bench.assert_no_violation();
    });
}

#[test]
fn who_waited_behind_a_panic_waits_for_the_next_life() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        let sleeping = spawn(&bench, "a", Cmd::Sleep(30));
        at_work(&bench).await;
        let (panic, behind) = tokio::join!(bench.counters.ask("a", Cmd::PanicBefore), bench.add("a", 1));
        assert!(sleeping.await.expect("no panic here").is_ok());
        assert!(is_unavailable(&panic));
        assert_eq!(behind.expect("it had not begun"), 1);
        assert_eq!(bench.world.loads.load(SeqCst), 2);
    });
}

#[test]
fn five_panics_bring_quarantine_and_an_administrator_ends_it() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        for _ in 0..5 {
            assert!(is_unavailable(&bench.counters.ask("a", Cmd::PanicBefore).await));
        }
        bench
            .until("quarantined", |b| {
                b.counters
                    .registry()
                    .get(Kind::Room, "a")
                    .is_some_and(|s| s.phase() == Phase::Quarantined)
            })
            .await;
        let refused = bench.add("a", 1).await.expect_err("refused");
        assert!(
            matches!(
                refused,
                DomainError::Unavailable {
                    retry_after_ms: 500_000..=600_000,
                    ..
                }
            ),
            "{refused}"
        );
        assert_eq!(
            bench.counters.observe("a").await.expect("remembered").status,
            Liveness::PostMortem
        );
        assert!(bench.counters.release("a").await.expect("answered"));
        assert!(!bench.counters.release("a").await.expect("answered"));
        assert_eq!(bench.add("a", 1).await.expect("stored"), 1);
    });
}

#[test]
fn quarantine_ends_by_itself() {
    let backoff = BackoffSettings {
        limit: 1,
        quarantine: Duration::from_millis(60),
        ..BackoffSettings::default()
    };
    run_with(Settings { backoff, ..quick() }, async |bench| {
        bench.world.put("a");
        assert!(is_unavailable(&bench.counters.ask("a", Cmd::PanicBefore).await));
        assert!(is_unavailable(&bench.add("a", 1).await));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(bench.add("a", 2).await.expect("stored"), 1);
    });
}

#[test]
fn an_actor_that_dies_on_its_arbiter_leaves_its_batch_to_end_first() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        bench.world.observe_panics.store(true, SeqCst);
        bench.add("a", 1).await.expect("stored");
        let sleeping = spawn(&bench, "a", Cmd::Sleep(150));
        at_work(&bench).await;
        assert_eq!(
            bench.counters.observe("a").await.expect("in memory").status,
            Liveness::PostMortem
        );
        bench.world.observe_panics.store(false, SeqCst);
        // The batch of the dead actor still runs: the toy would see two at once.
        assert_eq!(bench.add("a", 2).await.expect("stored"), 2);
        assert_eq!(sleeping.await.expect("no panic here").expect("its batch ended"), 1);
        bench.assert_no_violation();
    });
}

#[test]
fn doubt_means_reading_the_store_again() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        let asks = [
            Cmd::Sleep(20),
            Cmd::AddInDoubt(1),
            Cmd::Add(2),
            Cmd::AddInDoubt(3),
            Cmd::Add(4),
        ];
        let asks = asks.into_iter().map(|command| bench.counters.ask("a", command));
        let replies: Vec<usize> = futures_util::future::join_all(asks)
            .await
            .into_iter()
            .map(|r| r.expect("nothing is lost"))
            .collect();
        assert_eq!(replies, [0, 1, 2, 3, 4]);
        assert_eq!(bench.world.stored("a"), [1, 2, 3, 4]);
        assert_eq!(bench.world.loads.load(SeqCst), 3);
        bench.assert_no_violation();
    });
}

#[test]
fn a_full_queue_refuses_at_once() {
    run_with(Settings { queue: 4, ..quick() }, async |bench| {
        bench.world.put("a");
        bench.add("a", 0).await.expect("stored");
        let mut asks = vec![spawn(&bench, "a", Cmd::Sleep(60))];
        at_work(&bench).await;
        asks.extend((1..4).map(|op| spawn(&bench, "a", Cmd::Add(op))));
        let stats = bench.counters.registry().get(Kind::Room, "a").expect("in memory");
        bench.until("full", |_| stats.queued() == 4).await;
        let refused = bench.add("a", 9).await.expect_err("refused");
        assert!(matches!(
            refused,
            DomainError::Overloaded {
                retry_after_ms: 100..=5_000
            }
        ));
        for ask in asks {
            ask.await.expect("no panic").expect("accepted means answered");
        }
        let mut stored = bench.world.stored("a");
        stored.sort_unstable();
        assert_eq!(stored, [0, 1, 2, 3]);
        assert_eq!((stats.queued(), stats.info().refused), (0, 1));
    });
}

#[test]
fn a_full_lane_refuses_at_once() {
    let settings = Settings {
        in_flight: 2,
        ..quick()
    };
    run_with(settings, async |bench| {
        bench.world.put("a");
        let sleeping = spawn(&bench, "a", Cmd::Sleep(100));
        at_work(&bench).await;
        bench.counters.tell("a", Cmd::Add(1)).expect("one more fits");
        let refused = bench.add("a", 2).await.expect_err("refused");
        assert!(matches!(refused, DomainError::Overloaded { .. }), "{refused}");
        sleeping.await.expect("no panic").expect("accepted means answered");
        bench.until("room again", |b| b.world.stored("a") == [1]).await;
        assert_eq!(bench.add("a", 3).await.expect("stored"), 2);
    });
}

#[test]
fn nobody_runs_what_nobody_waits_for() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        bench.add("a", 0).await.expect("stored");
        let sleeping = spawn(&bench, "a", Cmd::Sleep(100));
        at_work(&bench).await;
        let given_up = spawn(&bench, "a", Cmd::Add(1));
        let late = bench
            .counters
            .ask_within("a", Cmd::Add(2), Duration::from_millis(20))
            .await;
        assert!(is_unavailable(&late));
        given_up.abort();
        sleeping.await.expect("no panic").expect("done");
        assert_eq!(bench.add("a", 3).await.expect("stored"), 2);
        assert_eq!(bench.world.stored("a"), [0, 3]);
        assert_eq!(
            bench
                .counters
                .registry()
                .get(Kind::Room, "a")
                .expect("in memory")
                .info()
                .expired,
            2
        );
    });
}

#[test]
fn a_load_that_fails_is_tried_again() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        bench.world.load_fails.store(true, SeqCst);
        assert!(is_unavailable(&bench.add("a", 1).await));
        assert_eq!(bench.counters.registry().len(Kind::Room), 0);
        bench.world.load_fails.store(false, SeqCst);
        bench.world.load_panics.store(true, SeqCst);
        let asking = spawn(&bench, "a", Cmd::Add(2));
        bench.until("two panics", |b| b.world.loads.load(SeqCst) >= 3).await;
        bench.world.load_panics.store(false, SeqCst);
        assert_eq!(asking.await.expect("no panic here").expect("it waited"), 1);
    });
}

#[test]
fn a_load_that_takes_too_long_is_not_doubled() {
    run_with(
        Settings {
            load_deadline: Duration::from_millis(30),
            ..quick()
        },
        async |bench| {
            bench.world.put("a");
            bench.world.load_ms.store(100, SeqCst);
            assert!(is_unavailable(&bench.add("a", 1).await));
            bench.world.load_ms.store(0, SeqCst);
            while bench.add("a", 2).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bench.assert_no_violation();
        },
    );
}

#[test]
fn the_watchdog_sees_the_stuck() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        let (every, busy) = (Duration::from_millis(10), Duration::from_millis(50));
        let settings = WatchdogSettings {
            every,
            busy,
            lag: Duration::from_millis(100),
        };
        let dog = Watchdog::start(bench.fabric.clone(), settings).expect("a thread");
        bench.add("a", 1).await.expect("stored");
        bench
            .until("probed", |b| b.fabric.arbiters.lags().iter().all(|lag| !lag.is_zero()))
            .await;
        let before = dog.barks();
        bench.counters.ask("a", Cmd::Sleep(200)).await.expect("done");
        assert!(dog.barks() > before, "a batch that takes too long");
        let before = dog.barks();
        bench.counters.ask("a", Cmd::BlockArbiter(400)).await.expect("done");
        assert!(dog.barks() > before, "an arbiter that is late");
    });
}

#[test]
fn a_blocked_arbiter_is_seen_from_outside() {
    run_with(quick(), async |bench| {
        bench.world.put("a");
        bench.add("a", 1).await.expect("stored");
        bench.counters.tell("a", Cmd::BlockArbiter(1_500)).expect("accepted");
        let seen = bench.counters.observe("a").await.expect("in memory");
        assert_eq!(seen.status, Liveness::Timeout);
        assert_eq!(seen.info.queue, 1, "the figures need no answer");
    });
}
