//! One entry into a room at a time: whoever comes second finds the room there.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::error::{DomainError, Outcome};

/// The rooms that are being entered.
#[derive(Debug, Default)]
pub struct Entries {
    rooms: DashMap<OwnedRoomId, Arc<Mutex<()>>>,
}

/// The right to enter a room, until it is dropped.
#[derive(Debug)]
pub struct Entry<'a> {
    entries: &'a Entries,
    room_id: OwnedRoomId,
    held: Option<OwnedMutexGuard<()>>,
}

impl Entries {
    /// Waits for the right to enter a room.
    ///
    /// # Errors
    /// `Unavailable` when it takes longer than `patience`.
    pub async fn take(&self, room_id: &RoomId, patience: Duration) -> Outcome<Entry<'_>> {
        let lock = self.rooms.entry(room_id.to_owned()).or_default().clone();
        // Made first, so that giving up tidies as well.
        let mut turn = Entry {
            entries: self,
            room_id: room_id.to_owned(),
            held: None,
        };
        let held = tokio::time::timeout(patience, lock.lock_owned()).await;
        turn.held = Some(held.map_err(|_| DomainError::unavailable(format!("{room_id} is still being joined")))?);
        Ok(turn)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        // Whoever waits holds the lock's handle; new ones are made under the entry's lock only.
        self.entries
            .rooms
            .remove_if(&self.room_id, |_, lock| Arc::strong_count(lock) == 1);
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[tokio::test]
    async fn rooms_are_entered_one_after_the_other() {
        let entries = Entries::default();
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(20));
        let first = entries.take(room_id!("!a:x"), long).await.expect("free");
        let _other = entries.take(room_id!("!b:x"), short).await.expect("another room");
        entries.take(room_id!("!a:x"), short).await.expect_err("it is taken");
        let (second, ()) = tokio::join!(entries.take(room_id!("!a:x"), long), async { drop(first) });
        drop(second.expect("its turn"));
        assert!(!entries.rooms.contains_key(room_id!("!a:x")), "nothing is left behind");
    }
}
