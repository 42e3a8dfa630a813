//! How requests end when the server stops: those that came are counted, and newcomers are told to go.
//!
//! A server that stops first has every answer close its connection, so that no connection is left on which a request
//! could be on its way when the server closes it. Only then it lets nothing in any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Stages of a gate, which begins open.
const CLOSING: u8 = 1;
const SHUT: u8 = 2;
/// How often somebody who waits looks.
const LOOK: Duration = Duration::from_millis(10);

/// Counts the requests in progress.
#[derive(Debug, Default)]
pub struct Gate {
    stage: AtomicU8,
    /// Requests ever let in.
    entered: AtomicU64,
    /// Of these, the ones whose answer has been handed to the connection.
    left: AtomicU64,
}

/// A request in progress, until the last piece of its answer has been taken.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// Lets a request in; `None` once the gate is shut.
    pub fn enter(self: &Arc<Self>) -> Option<Pass> {
        // Counted before looking: whoever shuts the gate and then sees nobody inside has missed nobody.
        self.entered.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(self.clone());
        (self.stage.load(Ordering::SeqCst) < SHUT).then_some(pass)
    }

    /// Whether answers have to close their connection.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.stage.load(Ordering::SeqCst) >= CLOSING
    }

    /// From now on every answer closes its connection.
    pub fn close(&self) {
        self.stage.fetch_max(CLOSING, Ordering::SeqCst);
    }

    /// From now on nobody is let in.
    pub fn shut(&self) {
        self.stage.store(SHUT, Ordering::SeqCst);
    }

    /// Waits until no request has been in progress for a while of length `quiet`; false if that does not happen
    /// before the deadline.
    pub async fn quiet(&self, quiet: Duration, deadline: Instant) -> bool {
        let (mut since, mut seen) = (Instant::now(), self.entered.load(Ordering::SeqCst));
        loop {
            let now = Instant::now();
            // The older figure first: what enters in between counts as inside.
            let left = self.left.load(Ordering::SeqCst);
            let entered = self.entered.load(Ordering::SeqCst);
            if entered != left || entered != seen {
                (since, seen) = (now, entered);
            }
            if entered == left && now.duration_since(since) >= quiet {
                return true;
            }
            if now >= deadline {
                return false;
            }
            sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    const QUIET: Duration = Duration::from_millis(200);

    #[tokio::test(start_paused = true)]
    async fn whoever_is_inside_is_waited_for() {
        let gate = Arc::new(Gate::default());
        let pass = gate.enter().expect("it is open");
        assert!(!gate.quiet(QUIET, after(5_000)).await);
        let begin = Instant::now();
        let leave = async {
            sleep(Duration::from_millis(700)).await;
            drop(pass);
        };
        let (quiet, ()) = tokio::join!(gate.quiet(QUIET, after(5_000)), leave);
        assert!(quiet);
        assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_break_the_quiet() {
        let gate = Arc::new(Gate::default());
        let visits = async {
            for _ in 0..20 {
                sleep(Duration::from_millis(100)).await;
                drop(gate.enter());
            }
        };
        let begin = Instant::now();
        let (quiet, ()) = tokio::join!(gate.quiet(QUIET, after(5_000)), visits);
        assert!(quiet);
        assert!(begin.elapsed() >= Duration::from_millis(2_200), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shut_gate_lets_nobody_in() {
        let gate = Arc::new(Gate::default());
        assert!(!gate.is_closing());
        gate.close();
        assert!(gate.is_closing() && gate.enter().is_some());
        gate.shut();
        assert!(gate.is_closing() && gate.enter().is_none());
        gate.close();
        assert!(gate.enter().is_none(), "it stays shut");
        assert!(
            gate.quiet(Duration::ZERO, after(1_000)).await,
            "who was refused is not inside"
        );
    }
}
