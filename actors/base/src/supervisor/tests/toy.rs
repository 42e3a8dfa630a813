//! A counter per key, and a store that keeps every increment by its number.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::error::{DomainError, Outcome};
use crate::rng::Rng;
use crate::stats::Registry;
use crate::supervisor::{Arbiters, BackoffSettings, Fabric, Handle, Kind, Managed, Ran, Settings};

pub(super) struct Counter;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cmd {
    /// Stores this increment; the reply is how many there are.
    Add(u64),
    /// How many there are.
    Get,
    /// Makes the counter.
    Create,
    /// Tries to, and is refused.
    CreateBadly,
    /// Removes the counter.
    Purge,
    /// Panics before, or after, it stored the increment.
    PanicBefore,
    PanicAfter(u64),
    /// Stores it and says that it is not sure.
    AddInDoubt(u64),
    /// Takes this many milliseconds.
    Sleep(u64),
    /// Panics on the arbiter instead of the io runtime.
    PanicOnArbiter,
    /// Blocks the arbiter for this many milliseconds.
    BlockArbiter(u64),
    /// Reaches live ones only.
    Poke,
}

pub(super) struct State {
    /// How many increments were stored when this was read or made.
    pub count: usize,
    pub exists: bool,
    pub pinned: bool,
    pub weight: u64,
    pub observe_panics: bool,
}

#[derive(Default)]
pub(super) struct World {
    pub store: Mutex<HashMap<String, Vec<u64>>>,
    running: Mutex<HashMap<String, usize>>,
    /// Broken rules.
    pub violations: Mutex<Vec<String>>,
    pub loads: AtomicUsize,
    pub loads_at_once: AtomicUsize,
    pub most_loads_at_once: AtomicUsize,
    pub load_ms: AtomicUsize,
    pub load_panics: AtomicBool,
    pub load_fails: AtomicBool,
    pub greets: AtomicBool,
    pub greeted: AtomicUsize,
    pub pinned: AtomicBool,
    pub heavy: AtomicUsize,
    pub observe_panics: AtomicBool,
}

impl World {
    pub fn put(&self, key: &str) {
        self.store
            .lock()
            .expect("no test panics with it")
            .insert(key.to_owned(), Vec::new());
    }

    pub fn stored(&self, key: &str) -> Vec<u64> {
        self.store
            .lock()
            .expect("no test panics with it")
            .get(key)
            .cloned()
            .unwrap_or_default()
    }

    fn violation(&self, text: String) {
        self.violations.lock().expect("no test panics with it").push(text);
    }

    fn state(&self, count: usize, exists: bool) -> Arc<State> {
        Arc::new(State {
            count,
            exists,
            pinned: self.pinned.load(SeqCst),
            weight: self.heavy.load(SeqCst).max(1) as u64,
            observe_panics: self.observe_panics.load(SeqCst),
        })
    }

    fn add(&self, key: &str, op: u64) -> usize {
        let mut store = self.store.lock().expect("no test panics with it");
        let ops = store.entry(key.to_owned()).or_default();
        ops.push(op);
        ops.len()
    }
}

/// Notices two at once under one key.
struct Alone {
    world: Arc<World>,
    key: Arc<str>,
}

impl Alone {
    fn enter(world: &Arc<World>, key: &Arc<str>) -> Self {
        let now = {
            let mut running = world.running.lock().expect("no test panics with it");
            let now = running.entry(key.to_string()).or_default();
            *now += 1;
            *now
        };
        if now > 1 {
            world.violation(format!("{now} at once for {key}"));
        }
        Self {
            world: Arc::clone(world),
            key: Arc::clone(key),
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        *self
            .world
            .running
            .lock()
            .expect("no test panics with it")
            .entry(self.key.to_string())
            .or_default() -= 1;
    }
}

async fn load(world: Arc<World>, key: Arc<str>) -> Outcome<Option<Arc<State>>> {
    let _alone = Alone::enter(&world, &key);
    world.loads.fetch_add(1, SeqCst);
    let at_once = world.loads_at_once.fetch_add(1, SeqCst) + 1;
    world.most_loads_at_once.fetch_max(at_once, SeqCst);
    tokio::time::sleep(Duration::from_millis(world.load_ms.load(SeqCst) as u64)).await;
    world.loads_at_once.fetch_sub(1, SeqCst);
    assert!(!world.load_panics.load(SeqCst), "load was told to panic");
    if world.load_fails.load(SeqCst) {
        return Err(DomainError::unavailable("the store is away"));
    }
    let count = world
        .store
        .lock()
        .expect("no test panics with it")
        .get(&*key)
        .map(Vec::len);
    Ok(count.map(|count| world.state(count, true)))
}

async fn run(world: Arc<World>, key: Arc<str>, state: Arc<State>, batch: Vec<Cmd>) -> Ran<Counter> {
    let _alone = Alone::enter(&world, &key);
    if state.count != world.stored(&key).len() {
        world.violation(format!(
            "{key} runs on {} of {} increments",
            state.count,
            world.stored(&key).len()
        ));
    }
    let (mut count, mut exists, mut doubt) = (state.count, state.exists, false);
    let mut replies = Vec::new();
    for command in batch {
        // Lets others in between.
        tokio::task::yield_now().await;
        match command {
            Cmd::Add(op) => count = world.add(&key, op),
            Cmd::AddInDoubt(op) => {
                count = world.add(&key, op);
                doubt = true;
            }
            Cmd::Create => {
                world.put(&key);
                exists = true;
            }
            Cmd::CreateBadly => {
                replies.push(Err(DomainError::forbidden("no")));
                continue;
            }
            Cmd::Purge => {
                world.store.lock().expect("no test panics with it").remove(&*key);
                exists = false;
            }
            Cmd::PanicBefore => panic!("told to panic before"),
            Cmd::PanicAfter(op) => {
                world.add(&key, op);
                panic!("told to panic after")
            }
            Cmd::Sleep(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Cmd::Poke if count == 0 => drop(world.greeted.fetch_add(1, SeqCst)),
            Cmd::Get | Cmd::PanicOnArbiter | Cmd::BlockArbiter(_) | Cmd::Poke => {}
        }
        replies.push(Ok(count));
    }
    if doubt {
        Ran::Reload { replies }
    } else {
        Ran::Done {
            state: world.state(count, exists),
            replies,
        }
    }
}

impl Managed for Counter {
    const KIND: Kind = Kind::Room;
    type Env = World;
    type State = State;
    type Command = Cmd;
    type Reply = usize;

    fn load(env: Arc<World>, key: Arc<str>) -> BoxFuture<'static, Outcome<Option<Arc<State>>>> {
        Box::pin(load(env, key))
    }

    fn run(env: Arc<World>, key: Arc<str>, state: Arc<State>, batch: Vec<Cmd>) -> BoxFuture<'static, Ran<Self>> {
        Box::pin(run(env, key, state, batch))
    }

