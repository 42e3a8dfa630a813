//! Clears away what nobody needs any more and nobody else looks after: feeds without waiters, addresses that nothing was
//! uploaded to, old transactions, messages to nobody or too many, changes that later ones hide.

use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::ids::StreamPos;

use crate::clock::Millis;
use crate::env::Env;
use crate::session::inbox;

/// How often memory is swept.
const TICK: Duration = Duration::from_secs(60);
/// The database is cleared once in so many ticks.
const DATABASE_EVERY: u32 = 60;
/// Rows deleted by one statement where there may be very many.
const AT_ONCE: u32 = 5_000;
/// How long a to-device transaction is remembered.
const TXN_LIFETIME_MS: Millis = 24 * 60 * 60 * 1_000;
/// How long the answer to another server's transaction is remembered.
const INBOUND_TXN_LIFETIME_MS: Millis = 36 * 60 * 60 * 1_000;
/// How long the end of a friendship is remembered. What one side says of it may be that late.
const FRIEND_MEMORY_MS: Millis = 90 * 24 * 60 * 60 * 1_000;
/// How long somebody has who is proving a mail address.
const EMAIL_SESSION_LIFETIME_MS: Millis = 48 * 60 * 60 * 1_000;
/// How long it is told what became of work for administrators.
const ADMIN_TASK_LIFETIME_MS: Millis = 7 * 24 * 60 * 60 * 1_000;
/// How long it is told what became of a delayed event, and of how many of a user's.
const DELAYED_EVENT_LIFETIME_MS: Millis = 7 * 24 * 60 * 60 * 1_000;
const DELAYED_EVENTS_KEPT: i64 = 1_000;
/// How long an upload may go on to an address whose time was up after it had begun.
const UPLOAD_GRACE_MS: Millis = 24 * 60 * 60 * 1_000;

/// Starts the task; it ends with the drain or the environment.
pub fn start(env: &Arc<Env>) {
    env.io.spawn(run(Arc::downgrade(env)));
}

async fn run(weak: Weak<Env>) {
    let mut ticks = 0;
    // Nobody reads yet.
    let mut horizon = weak.upgrade().map_or(StreamPos(0), |env| env.visible());
    while let Some(env) = weak.upgrade().filter(|env| !env.feeds.is_closed()) {
        sweep_memory(&env).await;
        if ticks % DATABASE_EVERY == 0 {
            clear_database(&env).await;
            prune_device_lists(&env, horizon).await;
            horizon = env.visible();
        }
        ticks = (ticks + 1) % DATABASE_EVERY;
        drop(env);
        tokio::time::sleep(TICK).await;
    }
}

async fn sweep_memory(env: &Arc<Env>) {
    let feeds = env.feeds.sweep(env.clock.now_ms());
    metrics::gauge!("feeds").set(feeds as f64);
    let swept = env.clone();
    // What it lets go of may be very much.
    let sweep = tokio::task::spawn_blocking(move || {
        swept.rooms.sweep();
        metrics::gauge!("cache_bytes", "cache" => "users").set(swept.users.sweep() as f64);
    });
    if let Err(error) = sweep.await {
        tracing::error!(%error, "the caches were not swept");
    }
}

async fn clear_database(env: &Env) {
    let now = env.clock.now_ms();
    report(
        "to-device transactions",
        env.store.prune_to_device_txns(now - TXN_LIFETIME_MS).await,
    );
    report(
        "transactions of other servers",
        env.store.prune_inbound_txns(now - INBOUND_TXN_LIFETIME_MS).await,
    );
    report(
        "messages to devices that are gone",
        env.store.prune_orphaned_messages().await,
    );
    report(
        "friendships that never were",
        env.store.prune_friends(now - FRIEND_MEMORY_MS).await,
    );
    report(
        "mail addresses to be proved",
        env.store.prune_email_sessions(now - EMAIL_SESSION_LIFETIME_MS).await,
    );
    report(
        "work for administrators that has ended",
        env.store.prune_admin_tasks(now - ADMIN_TASK_LIFETIME_MS).await,
    );
    let ended_before = now - DELAYED_EVENT_LIFETIME_MS;
    report(
        "delayed events that are over",
        env.store.prune_delayed_events(ended_before, DELAYED_EVENTS_KEPT).await,
    );
    report(
        "blocks of addresses that have ended",
        env.store.prune_ip_blocks(now).await,
    );
    inbox::trim_all(env).await;
    let reserved_before = now
        .saturating_sub(env.settings.unused_upload_lifetime_ms)
        .saturating_sub(UPLOAD_GRACE_MS);
    report(
        "reserved media addresses",
        env.store.prune_reservations(reserved_before).await,
    );
}

/// Whoever asks whose devices changed does so up to a position not much older than now, and then the newest change of each
/// user tells as much as all of them. `horizon` is a position that every request under way has passed.
async fn prune_device_lists(env: &Env, horizon: StreamPos) {
    let mut total = 0;
    let outcome = loop {
        match env.store.prune_device_list_changes(horizon.0, AT_ONCE).await {
            Ok(count) => {
                total += count;
                if count < u64::from(AT_ONCE) {
                    break Ok(total);
                }
            }
            Err(error) => break Err(error),
        }
    };
    report("changes of device lists", outcome);
}

fn report(what: &str, outcome: Result<u64, entities::error::StoreError>) {
    match outcome {
        Ok(count) => tracing::debug!(count, what, "forgotten"),
        Err(error) => tracing::warn!(%error, what, "old rows could not be deleted, the next hour tries again"),
    }
}
