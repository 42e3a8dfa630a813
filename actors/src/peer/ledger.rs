//! Writes what has changed about servers, for all of them together: a fact that concerns a thousand servers must not cost a
//! thousand statements.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::handle::Shared;
use crate::clock::Millis;

/// How often changes are written.
const TICK: Duration = Duration::from_secs(1);
/// How often memory is swept, in ticks.
const SWEEP_EVERY: u32 = 10;

/// Starts the task; it ends with what it looks after. `idle`: servers that nobody has to do with leave the memory.
pub(super) fn start(shared: &Arc<Shared>, idle: Duration) {
    let idle = Millis::try_from(idle.as_millis()).unwrap_or(Millis::MAX);
    shared.env.io.spawn(run(Arc::downgrade(shared), idle));
}

async fn run(weak: Weak<Shared>, idle: Millis) {
    let mut ticks = 0;
    loop {
        tokio::time::sleep(TICK).await;
        let Some(shared) = weak.upgrade() else { return };
        write(&shared).await;
        ticks = (ticks + 1) % SWEEP_EVERY;
        if ticks == 0 {
            shared.views.sweep(shared.now().saturating_sub(idle));
        }
    }
}

/// Writes what is not written yet.
pub(super) async fn write(shared: &Shared) {
    let rows = shared.views.take_rows();
    if rows.is_empty() {
        return;
    }
    if let Err(error) = shared.env.store.put_destinations(&rows).await {
        tracing::warn!(%error, "the state of other servers is not written yet");
        shared.views.keep_rows(&rows);
    }
}
