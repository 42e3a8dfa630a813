//! Which member events a device was sent, and when, so that lazy loading need not repeat them. A device has what it was
//! sent up to the token it comes back with: an answer that got lost is given again. Forgetting is harmless: a member event
//! is sent once more.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use entities::ids::{RoomNid, StreamPos};
use moka::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

type Key = (OwnedUserId, OwnedDeviceId, RoomNid);
/// With which position each member was last sent to a device that did not have it.
type Sent = HashMap<OwnedUserId, StreamPos>;

/// Members sent, by device and room.
pub struct LazyMembers {
    sent: Cache<Key, Arc<Mutex<Sent>>>,
}

impl Default for LazyMembers {
    fn default() -> Self {
        Self {
            sent: Cache::new(20_000),
        }
    }
}

impl LazyMembers {
    /// Notes that `members` are told in an answer to `since` that leads up to `upto`; without `since` the device begins
    /// anew with the room. Answers those that the device had before.
    pub fn note<'a>(
        &self,
        user: &UserId,
        device: &DeviceId,
        room: RoomNid,
        (since, upto): (Option<StreamPos>, StreamPos),
        members: &[&'a UserId],
    ) -> HashSet<&'a UserId> {
        let key = (user.to_owned(), device.to_owned(), room);
        let sent = self.sent.get_with(key, Arc::default);
        // A map is whole between any two of its operations.
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            sent.clear();
        }
        let had = |sent: &Sent, member: &UserId| sent.get(member).is_some_and(|pos| since >= Some(*pos));
        let (known, new): (HashSet<&UserId>, HashSet<&UserId>) =
            members.iter().copied().partition(|member| had(&sent, member));
        for member in new {
            sent.insert(member.to_owned(), upto);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    #[test]
    fn a_member_is_known_once_the_device_has_come_back_for_more() {
        let lazy = LazyMembers::default();
        let (bob, eve) = (user_id!("@bob:x"), user_id!("@eve:x"));
        let known = |since: Option<i64>, upto, members: &[&'static UserId]| {
            let range = (since.map(StreamPos), StreamPos(upto));
            let known = lazy.note(user_id!("@a:x"), device_id!("D"), RoomNid(1), range, members);
            let mut known: Vec<_> = known.into_iter().collect();
            known.sort_unstable();
            known
        };
        assert!(known(None, 10, &[bob]).is_empty());
        assert_eq!(known(Some(10), 12, &[bob, eve]), [bob]);
        assert_eq!(known(Some(10), 13, &[bob, eve]), [bob], "the answer got lost");
        assert_eq!(known(Some(13), 14, &[bob, eve]), [bob, eve]);
        assert!(known(None, 15, &[]).is_empty());
        assert!(known(Some(15), 16, &[bob]).is_empty(), "the device began anew");
    }
}
