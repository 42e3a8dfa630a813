//! Which member events a device was sent already, so that lazy loading need not repeat them. Forgetting is harmless: a
//! member event is sent once more.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use entities::ids::RoomNid;
use moka::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

type Key = (OwnedUserId, OwnedDeviceId, RoomNid);

/// Members sent, by device and room.
pub struct LazyMembers {
    sent: Cache<Key, Arc<Mutex<HashSet<OwnedUserId>>>>,
}

impl Default for LazyMembers {
    fn default() -> Self {
        Self {
            sent: Cache::new(20_000),
        }
    }
}

impl LazyMembers {
    /// Notes that `member` is sent now. True if it was not before.
    pub fn note_sent(&self, user: &UserId, device: &DeviceId, room: RoomNid, member: &UserId) -> bool {
        let key = (user.to_owned(), device.to_owned(), room);
        let sent = self.sent.get_with(key, Arc::default);
        // A set is whole between any two of its operations.
        sent.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(member.to_owned())
    }

    /// The device starts afresh with this room.
    pub fn forget_room(&self, user: &UserId, device: &DeviceId, room: RoomNid) {
        self.sent.invalidate(&(user.to_owned(), device.to_owned(), room));
    }
}
