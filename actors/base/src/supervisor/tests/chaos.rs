//! Random sequences: no acknowledged increment is lost, none is stored twice, never two at once for a key, never a hang.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::toy::{Bench, Cmd, quick, run_with};
use crate::error::{DomainError, Outcome};
use crate::rng::Rng;
use crate::supervisor::{BackoffSettings, Settings};

const KEYS: u64 = 6;
const CLIENTS: u64 = 12;
const STEPS: u64 = 120;

/// What a client knows about its increments.
#[derive(Default)]
struct Known {
    acknowledged: Vec<(String, u64)>,
    refused: Vec<(String, u64)>,
}

impl Known {
    fn note(&mut self, key: &str, op: u64, outcome: &Outcome<usize>) {
        match outcome {
            Ok(_) => self.acknowledged.push((key.to_owned(), op)),
            Err(DomainError::Overloaded { .. }) => self.refused.push((key.to_owned(), op)),
            // Not known.
            Err(DomainError::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

async fn client(bench: Arc<Bench>, rng: Rng, id: u64, known: &mut Known) {
    for step in 0..STEPS {
        let key = format!("k{}", rng.below(KEYS));
        let op = id * 1_000_000 + step;
        let counters = &bench.counters;
        match rng.below(100) {
            0..55 => known.note(&key, op, &counters.ask(&key, Cmd::Add(op)).await),
            55..65 => {
                // Several at once, so that queues and batches form.
                let ops = (0..rng.below(20)).map(|n| op + (n + 1) * 1_000);
                let asks = ops.map(|op| async move { (op, counters.ask(&key_of(op), Cmd::Add(op)).await) });
                for (op, outcome) in futures_util::future::join_all(asks).await {
                    known.note(&key_of(op), op, &outcome);
                }
            }
            65..72 => known.note(&key, op, &counters.ask(&key, Cmd::AddInDoubt(op)).await),
            72..75 => drop(counters.ask(&key, Cmd::PanicBefore).await),
            75..77 => drop(counters.ask(&key, Cmd::PanicAfter(op)).await),
            77..78 => drop(counters.ask(&key, Cmd::PanicOnArbiter).await),
            78..84 => drop(counters.passivate(&key).await.expect("supervisors do not die")),
            84..87 => {
                // Some states panic when they are looked at, on the arbiter and perhaps with a batch in flight.
                bench.world.observe_panics.store(rng.below(6) == 0, SeqCst);
                drop(counters.observe(&key).await);
            }
            87..89 => drop(counters.release(&key).await.expect("supervisors do not die")),
            89..92 => drop(counters.ask(&key, Cmd::Sleep(rng.below(5))).await),
            // Gives up at some point.
            92..95 => drop(
                counters
                    .ask_within(&key, Cmd::Add(op), Duration::from_micros(rng.below(2_000)))
                    .await,
            ),
            95..97 => drop(counters.tell(&key, Cmd::Add(op))),
            _ => tokio::time::sleep(Duration::from_millis(rng.below(10))).await,
        }
    }
}

fn key_of(op: u64) -> String {
    format!("k{}", op / 1_000 % KEYS)
}

fn chaos(seed: u64, settings: Settings) {
    run_with(settings, async |bench| {
        (0..KEYS).for_each(|n| bench.world.put(&format!("k{n}")));
        let clients = (0..CLIENTS).map(|id| {
            let (bench, rng) = (Arc::clone(&bench), Rng::seeded(seed * 1_000 + id));
            tokio::spawn(async move {
                let mut known = Known::default();
                client(bench, rng, id + 1, &mut known).await;
                known
            })
        });
        let clients: Vec<_> = clients.collect();
        for handle in clients {
            let known = handle.await.expect("clients do not panic");
            for (key, op) in known.acknowledged {
                assert_eq!(
                    bench.world.stored(&key).iter().filter(|o| **o == op).count(),
                    1,
                    "seed {seed}: {op} of {key}"
                );
            }
            for (key, op) in known.refused {
                assert!(
                    !bench.world.stored(&key).contains(&op),
                    "seed {seed}: {op} of {key} was refused"
                );
            }
        }
        for n in 0..KEYS {
            let key = format!("k{n}");
            bench.counters.release(&key).await.expect("supervisors do not die");
            assert_eq!(
                bench.add(&key, 0).await.expect("it lives again"),
                bench.world.stored(&key).len()
            );
            let mut ops = bench.world.stored(&key);
            ops.sort_unstable();
            assert!(
                ops.windows(2).all(|pair| pair[0] != pair[1]),
                "seed {seed}: {key} stores something twice"
            );
        }
        assert_eq!(bench.counters.drain(Duration::from_secs(10)).await, 0, "seed {seed}");
        bench.assert_no_violation();
    });
}

fn restless() -> Settings {
    let backoff = BackoffSettings {
        first: Duration::from_millis(1),
        cap: Duration::from_millis(8),
        limit: usize::MAX,
        ..BackoffSettings::default()
    };
    let (idle, tick) = (Duration::from_millis(2), Duration::from_millis(1));
    Settings {
        idle,
        tick,
        queue: 24,
        backoff,
        ..quick()
    }
}

#[test]
fn nothing_is_lost_among_panics_and_passivations() {
    (0..6).for_each(|seed| chaos(seed, restless()));
}

#[test]
fn nothing_is_lost_among_quarantines_and_scarce_memory() {
    for seed in 10..14 {
        let settings = restless();
        let backoff = BackoffSettings {
            limit: 3,
            quarantine: Duration::from_millis(5),
            ..settings.backoff
        };
        chaos(
            seed,
            Settings {
                backoff,
                weight_capacity: 2,
                loads: 1,
                in_flight: 60,
                ..settings
            },
        );
    }
}
