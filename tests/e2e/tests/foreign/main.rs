//! The scenarios of federation between our server and Synapse, over TLS, in both directions and in several room
//! versions. All of them share one process of Synapse and, for each direction, one of ours.
//!
//! `cargo test --test foreign [part of a name]`; `FOREIGN_PAIRS=synapse` runs them between two Synapses, which shows
//! that they ask for nothing that only our server does. The table goes to the output and to `target/foreign.txt`.

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

/// Two servers, named by what they are.
struct Direction {
    name: &'static str,
    here: Arc<dyn Homeserver>,
    there: Arc<dyn Homeserver>,
    /// Whether those who come are on our server.
    to_ours: bool,
}

struct Case {
    scenario: String,
    direction: &'static str,
    version: String,
    town: Town,
    run: fn(&Town) -> Step<'_>,
}

fn cases(catalogue: &[Scenario], directions: &[Direction], alone: bool) -> Vec<Case> {
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
            let fits = |direction: &&Direction| scenario.how != How::EachToOurs || direction.to_ours;
            for direction in directions.iter().filter(fits) {
                let town = Town {
                    here: direction.here.clone(),
                    there: direction.there.clone(),
                    version: (*version).to_owned(),
                };
                let case = Case {
                    scenario: scenario.name.clone(),
                    direction: direction.name,
                    version: (*version).to_owned(),
                    town,
                    run: scenario.run,
                };
                let name = format!("{} {} {}", case.scenario, case.direction, case.version);
                if name.contains(&filter) {
                    cases.push(case);
                }
            }
        }
    }
    cases
}

/// Runs one case; a panic is its failure.
async fn run(case: Case) -> Outcome {
    let begin = Instant::now();
    let task = tokio::task::spawn_local(async move {
        (case.run)(&case.town).await;
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
        version: case.version,
        took: begin.elapsed(),
        failure,
    }
}

async fn run_all(cases: Vec<Case>, at_once: usize, table: &mut Table) {
    let permits = Rc::new(Semaphore::new(at_once));
    let mut running = Vec::new();
    for case in cases {
        let permits = permits.clone();
        running.push(tokio::task::spawn_local(async move {
            let _permit = permits.acquire().await.expect("the semaphore stays open");
            let outcome = run(case).await;
            println!("{}", outcome.line());
            outcome
        }));
    }
    for outcome in running {
        table.add(outcome.await.expect("a case's own panic is caught"));
    }
}

/// The servers of this run, started one beside the other.
async fn directions(authority: &Authority) -> Vec<Direction> {
    if env::var("FOREIGN_PAIRS").is_ok_and(|pairs| pairs == "synapse") {
        let (one, other) = tokio::join!(
            Synapse::start(authority, "127.0.0.1"),
            Synapse::start(authority, "localhost")
        );
        let direction = Direction {
            name: "synapse-synapse",
            here: Arc::new(one),
            there: Arc::new(other),
            to_ours: false,
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
            name: "ours-synapse",
            here: Arc::new(hosting),
            there: synapse.clone(),
            to_ours: false,
        },
        Direction {
            name: "synapse-ours",
            here: synapse,
            there: Arc::new(joining),
            to_ours: true,
        },
    ]
}

async fn foreign() -> Table {
    let authority = Authority::create();
    let directions = directions(&authority).await;
    let catalogue = catalogue();
    let mut table = Table::default();
    run_all(cases(&catalogue, &directions, false), AT_ONCE, &mut table).await;
    run_all(cases(&catalogue, &directions, true), 1, &mut table).await;
    table
}

fn main() -> ExitCode {
    let begin = Instant::now();
    let runtime = tokio::runtime::Runtime::new().expect("this machine has threads");
    let table = LocalSet::new().block_on(&runtime, foreign());
    let text = table.to_string();
    let path = workspace().join("target/foreign.txt");
    let written = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&path, &text));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    println!("\n{text}");
    println!("{}", table.summary(begin.elapsed()));
    if table.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
