//! What is known of devices' inboxes in memory: which messages were given out, so that they are deleted once the device
//! comes back with a later token, and nothing is written where nothing is to be deleted; and how fast inboxes grow, so that
//! those of devices that never come back are cut.

use std::collections::BTreeSet;
use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::Store;
use moka::ops::compute::Op;
use moka::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use crate::env::Env;

/// Devices that are remembered; of others one read tells what there is to delete.
const REMEMBERED: u64 = 200_000;
/// Messages to a device before its inbox is looked at again.
const LOOK_EVERY: u32 = 1_000;
type Key = (OwnedUserId, OwnedDeviceId);

/// See the module.
pub struct Inboxes {
    /// The newest message given to a device and not deleted yet; 0 where there is none.
    given: Arc<Cache<Key, i64>>,
    /// Messages that came for a device since its inbox was last looked at.
    grown: Cache<Key, u32>,
}

impl Default for Inboxes {
    fn default() -> Self {
        Self {
            given: Arc::new(Cache::new(REMEMBERED)),
            grown: Cache::new(REMEMBERED),
        }
    }
}

/// What a device's token says about its inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Todo {
    Nothing,
    /// There may be messages that it has received.
    Look,
    /// There are.
    Delete,
}

impl Inboxes {
    /// The device is about to get messages, the last of them at `pos`.
    pub fn delivered(&self, user: &UserId, device: &DeviceId, pos: StreamPos) {
        let newest = |old: Option<i64>| old.map_or(pos.0, |old| old.max(pos.0));
        let entry = self.given.entry((user.to_owned(), device.to_owned()));
        entry.and_upsert_with(|old| newest(old.map(|old| old.into_value())));
    }

    /// A message came for a device; true once in `every` times.
    fn grows(&self, key: &Key, every: u32) -> bool {
        let grown = self.grown.get(key).unwrap_or(0).saturating_add(1);
        let due = grown >= every;
        self.grown.insert(key.clone(), if due { 0 } else { grown });
        due
    }

    fn returned(&self, key: Key, upto: StreamPos) -> Todo {
        let mut todo = Todo::Nothing;
        self.given
            .entry(key)
            .and_compute_with(|old| match old.map(|old| old.into_value()) {
                None => {
                    todo = Todo::Look;
                    Op::Put(0)
                }
                Some(pos) if pos > 0 && pos <= upto.0 => {
                    todo = Todo::Delete;
                    Op::Put(0)
                }
                Some(_) => Op::Nop,
            });
        todo
    }
}

/// The device has everything up to `upto`: what it was given is deleted, in the background. Costs nothing where nothing was
/// given.
pub fn acknowledge(env: &Env, user: &UserId, device: &DeviceId, upto: StreamPos) {
    let key = (user.to_owned(), device.to_owned());
    let todo = env.inboxes.returned(key.clone(), upto);
    if todo == Todo::Nothing {
        return;
    }
    let (store, given) = (env.store.clone(), env.inboxes.given.clone());
    env.io.spawn(async move {
        if let Err(error) = delete(&store, &key, upto, todo).await {
            tracing::debug!(user = %key.0, %error, "delivered messages could not be deleted, the next sync tries again");
            given.invalidate(&key);
        }
    });
}

async fn delete(
    store: &Store,
    (user, device): &Key,
    upto: StreamPos,
    todo: Todo,
) -> Result<(), entities::error::StoreError> {
    let (user, device) = (user.as_str(), device.as_str());
    let there = todo == Todo::Delete || !store.to_device_page(user, device, 0, upto.0, 1).await?.is_empty();
    if there {
        store.to_device_ack(user, device, upto.0).await?;
    }
    Ok(())
}

/// Messages were written: of inboxes that have grown much, the oldest ones above the bound are dropped, in the background.
pub fn grown(env: &Env, messages: &[(OwnedUserId, OwnedDeviceId)]) {
    let keep = env.settings.user_limits.to_device_messages;
    let every = (keep / 10).clamp(1, LOOK_EVERY);
    let due: BTreeSet<Key> = messages
        .iter()
        .filter(|key| env.inboxes.grows(key, every))
        .cloned()
        .collect();
    if due.is_empty() {
        return;
    }
    let store = env.store.clone();
    env.io.spawn(async move {
        for (user, device) in due {
            trim(&store, user.as_str(), device.as_str(), keep).await;
        }
    });
}

/// Drops the oldest messages of every device that has more than are kept.
pub async fn trim_all(env: &Env) {
    let keep = env.settings.user_limits.to_device_messages;
    match env.store.full_inboxes(keep).await {
        Ok(full) => {
            for (user, device) in full {
                trim(&env.store, &user, &device, keep).await;
            }
        }
        Err(error) => tracing::warn!(%error, "inboxes could not be looked at, the next hour tries again"),
    }
}

/// The device has not been seen for so long that it would have to fetch more than `keep`: its user is told by what cannot
/// be decrypted, the operator by the log.
async fn trim(store: &Store, user: &str, device: &str, keep: u32) {
    match store.trim_inbox(user, device, keep).await {
        Ok(0) => {}
        Ok(dropped) => {
            metrics::counter!("to_device_dropped_total").increment(dropped);
            tracing::warn!(
                user,
                device,
                dropped,
                "the oldest messages of a device that does not fetch them were dropped"
            );
        }
        Err(error) => tracing::warn!(user, device, %error, "an inbox could not be cut, the next hour tries again"),
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    fn key() -> Key {
        (user_id!("@a:x").to_owned(), device_id!("D").to_owned())
    }

    fn deliver(inboxes: &Inboxes, pos: i64) {
        inboxes.delivered(user_id!("@a:x"), device_id!("D"), StreamPos(pos));
    }

    #[test]
    fn growth_is_looked_at_now_and_then() {
        let inboxes = Inboxes::default();
        let looks = |every| (0..10).map(|_| inboxes.grows(&key(), every)).collect::<Vec<_>>();
        assert_eq!(looks(1), [true; 10]);
        assert_eq!(looks(4).iter().filter(|due| **due).count(), 2);
        let other = (user_id!("@b:x").to_owned(), device_id!("D").to_owned());
        assert!(!inboxes.grows(&other, 2) && inboxes.grows(&other, 2));
    }

    #[test]
    fn an_unknown_device_is_looked_at_once() {
        let inboxes = Inboxes::default();
        assert_eq!(inboxes.returned(key(), StreamPos(5)), Todo::Look);
        assert_eq!(inboxes.returned(key(), StreamPos(6)), Todo::Nothing);
    }

    #[test]
    fn what_was_given_is_deleted_when_the_device_has_it() {
        let inboxes = Inboxes::default();
        deliver(&inboxes, 7);
        deliver(&inboxes, 4);
        assert_eq!(inboxes.returned(key(), StreamPos(6)), Todo::Nothing, "an older token");
        assert_eq!(inboxes.returned(key(), StreamPos(7)), Todo::Delete);
        assert_eq!(inboxes.returned(key(), StreamPos(8)), Todo::Nothing);
        deliver(&inboxes, 9);
        assert_eq!(inboxes.returned(key(), StreamPos(9)), Todo::Delete);
    }
}
