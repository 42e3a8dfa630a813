//! The scenarios of federation between our server and Synapse, over TLS, in both directions and in several room
//! versions. They share one process of Synapse and, for each direction, one of ours; beside these, those that stop servers
//! have another set.
//!
//! `cargo test --test foreign [part of a name]`; `FOREIGN_PAIRS=synapse` runs them between two Synapses, which shows
//! that they ask for nothing that only our server does. The table goes to the output and to `target/foreign.txt`.
//! `FOREIGN_MEASURE=1` measures instead (`scripts/measure-federation`), and writes to `target/measured.txt`.

// The client library's futures are nested deeply.
#![recursion_limit = "512"]

use std::{env, fs, panic, process::ExitCode, rc::Rc, sync::Arc, time::Instant};

use synapse_rust_e2e::{
    common::{
        authority::Authority,
        db::{Backend, workspace},
        homeserver::{Homeserver, Ours, Step, Town},
    },
    every_scenario, scenarios,
    synapse::Synapse,
};
use table::{Outcome, Table};
use tokio::{sync::Semaphore, task::LocalSet};

mod encrypted;
mod measure;
mod table;

/// The room versions that the scenarios run in.
const VERSIONS: [&str; 4] = ["6", "10", "11", "12"];
/// The version for scenarios to which it makes no difference.
const ANY_VERSION: &str = "11";
/// How many scenarios run at once.
const AT_ONCE: usize = 4;

/// How often a scenario runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// In each room version.
    Each,
    /// In each room version, if the server of those who come is ours.
    EachToOurs,
    /// Not with this server.
    Ours,
    /// Once in each direction.
    Once,
    /// Once in each direction, while nothing else runs.
    Alone,
}

struct Scenario {
    name: String,
    /// The first room version with what is needed.
    since: u32,
    how: How,
    run: fn(&Town) -> Step<'_>,
}

macro_rules! catalogue {
    (@how each) => { How::Each };
    (@how each_to_ours) => { How::EachToOurs };
    (@how ours) => { How::Ours };
    (@how once) => { How::Once };
    (@how alone) => { How::Alone };
    ($($module:ident { $(($name:ident $since:literal $how:ident))* })*) => {
        vec![$($(Scenario {
            name: format!("{} {}", stringify!($module), stringify!($name)),
            since: $since,
            how: catalogue!(@how $how),
            run: |town| Box::pin(scenarios::$module::$name(town)),
        }),*),*]
    };
}

fn catalogue() -> Vec<Scenario> {
    let mut all = every_scenario!(catalogue);
    all.push(Scenario {
        name: "encrypted conversation".to_owned(),
        since: 1,
        how: How::Each,
        run: |town| Box::pin(encrypted::conversation(town)),
    });
    all
}

/// Where those who come are on Synapse, and where they are on our server.
const FROM_OURS: &str = "ours-synapse";
const TO_OURS: &str = "synapse-ours";
const SYNAPSES: &str = "synapse-synapse";

/// From the server with the rooms to that of those who come.
fn direction_names() -> &'static [&'static str] {
    if env::var("FOREIGN_PAIRS").is_ok_and(|pairs| pairs == "synapse") {
        &[SYNAPSES]
    } else {
        &[FROM_OURS, TO_OURS]
    }
}

/// Two servers, named by what they are.
struct Direction {
    name: &'static str,
    here: Arc<dyn Homeserver>,
    there: Arc<dyn Homeserver>,
}

/// One cell of the table.
struct Case {
    scenario: String,
    direction: &'static str,
    version: &'static str,
    run: fn(&Town) -> Step<'_>,
}

