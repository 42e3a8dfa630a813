//! A thread of its own that sees when an actor or an arbiter is stuck.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Fabric;

/// When the watchdog barks.
#[derive(Clone, Copy, Debug)]
pub struct WatchdogSettings {
    /// How often it looks.
    pub every: Duration,
    /// A batch that runs for longer is logged.
    pub busy: Duration,
    /// An arbiter that is later is logged.
    pub lag: Duration,
}

impl Default for WatchdogSettings {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(1),
            busy: Duration::from_secs(5),
            lag: Duration::from_millis(500),
        }
    }
}

/// Watches until it is dropped.
pub struct Watchdog {
    // Behind a lock only so that the watchdog can be shared.
    _stop: Mutex<Sender<()>>,
    barks: Arc<AtomicU64>,
}

/// A no-op task on its way through an arbiter.
struct Probe {
    sent: Instant,
    /// Microseconds it took plus one; 0 while it is on its way.
    took: Arc<AtomicU64>,
    logged: bool,
}

impl Watchdog {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(fabric: Fabric, settings: WatchdogSettings) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let barks = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&barks);
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut probes: Vec<Option<Probe>> = (0..fabric.arbiters.len()).map(|_| None).collect();
            while stopped.recv_timeout(settings.every) == Err(RecvTimeoutError::Timeout) {
                let found = look_at_actors(&fabric, settings) + look_at_arbiters(&fabric, settings, &mut probes);
                counter.fetch_add(found, Relaxed);
            }
        })?;
        Ok(Self {
            _stop: Mutex::new(stop),
            barks,
        })
    }

    /// How often something was found stuck.
    #[must_use]
    pub fn barks(&self) -> u64 {
        self.barks.load(Relaxed)
    }
}

fn look_at_actors(fabric: &Fabric, settings: WatchdogSettings) -> u64 {
    let now = fabric.clock.now_ms();
    let mut found = 0;
    fabric.registry.each(|actor| {
        if let Some(since) = actor.stuck_since(now, settings.busy) {
            found += 1;
            let info = actor.info();
            tracing::warn!(kind = %info.kind, key = %info.key, queue = info.queue, busy_ms = now - since, "actor is stuck");
        }
    });
    metrics::counter!("synapse_actor_stuck_total").increment(found);
    found
}

fn look_at_arbiters(fabric: &Fabric, settings: WatchdogSettings, probes: &mut [Option<Probe>]) -> u64 {
    let mut found = 0;
    for (index, slot) in probes.iter_mut().enumerate() {
        let now = fabric.clock.instant();
        if let Some(probe) = slot {
            let took = probe.took.load(Relaxed);
            let arrived = took != 0;
            let lag = if arrived {
                Duration::from_micros(took - 1)
            } else {
                now.saturating_duration_since(probe.sent)
            };
            fabric.arbiters.set_lag(index, lag);
            metrics::gauge!("synapse_arbiter_lag_seconds", "arbiter" => index.to_string()).set(lag.as_secs_f64());
            if lag > settings.lag && !probe.logged {
                found += 1;
                probe.logged = true;
                tracing::warn!(arbiter = index, lag_ms = lag.as_millis(), arrived, "arbiter is late");
            }
            if !arrived {
                continue;
            }
        }
        let took = Arc::new(AtomicU64::new(0));
        let (clock, report) = (fabric.clock.clone(), Arc::clone(&took));
        fabric.arbiters.handle(index).spawn_fn(move || {
            let took = clock.instant().saturating_duration_since(now).as_micros();
            report.store(u64::try_from(took).unwrap_or(u64::MAX - 1) + 1, Relaxed);
        });
        *slot = Some(Probe {
            sent: now,
            took,
            logged: false,
        });
    }
    found
}
