//! One long poll a device: a newer one ends the older, which answers at once with what there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use tokio::sync::watch;

type Key = (OwnedUserId, OwnedDeviceId);

/// Who is polling.
#[derive(Debug, Default)]
pub struct Leases {
    held: Arc<DashMap<Key, (u64, watch::Sender<bool>)>>,
    next: AtomicU64,
}

/// The right of one poll to wait. Dropped, it makes room.
#[derive(Debug)]
pub struct Lease {
    /// Changes when a newer poll has begun.
    pub ended: watch::Receiver<bool>,
    number: u64,
    key: Key,
    held: Arc<DashMap<Key, (u64, watch::Sender<bool>)>>,
}

impl Leases {
    /// Ends the device's poll that waits, if any, and begins a new one.
    #[must_use]
    pub fn take(&self, user: &UserId, device: &DeviceId) -> Lease {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (end, ended) = watch::channel(false);
        let key = (user.to_owned(), device.to_owned());
        if let Some((_, older)) = self.held.insert(key.clone(), (number, end)) {
            older.send_replace(true);
        }
        Lease {
            ended,
            number,
            key,
            held: self.held.clone(),
        }
    }

    /// How many polls wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

impl Lease {
    /// Whether a newer poll has begun.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self.ended.borrow()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.held.remove_if(&self.key, |_, (number, _)| *number == self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::{device_id, user_id};

    #[test]
    fn the_newer_poll_wins() {
        let leases = Leases::default();
        let older = leases.take(user_id!("@a:x"), device_id!("D"));
        let other = leases.take(user_id!("@a:x"), device_id!("E"));
        let newer = leases.take(user_id!("@a:x"), device_id!("D"));
        assert!(older.is_over() && !other.is_over() && !newer.is_over());
        drop(older);
        assert_eq!(leases.len(), 2);
        drop((newer, other));
        assert!(leases.is_empty());
    }
}
