//! What is known of devices' inboxes in memory: which messages were given out, so that they are deleted once the device
//! comes back with a later token, and nothing is written where nothing is to be deleted.

use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::Store;
use moka::ops::compute::Op;
use moka::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use crate::env::Env;

/// Devices that are remembered; of others one read tells what there is to delete.
const REMEMBERED: u64 = 200_000;
type Key = (OwnedUserId, OwnedDeviceId);

/// See the module.
pub struct Inboxes {
    /// The newest message given to a device and not deleted yet; 0 where there is none.
    given: Arc<Cache<Key, i64>>,
}

impl Default for Inboxes {
    fn default() -> Self {
        Self {
            given: Arc::new(Cache::new(REMEMBERED)),
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
