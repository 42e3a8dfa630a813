//! Requests to other servers, whose side the test plays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use ruma::api::federation::discovery::get_server_version::v1::Request as Version;
use ruma::{ServerName, server_name};
use serde_json::json;
use tokio::sync::Notify;

use super::handle::Pace;
use super::testing::{Hand, answer, ok, refuse, unreachable, until, with_world};
use super::view::MAX_IN_FLIGHT;
use crate::clock::Clock;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;

const MINUTE: i64 = 60_000;

fn peer() -> &'static ServerName {
    server_name!("peer.example")
}

async fn version(hub: &Hub, pace: Pace) -> Outcome<String> {
    let answer = hub.peers().call(peer(), Version::new(), pace).await?;
    let name = answer.server.and_then(|server| server.name);
    Ok(name.unwrap_or_default())
}

fn is_unavailable<T: std::fmt::Debug>(outcome: &Outcome<T>) -> bool {
    matches!(outcome, Err(DomainError::Unavailable { .. }))
}

#[test]
fn a_server_that_does_not_answer_is_left_alone_for_a_while() {
    let hand = Hand::default();
    let clock = Clock::from_source(hand.clone());
    with_world(&clock, move |world| {
        let hand = hand.clone();
        async move {
            let hub = world.hub().await;
            world.wire.script(|_| answer(ok(&json!({ "server": { "name": "n" } }))));
            assert_eq!(version(&hub, Pace::Patient).await.expect("it answers"), "n");
            world.wire.script(|_| answer(unreachable()));
            assert!(is_unavailable(&version(&hub, Pace::Patient).await));
            let asked = world.wire.heard().len();
            assert!(is_unavailable(&version(&hub, Pace::Patient).await));
            assert_eq!(world.wire.heard().len(), asked, "it was not asked again");
            assert!(is_unavailable(&version(&hub, Pace::Now).await));
            assert_eq!(world.wire.heard().len(), asked + 1, "somebody waits for it");
            let stored = until!("the failure is stored", {
                let rows = hub.env().store.destinations(&[peer().as_str()]).await;
                rows.expect("it answers")
                    .into_iter()
                    .find(|row| row.retry_interval_ms > 0)
            });
            assert_eq!(stored.last_error.as_deref(), Some("unreachable: no route to host"));
            // Another process remembers.
            let hub = world.hub().await;
            assert!(is_unavailable(&version(&hub, Pace::Patient).await));
            assert_eq!(world.wire.heard().len(), asked + 1);
            hand.advance(2 * MINUTE);
            world.wire.script(|_| answer(ok(&json!({ "server": { "name": "n" } }))));
            assert_eq!(version(&hub, Pace::Patient).await.expect("it answers again"), "n");
            until!("the recovery is stored", {
                let rows = hub.env().store.destinations(&[peer().as_str()]).await;
                let well =
                    |row: &entities::destination::Model| row.retry_interval_ms == 0 && row.failing_since_ts.is_none();
                rows.expect("it answers").into_iter().find(well)
            });
        }
    });
}

#[test]
fn a_server_that_calls_and_an_operator_end_the_pause() {
    with_world(&Clock::from_source(Hand::default()), |world| async move {
        let hub = world.hub().await;
        world.wire.script(|_| answer(unreachable()));
        assert!(is_unavailable(&version(&hub, Pace::Patient).await));
        let asked = world.wire.heard().len();
        // It was tried this very moment: a call leaves a pause of some seconds.
        hub.peers().seen(peer());
        let Err(DomainError::Unavailable { retry_after_ms, .. }) = version(&hub, Pace::Patient).await else {
            panic!("too early");
        };
        assert_eq!((retry_after_ms, world.wire.heard().len()), (10_000, asked));
        hub.peers().reset(peer()).await.expect("it is a server");
        assert!(is_unavailable(&version(&hub, Pace::Patient).await));
        assert_eq!(world.wire.heard().len(), asked + 1);
        let seen = hub
            .peers()
            .actors()
            .observe(peer().as_str())
            .await
            .expect("it is in memory");
        let state = seen.state.expect("it is alive");
        assert_eq!((&state["state"], &state["failed"]), (&json!("paused"), &json!(2)));
    });
}

#[test]
fn refusals_are_answers() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        world.wire.script(|_| answer(refuse(403, "M_FORBIDDEN")));
        for _ in 0..3 {
            let refused = version(&hub, Pace::Patient).await.expect_err("it refuses");
            assert_eq!(refused.errcode(), Some("M_FORBIDDEN"));
        }
        assert_eq!(world.wire.heard().len(), 3, "none was held back");
        world.wire.script(|_| answer(ok(&json!([]))));
        let bad = version(&hub, Pace::Patient).await.expect_err("that is no answer");
        assert!(matches!(bad, DomainError::Matrix { status: 502, .. }), "{bad:?}");
        let own = hub.peers().call(server_name!("x"), Version::new(), Pace::Now).await;
        assert!(matches!(own, Err(DomainError::Internal(_))), "nobody asks itself");
    });
}

#[test]
fn requests_at_once_are_bounded_and_outlive_who_asked() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let (open, done) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (gate, counted) = (Arc::clone(&open), Arc::clone(&done));
        world.wire.script(move |_| {
            let (gate, counted) = (Arc::clone(&gate), Arc::clone(&counted));
            Box::pin(async move {
                gate.notified().await;
                counted.fetch_add(1, SeqCst);
                ok(&json!({}))
            })
        });
        let asking: Vec<_> = (0..MAX_IN_FLIGHT + 64)
            .map(|_| {
                let hub = Arc::clone(&hub);
                tokio::spawn(async move { version(&hub, Pace::Patient).await })
            })
            .collect();
        let info = || hub.peers().view(peer()).map(|view| view.info(0));
        until!("as many as may are under way", {
            info().filter(|info| (info.in_flight, info.waiting) == (MAX_IN_FLIGHT, 64))
        });
        assert_eq!(world.wire.heard().len(), MAX_IN_FLIGHT);
        let over = version(&hub, Pace::Patient).await;
        assert!(matches!(over, Err(DomainError::Overloaded { .. })), "{over:?}");
        // Whoever asked is gone; what was sent is still waited for, what was not sent never is.
        for asked in &asking {
            asked.abort();
        }
        until!("nobody waits", info().filter(|info| info.waiting == 0));
        until!("all are answered", {
            open.notify_one();
            (done.load(SeqCst) == MAX_IN_FLIGHT).then_some(())
        });
        world.wire.script(|_| answer(ok(&json!({}))));
        version(&hub, Pace::Patient).await.expect("there is room again");
    });
}