    /// Neighbouring increments go together.
    fn batch_len<'a>(mut waiting: impl ExactSizeIterator<Item = &'a Cmd>) -> usize {
        match waiting.next() {
            Some(Cmd::PanicOnArbiter) => panic!("told to panic on the arbiter"),
            Some(Cmd::BlockArbiter(ms)) => std::thread::sleep(Duration::from_millis(*ms)),
            Some(Cmd::Add(_)) => return 1 + waiting.take(9).take_while(|c| matches!(c, Cmd::Add(_))).count(),
            _ => {}
        }
        1
    }

    fn may_start(command: &Cmd) -> bool {
        *command != Cmd::Poke
    }

    fn creates(command: &Cmd) -> bool {
        matches!(command, Cmd::Create | Cmd::CreateBadly)
    }

    fn fresh(env: &Arc<World>, _: &Arc<str>, command: &Cmd) -> Option<Arc<State>> {
        Self::creates(command).then(|| env.state(0, false))
    }

    fn exists(state: &State) -> bool {
        state.exists
    }

    fn first(_: &State) -> Option<Cmd> {
        None
    }

    fn weight(state: &State) -> u64 {
        state.weight
    }

    fn pinned(_: &Arc<World>, _: &Arc<str>, state: &State) -> bool {
        state.pinned
    }

    fn observe(state: &State) -> Value {
        assert!(!state.observe_panics, "told to panic when observed");
        json!({ "count": state.count })
    }
}

/// A kind that greets its own start.
pub(super) struct Greeter;

impl Managed for Greeter {
    const KIND: Kind = Kind::Peer;
    type Env = World;
    type State = ();
    type Command = &'static str;
    type Reply = usize;

    fn load(env: Arc<World>, _: Arc<str>) -> BoxFuture<'static, Outcome<Option<Arc<()>>>> {
        Box::pin(async move { Ok(env.greets.load(SeqCst).then(|| Arc::new(()))) })
    }

    fn run(env: Arc<World>, _: Arc<str>, state: Arc<()>, batch: Vec<&'static str>) -> BoxFuture<'static, Ran<Self>> {
        Box::pin(async move {
            let replies = batch.iter().map(|word| {
                if *word == "hello" {
                    env.greeted.fetch_add(1, SeqCst);
                }
                Ok(env.greeted.load(SeqCst))
            });
            Ran::Done {
                replies: replies.collect(),
                state,
            }
        })
    }

    fn first((): &()) -> Option<&'static str> {
        Some("hello")
    }

    fn observe((): &()) -> Value {
        Value::Null
    }
}

pub(super) struct Bench {
    pub world: Arc<World>,
    pub fabric: Fabric,
    pub counters: Handle<Counter>,
}

impl Bench {
    pub async fn add(&self, key: &str, op: u64) -> Outcome<usize> {
        self.counters.ask(key, Cmd::Add(op)).await
    }

    /// Waits until `done`, for 5 s at most.
    pub async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..2_500 {
            if done(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("never: {what}");
    }

    pub fn assert_no_violation(&self) {
        assert_eq!(
            *self.world.violations.lock().expect("no test panics with it"),
            Vec::<String>::new()
        );
    }
}

/// Short times, so that tests are quick.
pub(super) fn quick() -> Settings {
    Settings {
        tick: Duration::from_millis(5),
        idle: Duration::from_secs(60),
        ask_deadline: Duration::from_secs(5),
        backoff: BackoffSettings {
            first: Duration::from_millis(10),
            ..BackoffSettings::default()
        },
        ..Settings::default()
    }
}

/// Runs a test on two arbiters and four io threads; a hang is a failure.
pub(super) fn run_with<F: Future<Output = ()>>(settings: Settings, test: impl FnOnce(Arc<Bench>) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build();
    let runtime = Arc::new(runtime.expect("a runtime"));
    let shared = Arc::clone(&runtime);
    let system = actix_rt::System::with_tokio_rt(move || shared);
    let fabric = Fabric {
        io: runtime.handle().clone(),
        clock: Clock::system(),
        rng: Rng::seeded(7),
        arbiters: Arbiters::start(&runtime, 2),
        registry: Arc::new(Registry::new()),
    };
    let world = Arc::new(World::default());
    let counters = Handle::start(&fabric, Arc::clone(&world), settings);
    let bench = Arc::new(Bench {
        world,
        fabric: fabric.clone(),
        counters,
    });
    let outcome = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test(bench)).await });
    fabric.arbiters.stop();
    drop(system);
    outcome.expect("the test hangs");
}