/// The cases that are asked for: those that share their servers, or those during which nothing else may run.
fn cases(catalogue: &[Scenario], alone: bool) -> Vec<Case> {
    let filter = env::args()
        .nth(1)
        .filter(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    let mut cases = Vec::new();
    let fits = |scenario: &&Scenario| (scenario.how == How::Alone) == alone && scenario.how != How::Ours;
    for scenario in catalogue.iter().filter(fits) {
        let versions: &[&str] = if matches!(scenario.how, How::Each | How::EachToOurs) {
            &VERSIONS
        } else {
            &[ANY_VERSION]
        };
        let known = |version: &&&str| version.parse::<u32>().is_ok_and(|version| version >= scenario.since);
        for version in versions.iter().filter(known) {
            let fits = |name: &&&str| scenario.how != How::EachToOurs || **name == TO_OURS;
            for direction in direction_names().iter().filter(fits) {
                if format!("{} {direction} {version}", scenario.name).contains(&filter) {
                    cases.push(Case {
                        scenario: scenario.name.clone(),
                        direction,
                        version,
                        run: scenario.run,
                    });
                }
            }
        }
    }
    cases
}

/// Runs one case; a panic is its failure.
async fn run(case: Case, town: Town) -> Outcome {
    let begin = Instant::now();
    let task = tokio::task::spawn_local(async move {
        (case.run)(&town).await;
    });
    let failure = task.await.err().map(|error| {
        let payload = error.try_into_panic();
        let text = payload.map(|payload| match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => payload
                .downcast::<&str>()
                .map_or_else(|_| "a panic".to_owned(), |text| (*text).to_owned()),
        });
        text.unwrap_or_else(|error| error.to_string())
    });
    Outcome {
        scenario: case.scenario,
        direction: case.direction,
        version: case.version.to_owned(),
        took: begin.elapsed(),
        failure,
    }
}

/// Runs cases on servers of their own, some of them at once.
async fn run_all(authority: &Authority, cases: Vec<Case>, at_once: usize) -> Vec<Outcome> {
    if cases.is_empty() {
        return Vec::new();
    }
    let directions = directions(authority).await;
    let permits = Rc::new(Semaphore::new(at_once));
    let mut running = Vec::new();
    for case in cases {
        let direction = directions.iter().find(|direction| direction.name == case.direction);
        let direction = direction.expect("there are servers for each name");
        let town = Town {
            here: direction.here.clone(),
            there: direction.there.clone(),
            version: case.version.to_owned(),
        };
        let permits = permits.clone();
        running.push(tokio::task::spawn_local(async move {
            let _permit = permits.acquire().await.expect("the semaphore stays open");
            let outcome = run(case, town).await;
            println!("{}", outcome.line());
            outcome
        }));
    }
    let mut outcomes = Vec::new();
    for outcome in running {
        outcomes.push(outcome.await.expect("a case's own panic is caught"));
    }
    outcomes
}

/// Servers, started one beside the other.
async fn directions(authority: &Authority) -> Vec<Direction> {
    if direction_names() == [SYNAPSES] {
        let (one, other) = tokio::join!(
            Synapse::start(authority, "127.0.0.1"),
            Synapse::start(authority, "localhost")
        );
        let direction = Direction {
            name: SYNAPSES,
            here: Arc::new(one),
            there: Arc::new(other),
        };
        return vec![direction];
    }
    let (synapse, hosting, joining) = tokio::join!(
        Synapse::start(authority, "127.0.0.1"),
        Ours::start(Backend::Postgres, authority, "localhost"),
        Ours::start(Backend::Sqlite, authority, "localhost"),
    );
    let synapse = Arc::new(synapse);
    vec![
        Direction {
            name: FROM_OURS,
            here: Arc::new(hosting),
            there: synapse.clone(),
        },
        Direction {
            name: TO_OURS,
            here: synapse,
            there: Arc::new(joining),
        },
    ]
}

async fn foreign() -> Table {
    let authority = Authority::create();
    let catalogue = catalogue();
    let (shared, alone) = tokio::join!(
        run_all(&authority, cases(&catalogue, false), AT_ONCE),
        run_all(&authority, cases(&catalogue, true), 1),
    );
    let mut table = Table::default();
    shared.into_iter().chain(alone).for_each(|outcome| table.add(outcome));
    table
}

/// To the output, and to a file in `target`.
fn write(name: &str, text: &str) {
    let path = workspace().join("target").join(name);
    let written = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&path, text));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    println!("\n{text}");
}

fn main() -> ExitCode {
    let begin = Instant::now();
    let runtime = tokio::runtime::Runtime::new().expect("this machine has threads");
    if env::var("FOREIGN_MEASURE").is_ok_and(|value| value == "1") {
        let text = LocalSet::new().block_on(&runtime, measure::measure());
        write("measured.txt", &text);
        return ExitCode::SUCCESS;
    }
    let table = LocalSet::new().block_on(&runtime, foreign());
    write("foreign.txt", &table.to_string());
    println!("{}", table.summary(begin.elapsed()));
    if table.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
