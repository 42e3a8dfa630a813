//! The journal against a model of a database that fails in every way a database can.

use std::sync::Mutex;

use entities::presence;
use entities::store::rows::Rows;

use super::*;
use crate::rng::Rng;
use crate::stream::fact::{Fact, FactKind};

/// What the next commit does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Nothing is written and the writer is told so.
    RolledBack,
    /// Everything is written, then the connection breaks.
    LostAfterCommit,
    /// Nothing is written and the connection breaks.
    LostBeforeCommit,
}

#[derive(Default)]
struct State {
    head: Option<Head>,
    rows: Vec<(String, i64)>,
    reserved: i64,
}

struct Model {
    rng: Rng,
    state: Mutex<State>,
}

impl Model {
    fn fault(&self) -> Fault {
        match self.rng.below(10) {
            0 => Fault::RolledBack,
            1 => Fault::LostAfterCommit,
            2 => Fault::LostBeforeCommit,
            _ => Fault::None,
        }
    }
}

impl Sink for Model {
    fn commit<'a>(&'a self, head: Head, rows: &'a Rows, reserve: Option<i64>) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let fault = self.fault();
            let mut state = self.state.lock().expect("model lock");
            if fault == Fault::RolledBack || fault == Fault::LostBeforeCommit {
                return Err(StoreError::Driver("down".to_owned()));
            }
            if rows.presence.iter().any(|row| row.state == "poison") {
                return Err(StoreError::Duplicate("presence".to_owned()));
            }
            state.head = Some(head);
            state.reserved = reserve.unwrap_or(state.reserved).max(state.reserved);
            for row in &rows.presence {
                assert!(row.pos < state.reserved, "position used before it was reserved");
                state.rows.push((row.user_id.clone(), row.pos));
            }
            if fault == Fault::LostAfterCommit {
                return Err(StoreError::Driver("connection lost".to_owned()));
            }
            Ok(())
        })
    }

    fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async move {
            if self.rng.below(3) == 0 {
                return Err(StoreError::Driver("still down".to_owned()));
            }
            Ok(self
                .state
                .lock()
                .expect("model lock")
                .head
                .unwrap_or(Head { epoch: 1, batch: 0 }))
        })
    }
}

fn start() -> Start {
    Start {
        head: Head { epoch: 1, batch: 0 },
        next: 1,
        failpoints: Failpoints::default(),
    }
}

fn submission(name: &str, poison: bool, rows: i64) -> Submission {
    let row = |offset| presence::Model {
        user_id: format!("{name}/{offset}"),
        state: if poison { "poison" } else { "online" }.to_owned(),
        status_msg: None,
        last_active_ts: 0,
        pos: offset,
    };
    let user = ruma::user_id!("@watcher:x").to_owned();
    Submission {
        rows: Rows {
            presence: (0..rows).map(row).collect(),
            ..Rows::default()
        },
        positions: u32::try_from(rows.max(1)).expect("few rows"),
        publish: Box::new(move |base| {
            vec![Fact {
                pos: base,
                users: Arc::from([user.clone()]),
                kind: FactKind::Presence { user },
            }]
        }),
    }
}

/// A reader as `/sync` is one: samples the visible position, then reads at most up to it, and must never find
/// anything new at or below a position it has seen.
struct Reader {
    seen: i64,
    known: Vec<(String, i64)>,
}

impl Reader {
    fn read(&mut self, feeds: &Feeds, model: &Model) {
        let upto = feeds.visible().0;
        assert!(upto >= self.seen, "the visible position fell");
        let state = model.state.lock().expect("model lock");
        let now: Vec<_> = state.rows.iter().filter(|(_, pos)| *pos <= upto).cloned().collect();
        let late: Vec<_> = now
            .iter()
            .filter(|r| r.1 <= self.seen && !self.known.contains(r))
            .collect();
        assert!(late.is_empty(), "appeared below a position that was read: {late:?}");
        self.seen = upto;
        self.known = now;
    }
}

async fn run(seed: u64) {
    let rng = Rng::seeded(seed);
    let model = Arc::new(Model {
        rng: rng.clone(),
        state: Mutex::new(State {
            reserved: 1,
            ..State::default()
        }),
    });
    let feeds = Arc::new(Feeds::new(StreamPos(0)));
    let feed = feeds.open(ruma::user_id!("@watcher:x"), 0);
    let io = tokio::runtime::Handle::current();
    let journal = Journal::start(&io, model.clone(), feeds.clone(), Clock::system(), start());
    let mut reader = Reader {
        seen: 0,
        known: Vec::new(),
    };
    let mut tasks = Vec::new();
    for n in 0..60 {
        let (journal, poison, rows) = (
            journal.clone(),
            rng.below(12) == 0,
            i64::try_from(rng.below(4)).expect("small"),
        );
        let name = format!("s{n}");
        tasks.push(tokio::spawn(async move {
            let answer = journal.submit(submission(&name, poison, rows)).await;
            (name, poison, rows, answer)
        }));
        if rng.below(3) == 0 {
            tokio::task::yield_now().await;
            reader.read(&feeds, &model);
        }
    }
    for task in tasks {
        let (name, poison, rows, answer) = task.await.expect("no panic");
        reader.read(&feeds, &model);
        let state = model.state.lock().expect("model lock");
        let written = state
            .rows
            .iter()
            .filter(|(key, _)| key.starts_with(&format!("{name}/")))
            .count();
        match answer {
            Ok(base) => {
                assert_eq!(
                    i64::try_from(written).expect("few"),
                    rows,
                    "acknowledged but not there: {name}"
                );
                assert!(base.0 <= feeds.visible().0, "acknowledged but not visible");
                assert!(!poison || rows == 0, "poison was accepted");
            }
            Err(error) => assert_eq!(written, 0, "refused ({error}) but written: {name}"),
        }
    }
    let state = model.state.lock().expect("model lock");
    let mut positions: Vec<_> = state.rows.iter().map(|(_, pos)| *pos).collect();
    positions.sort_unstable();
    assert!(positions.windows(2).all(|w| w[0] < w[1]), "a position was used twice");
    assert!(feed.changes(StreamPos(0), feeds.visible()).is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_and_no_reader_misses_anything() {
    for seed in 0..200 {
        run(seed).await;
    }
}

#[tokio::test]
async fn a_fenced_writer_stops() {
    struct Fenced;
    impl Sink for Fenced {
        fn commit<'a>(&'a self, _: Head, _: &'a Rows, _: Option<i64>) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async { Err(StoreError::Fenced) })
        }
        fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>> {
            Box::pin(async { Ok(Head { epoch: 9, batch: 0 }) })
        }
    }
    let feeds = Arc::new(Feeds::new(StreamPos(0)));
    let io = tokio::runtime::Handle::current();
    let journal = Journal::start(&io, Arc::new(Fenced), feeds, Clock::system(), start());
    assert!(journal.submit(submission("a", false, 1)).await.is_err());
    tokio::task::yield_now().await;
    assert!(journal.submit(submission("b", false, 1)).await.is_err());
}
