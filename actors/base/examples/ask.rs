//! Measures what an ask costs: `cargo run --release -p base --example ask`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::clock::Clock;
use base::error::Outcome;
use base::rng::Rng;
use base::stats::Registry;
use base::supervisor::{Arbiters, Fabric, Handle, Kind, Managed, Ran, Settings};
use futures_util::future::BoxFuture;
use serde_json::Value;

struct Echo;

impl Managed for Echo {
    const KIND: Kind = Kind::Room;
    type Env = ();
    type State = u64;
    type Command = u64;
    type Reply = u64;

    fn load(_: Arc<()>, _: Arc<str>) -> BoxFuture<'static, Outcome<Option<Arc<u64>>>> {
        Box::pin(async { Ok(Some(Arc::new(0))) })
    }

    fn run(_: Arc<()>, _: Arc<str>, state: Arc<u64>, batch: Vec<u64>) -> BoxFuture<'static, Ran<Self>> {
        Box::pin(async move {
            let replies = batch.into_iter().map(Ok).collect();
            Ran::Done { state, replies }
        })
    }

    fn batch_len<'a>(waiting: impl ExactSizeIterator<Item = &'a u64>) -> usize {
        waiting.len().min(50)
    }

    fn observe(state: &u64) -> Value {
        (*state).into()
    }
}

/// `clients` tasks, each with its next ask after every reply.
async fn round(handle: &Handle<Echo>, label: &str, clients: u64, keys: u64, asks: u64) {
    let began = Instant::now();
    let tasks = (0..clients).map(|client| {
        let handle = handle.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            for n in 0..asks {
                let key = format!("!room{}:example.org", (client * 7_919 + n) % keys);
                let asked = Instant::now();
                assert_eq!(handle.ask(&key, n).await.expect("an echo"), n);
                times.push(asked.elapsed());
            }
            times
        })
    });
    let mut times: Vec<Duration> = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.expect("no task panics"));
    }
    let wall = began.elapsed();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 1_000).min(times.len() - 1)];
    println!(
        "{label:<36} {:>9.0} asks/s   p50 {:>9.1?}   p99 {:>9.1?}   p99.9 {:>9.1?}",
        times.len() as f64 / wall.as_secs_f64(),
        at(500),
        at(990),
        at(999),
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = Arc::new(runtime.expect("a runtime"));
    let shared = Arc::clone(&runtime);
    let _system = actix_rt::System::with_tokio_rt(move || shared);
    let fabric = Fabric {
        io: runtime.handle().clone(),
        clock: Clock::system(),
        rng: Rng::system(),
        arbiters: Arbiters::start(&runtime, 2),
        registry: Arc::new(Registry::new()),
    };
    let handle: Handle<Echo> = Handle::start(&fabric, Arc::new(()), Settings::default());
    runtime.block_on(async {
        round(&handle, "warm-up", 1, 1, 2_000).await;
        round(&handle, "1 client, 1 actor", 1, 1, 20_000).await;
        round(&handle, "64 clients, 1 actor", 64, 1, 2_000).await;
        round(&handle, "64 clients, 1 000 actors", 64, 1_000, 2_000).await;
        round(&handle, "1 client starts 50 000 actors", 1, 50_000, 50_000).await;
        round(&handle, "64 clients, 50 000 actors", 64, 50_000, 2_000).await;
        let left = handle.drain(Duration::from_secs(20)).await;
        println!("{left} actors left at the end of the drain");
    });
    fabric.arbiters.stop();
}
