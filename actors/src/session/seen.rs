//! When, from where and with what a device was last seen: written now and then, never in anybody's way.

use std::collections::HashMap;
use std::time::Duration;

use entities::store::Store;
use entities::store::session::Seen;
use moka::sync::Cache;
use ruma::{OwnedDeviceId, OwnedUserId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::identity::Identity;
use crate::clock::Millis;

/// A device is written at most once in this time.
const QUIET: Duration = Duration::from_secs(180);
/// Devices whose last writing is remembered.
const REMEMBERED: u64 = 100_000;
/// Notes that may wait; more are dropped.
const WAITING: usize = 1_024;
/// How long notes are gathered for one statement.
const GATHER: Duration = Duration::from_secs(1);
/// Longer user agents are cut.
const MAX_AGENT: usize = 256;

/// Notes sightings of devices.
pub struct LastSeen {
    lately: Cache<(OwnedUserId, OwnedDeviceId), ()>,
    queue: mpsc::Sender<Seen>,
}

impl LastSeen {
    /// Starts the writer on `io`; it ends with the last handle.
    #[must_use]
    pub fn start(io: &Handle, store: Store) -> Self {
        let (queue, notes) = mpsc::channel(WAITING);
        io.spawn(write(store, notes));
        let lately = Cache::builder().max_capacity(REMEMBERED).time_to_live(QUIET).build();
        Self { lately, queue }
    }

    /// The device made a request. Cheap; never waits.
    pub fn note(&self, identity: &Identity, ip: &str, user_agent: Option<&str>, now: Millis) {
        let key = (identity.user_id.clone(), identity.device_id.clone());
        if identity.appservice.is_some() || self.lately.contains_key(&key) {
            return;
        }
        let agent: String = user_agent
            .unwrap_or_default()
            .chars()
            .filter(|c| *c != '\0')
            .take(MAX_AGENT)
            .collect();
        let note = Seen {
            user_id: key.0.to_string(),
            device_id: key.1.to_string(),
            ts: now,
            ip: ip.to_owned(),
            user_agent: agent,
        };
        if self.queue.try_send(note).is_ok() {
            self.lately.insert(key, ());
        }
    }
}

async fn write(store: Store, mut notes: mpsc::Receiver<Seen>) {
    while let Some(first) = notes.recv().await {
        tokio::time::sleep(GATHER).await;
        let mut batch = HashMap::new();
        let mut next = Some(first);
        while let Some(note) = next {
            batch.insert((note.user_id.clone(), note.device_id.clone()), note);
            next = notes.try_recv().ok();
        }
        let batch: Vec<Seen> = batch.into_values().collect();
        if let Err(error) = store.note_seen(&batch).await {
            tracing::warn!(%error, devices = batch.len(), "when devices were last seen is not written");
        }
    }
}
