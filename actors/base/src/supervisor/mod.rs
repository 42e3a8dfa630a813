//! Actors that come and go: started on demand, passivated when idle, rebuilt from the store after a panic.
//!
//! A [`Handle`] routes a command by its key to the supervisor of one arbiter, and that to the key's only child. Whatever
//! touches the store runs as a task on the io runtime; arbiters only move messages.

mod actor;
mod arbiters;
mod backoff;
mod child;
mod entry;
mod handle;
mod lifecycle;
mod managed;
mod messages;
mod passivate;
#[cfg(test)]
mod tests;
mod watchdog;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

pub use self::arbiters::Arbiters;
pub use self::backoff::BackoffSettings;
pub use self::handle::Handle;
pub use self::managed::{Kind, Managed, Missing, Ran};
pub use self::messages::{Liveness, Observation, Passivation};
pub use self::watchdog::{Watchdog, WatchdogSettings};
use crate::clock::Clock;
use crate::rng::Rng;
use crate::stats::Registry;

/// What all kinds of actors share.
#[derive(Clone)]
pub struct Fabric {
    /// The shared multi-thread runtime.
    pub io: tokio::runtime::Handle,
    /// Time.
    pub clock: Clock,
    /// Spreads the pauses.
    pub rng: Rng,
    /// The actors' threads.
    pub arbiters: Arbiters,
    /// The actors' figures.
    pub registry: Arc<Registry>,
}

/// The bounds of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Commands that wait or run, per actor.
    pub queue: usize,
    /// The same per arbiter.
    pub in_flight: usize,
    /// Loads at once, per arbiter.
    pub loads: usize,
    /// Actors that wait for a load, per arbiter.
    pub waiting_loads: usize,
    /// A load that takes longer has failed.
    pub load_deadline: Duration,
    /// How long an ask waits.
    pub ask_deadline: Duration,
    /// How long a tell may wait in a queue.
    pub tell_deadline: Duration,
    /// How long "nothing there" is believed.
    pub negative: Duration,
    /// Commands wait for a pause to end if it ends within this time.
    pub hold: Duration,
    /// Without a command for this long, an actor is passivated.
    pub idle: Duration,
    /// The sum of weights above which the longest idle are passivated early.
    pub weight_capacity: u64,
    /// How often the idle are looked for.
    pub tick: Duration,
    /// After panics.
    pub backoff: BackoffSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue: 256,
            in_flight: 16_384,
            loads: 32,
            waiting_loads: 8_192,
            load_deadline: Duration::from_secs(30),
            ask_deadline: Duration::from_secs(10),
            tell_deadline: Duration::from_secs(60),
            negative: Duration::from_secs(5),
            hold: Duration::from_secs(2),
            idle: Duration::from_secs(900),
            weight_capacity: 10_000_000,
            tick: Duration::from_secs(10),
            backoff: BackoffSettings::default(),
        }
    }
}

/// What supervisors and children of one kind share.
struct Shared<M: Managed> {
    env: Arc<M::Env>,
    fabric: Fabric,
    settings: Settings,
}

/// The text of a panic, if it had one.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panicked without a text".to_owned())
}
