//! A simulation of whole federations: several servers with the real core of a room on databases in memory, on a clock that
//! runs as it is told. One number gives the whole run: what users do, what servers forge, which messages are late, lost,
//! doubled or out of order, and who dies when.
//!
//! In the end all must agree, and every judgement is compared with one made by the letter of the specification (`book`,
//! `resolution`), which shares no code with the server.

mod book;
mod check;
mod faults;
mod fetch;
mod memory;
mod net;
mod resolution;
mod server;
mod steps;

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use net::Net;
use steps::Step;

/// Steps of a run.
const STEPS: usize = 24;
/// Runs of an ordinary test run, for each room version.
const SEEDS: u64 = 300;
/// Runs after which a long test says how far it is.
const PROGRESS: u64 = 1_000;
/// What many runs must have met.
const NEEDED: &[&str] = &[
    "accepted",
    "soft-failed",
    "rejected",
    "duplicate",
    "missing",
    "gap filled",
    "history fetched",
    "forks",
    "resolutions",
    "not heard",
    "answer lost",
    "out of order",
    "died",
    "joined from outside",
    "left",
    "invited",
    "kicked",
    "banned",
    "levels changed",
    "join rule changed",
    "redacted",
    "upgraded",
    "forged",
];
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

/// How a run ended.
struct Run {
    net: Net,
    /// Why it failed.
    failure: Option<String>,
}

/// `talks`: whether what happens is written down.
fn run(version: &'static str, seed: u64, steps: &[Step], talks: bool) -> Run {
    let mut net = Net::new(version, mixed(version, seed), talks);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        net.begin();
        steps.iter().for_each(|step| net.step(step));
        net.settle();
        net.check();
    }));
    let text = |cause: Box<dyn Any + Send>| {
        let text = cause.downcast_ref::<String>().cloned();
        text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()))
    };
    Run {
        net,
        failure: ended.err().map(|cause| text(cause).unwrap_or_default()),
    }
}

/// Each version has runs of its own.
fn mixed(version: &str, seed: u64) -> u64 {
    seed.wrapping_mul(100) + version.parse::<u64>().expect("a number")
}

fn steps_of(version: &str, seed: u64) -> Vec<Step> {
    steps::steps(mixed(version, seed), STEPS)
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
            if run(version, seed, &fewer, false).failure.is_some() {
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
    let asked = number("SIMULATION_SEEDS").map(|all| all.div_ceil(12));
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..asked.unwrap_or(SEEDS),
    };
    let mut seen = BTreeMap::<&str, usize>::new();
    let count = seeds.end - seeds.start;
    keep_quiet(true);
    for seed in seeds {
        let steps = steps_of(version, seed);
        let ended = run(version, seed, &steps, false);
        if ended.failure.is_some() {
            report(version, seed, steps);
        }
        for (what, count) in &ended.net.seen {
            *seen.entry(what).or_default() += count;
        }
        if asked.is_some() && (seed + 1) % PROGRESS == 0 {
            println!("room version {version}: {} of {count} runs, none diverged", seed + 1);
        }
    }
    keep_quiet(false);
    println!("room version {version}: {count} runs, none diverged; {seen:?}");
    let missing: Vec<_> = NEEDED.iter().filter(|what| !seen.contains_key(*what)).collect();
    assert!(count < 50 || missing.is_empty(), "never seen: {missing:?}");
}

/// Shows a run that failed, without what it does not need for that.
fn report(version: &'static str, seed: u64, steps: Vec<Step>) {
    let steps = shrink(version, seed, steps);
    let again = run(version, seed, &steps, true);
    keep_quiet(false);
    panic!(
        "room version {version}: {}\nreplay with SIMULATION_SEED={seed}; what is left of its steps:\n{steps:#?}\n\
         what happened:\n{}",
        again.failure.unwrap_or_default(),
        again.net.log.join("\n")
    );
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
