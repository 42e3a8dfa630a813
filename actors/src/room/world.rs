//! A simulation of whole federations: several servers with the real core of a room on databases in memory, on a clock that
//! runs as it is told. One number gives the whole run: what users do, what servers forge, which messages are late, lost,
//! doubled or out of order, and who dies when.
//!
//! In the end all must agree, and every judgement is compared with one made by the letter of the specification (`book`,
//! `resolution`), which shares no code with the server.

mod book;
mod check;
mod fetch;
mod memory;
mod net;
mod resolution;
mod server;
mod steps;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use net::Net;
use steps::Step;

/// Steps of a run.
const STEPS: usize = 24;
/// Runs of an ordinary test run, for each room version.
const SEEDS: u64 = 90;
/// Attempts to leave steps out of a failing run.
const MAX_SHRINK: usize = 150;

thread_local! {
    /// Whether this thread's panics are expected, and reported later.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Panics of runs are shown once, at the end.
fn keep_quiet(quiet: bool) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
    QUIET.set(quiet);
}

fn run(version: &'static str, seed: u64, steps: &[Step]) -> Net {
    let mut net = Net::new(version, seed);
    for step in steps {
        net.step(step);
    }
    net.settle();
    net.check();
    net
}

/// Why a run fails.
fn failure(version: &'static str, seed: u64, steps: &[Step]) -> Option<String> {
    let ended = catch_unwind(AssertUnwindSafe(|| drop(run(version, seed, steps))));
    let cause = ended.err()?;
    let text = cause.downcast_ref::<String>().cloned();
    Some(
        text.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default(),
    )
}

/// Leaves out what a failure does not need.
fn shrink(version: &'static str, seed: u64, mut steps: Vec<Step>) -> Vec<Step> {
    let mut size = steps.len() / 2;
    let mut tries = 0;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() && tries < MAX_SHRINK {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            tries += 1;
            if failure(version, seed, &fewer).is_some() {
                steps = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    steps
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs many seeds, or the one that is asked for.
fn simulate(version: &'static str) {
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").map_or(SEEDS, |all| all.div_ceil(12)),
    };
    let mut seen = BTreeMap::<&str, usize>::new();
    keep_quiet(true);
    let many = seeds.end - seeds.start > 50;
    let mut failed = None;
    for seed in seeds {
        let all = steps::steps(seed, STEPS);
        match catch_unwind(AssertUnwindSafe(|| run(version, seed, &all))) {
            Ok(net) => net
                .seen
                .iter()
                .for_each(|(what, count)| *seen.entry(what).or_default() += count),
            Err(_) => {
                failed = Some((seed, shrink(version, seed, all)));
                break;
            }
        }
    }
    if let Some((seed, steps)) = failed {
        let why = failure(version, seed, &steps).unwrap_or_default();
        let mut net = Net::new(version, seed);
        let _again = catch_unwind(AssertUnwindSafe(|| {
            steps.iter().for_each(|step| net.step(step));
            net.settle();
        }));
        keep_quiet(false);
        panic!(
            "room version {version}: {why}\nreplay with SIMULATION_SEED={seed}; what is left of its steps:\n{steps:#?}\n\
             what happened:\n{}",
            net.log.join("\n")
        );
    }
    keep_quiet(false);
    println!("{seen:?}");
    let needed = [
        "accepted",
        "soft-failed",
        "rejected",
        "gap filled",
        "died",
        "joined from outside",
        "forks",
    ];
    let missing: Vec<_> = needed.iter().filter(|what| !seen.contains_key(*what)).collect();
    assert!(!many || missing.is_empty(), "never seen: {missing:?}");
}

macro_rules! versions {
    ($($name:ident: $version:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            simulate($version);
        })*
    };
}

versions! {
    version_1: "1",
    version_2: "2",
    version_3: "3",
    version_4: "4",
    version_5: "5",
    version_6: "6",
    version_7: "7",
    version_8: "8",
    version_9: "9",
    version_10: "10",
    version_11: "11",
    version_12: "12",
}
