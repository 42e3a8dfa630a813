//! Which users a committed fact concerns: wakes their long-polls and remembers, for each user with a live session,
//! what changed lately, so that `/sync` need not ask the database what to look at.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use dashmap::DashMap;
use entities::ids::{RoomNid, StreamPos};
use entities::receipt;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use tokio::sync::watch;

use super::fact::{Fact, FactKind};
use crate::clock::Millis;

/// How many changes a feed remembers for one user.
const RING: usize = 512;
/// A feed that nobody waits on is dropped after this time.
const IDLE_MS: Millis = 10 * 60 * 1_000;

/// What happened in one room for one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomChange {
    /// A visible event.
    pub event: bool,
    /// The newest event's position, 0 without one.
    pub event_pos: i64,
    /// The receipts that moved, newest first, each once. Their `pos` means nothing.
    pub receipts: Vec<Arc<receipt::Model>>,
    /// Who is typing.
    pub typing: bool,
    /// Room account data.
    pub account_data: bool,
}

impl RoomChange {
    fn note_receipt(&mut self, moved: &Arc<receipt::Model>) {
        let key = |row: &receipt::Model| (row.user_id.clone(), row.receipt_type.clone(), row.thread_id.clone());
        if !self.receipts.iter().any(|newer| key(newer) == key(moved)) {
            self.receipts.push(moved.clone());
        }
    }
}

/// What changed for a user in a range of positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// By room.
    pub rooms: HashMap<RoomNid, RoomChange>,
    /// Room account data names rooms by id, since the room may be unknown here.
    pub room_account_data: bool,
    /// Global account data.
    pub account_data: bool,
    /// Inboxes of the user's devices; `None` stands for several.
    pub to_device: HashSet<Option<OwnedDeviceId>>,
    /// Whose device lists.
    pub device_lists: HashSet<OwnedUserId>,
    /// Whose presence.
    pub presence: HashSet<OwnedUserId>,
    /// One-time key counts of the user's devices.
    pub key_counts: HashSet<OwnedDeviceId>,
}

impl Changes {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the device's inbox got messages.
    #[must_use]
    pub fn has_messages_for(&self, device: &DeviceId) -> bool {
        self.to_device
            .iter()
            .any(|named| named.as_ref().is_none_or(|named| named == device))
    }

    /// Newer changes are noted before older ones.
    fn note(&mut self, change: &Change) {
        match change {
            Change::Event(room, pos) => {
                let room = self.rooms.entry(*room).or_default();
                room.event = true;
                room.event_pos = room.event_pos.max(pos.0);
            }
            Change::Receipt(row) => {
                let room = self.rooms.entry(RoomNid(row.room_nid)).or_default();
                room.note_receipt(row);
            }
            Change::Typing(room) => self.rooms.entry(*room).or_default().typing = true,
            Change::RoomAccountData => self.room_account_data = true,
            Change::AccountData => self.account_data = true,
            Change::ToDevice(device) => drop(self.to_device.insert(device.clone())),
            Change::DeviceList(user) => drop(self.device_lists.insert(user.clone())),
            Change::Presence(user) => drop(self.presence.insert(user.clone())),
            Change::KeyCounts(device) => drop(self.key_counts.insert(device.clone())),
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Event(RoomNid, StreamPos),
    Receipt(Arc<receipt::Model>),
    Typing(RoomNid),
    RoomAccountData,
    AccountData,
    ToDevice(Option<OwnedDeviceId>),
    DeviceList(OwnedUserId),
    Presence(OwnedUserId),
    KeyCounts(OwnedDeviceId),
}

impl Change {
    /// `None` for facts that change nothing for `/sync`.
    fn of(fact: &Fact) -> Option<Self> {
        Some(match &fact.kind {
            FactKind::Event { event, .. } => Self::Event(event.room_nid, fact.pos),
            FactKind::Receipt { receipt, .. } => Self::Receipt(receipt.clone()),
            FactKind::Typing { room_nid, .. } => Self::Typing(*room_nid),
            FactKind::AccountData { room_id: Some(_), .. } => Self::RoomAccountData,
            FactKind::AccountData { room_id: None, .. } => Self::AccountData,
            // For those who look at everything of the user's own; there is no entry that changed.
            FactKind::ThreadSubscription => Self::AccountData,
            FactKind::ToDevice { device, .. } => Self::ToDevice(device.clone()),
            FactKind::DeviceList { user } => Self::DeviceList(user.clone()),
            FactKind::KeyCounts { device } => Self::KeyCounts(device.clone()),
            FactKind::Presence { user } => Self::Presence(user.clone()),
            FactKind::Forgotten { .. } | FactKind::Outbound { .. } => return None,
        })
    }
}

#[derive(Debug)]
struct Ring {
    /// Everything after this position is in `items`.
    floor: StreamPos,
    items: VecDeque<(StreamPos, Change)>,
}

/// What changed lately for one user.
#[derive(Debug)]
pub struct UserFeed {
    wake: watch::Sender<StreamPos>,
    ring: Mutex<Ring>,
    last_used: AtomicI64,
}

impl UserFeed {
    fn new(floor: StreamPos, now: Millis) -> Self {
        Self {
            wake: watch::Sender::new(floor),
            ring: Mutex::new(Ring {
                floor,
                items: VecDeque::new(),
            }),
            last_used: AtomicI64::new(now),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Every change of the ring is complete before its guard is dropped.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, pos: StreamPos, change: Change) {
        let mut ring = self.ring();
        if ring.items.len() == RING
            && let Some((dropped, _)) = ring.items.pop_front()
        {
            ring.floor = dropped;
        }
        ring.items.push_back((pos, change));
    }

    /// Changes with `since < position <= upto`; `None` when the feed does not reach back to `since`.
    #[must_use]
    pub fn changes(&self, since: StreamPos, upto: StreamPos) -> Option<Changes> {
        let ring = self.ring();
        if since < ring.floor {
            return None;
        }
        let mut changes = Changes::default();
        for (pos, change) in ring.items.iter().rev().take_while(|(pos, _)| *pos > since) {
            if *pos <= upto {
                changes.note(change);
            }
        }
        Some(changes)
    }

    /// Wakes when something changed; holds the newest position that did. Borrow before computing.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<StreamPos> {
        self.wake.subscribe()
    }

    /// Wakes the waiters without a change (a session ended, the server stops).
    pub fn nudge(&self) {
        self.wake.send_modify(|_| {});
    }
}

/// Every live feed, and the position up to which readers may look.
#[derive(Debug)]
pub struct Feeds {
    users: DashMap<OwnedUserId, Arc<UserFeed>>,
    visible: AtomicI64,
    /// Held for writing while a batch enters the feeds and becomes visible, so that a feed that is opened meanwhile
    /// knows from where on it is complete.
    gate: RwLock<()>,
    closed: AtomicBool,
}

impl Feeds {
    /// `visible`: everything up to here is committed.
    #[must_use]
    pub fn new(visible: StreamPos) -> Self {
        Self {
            users: DashMap::new(),
            visible: AtomicI64::new(visible.0),
            gate: RwLock::new(()),
            closed: AtomicBool::new(false),
        }
    }

    /// The newest position that readers may see.
    #[must_use]
    pub fn visible(&self) -> StreamPos {
        StreamPos(self.visible.load(Ordering::Acquire))
    }

    /// The user's feed, opened if need be.
    pub fn open(&self, user: &UserId, now: Millis) -> Arc<UserFeed> {
        if let Some(feed) = self.users.get(user) {
            feed.last_used.store(now, Ordering::Relaxed);
            return feed.clone();
        }
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let feed = self
            .users
            .entry(user.to_owned())
            .or_insert_with(|| Arc::new(UserFeed::new(self.visible(), now)));
        feed.last_used.store(now, Ordering::Relaxed);
        feed.clone()
    }

    /// Makes a batch visible: notes it in the feeds, raises the position, then wakes.
    pub(crate) fn admit(&self, facts: &[Fact], upto: StreamPos) {
        let mut woken: HashMap<&UserId, (Arc<UserFeed>, StreamPos)> = HashMap::new();
        {
            let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            for fact in facts {
                let Some(change) = Change::of(fact) else { continue };
                for user in fact.users.iter() {
                    if let Some(feed) = self.users.get(user) {
                        feed.push(fact.pos, change.clone());
                        woken.entry(user).or_insert_with(|| (feed.clone(), fact.pos)).1 = fact.pos;
                    }
                }
            }
            self.visible.fetch_max(upto.0, Ordering::Release);
        }
        for (feed, pos) in woken.into_values() {
            feed.wake.send_replace(pos);
        }
    }

    /// Wakes every waiter for the last time: the server stops.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for feed in &self.users {
            feed.nudge();
        }
    }

    /// Whether the server stops: whoever wakes up answers at once, and nobody begins to wait.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Drops feeds that nobody has used for ten minutes. Returns how many are left.
    pub fn sweep(&self, now: Millis) -> usize {
        self.users
            .retain(|_, feed| feed.wake.receiver_count() > 0 || now - feed.last_used.load(Ordering::Relaxed) < IDLE_MS);
        self.users.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::user_id;

    fn fact(pos: i64, kind: FactKind) -> Fact {
        Fact {
            pos: StreamPos(pos),
            users: Arc::from([user_id!("@a:x").to_owned()]),
            kind,
        }
    }

    fn typing(pos: i64) -> Fact {
        let kind = FactKind::Typing {
            room_nid: RoomNid(7),
            room_id: ruma::room_id!("!r:x").to_owned(),
        };
        fact(pos, kind)
    }

    #[test]
    fn a_feed_covers_what_came_after_it_was_opened() {
        let feeds = Feeds::new(StreamPos(10));
        let feed = feeds.open(user_id!("@a:x"), 0);
        feeds.admit(&[typing(11)], StreamPos(11));
        assert_eq!(feed.changes(StreamPos(9), StreamPos(11)), None);
        assert!(feed.changes(StreamPos(11), StreamPos(11)).expect("covered").is_empty());
        let changes = feed.changes(StreamPos(10), StreamPos(11)).expect("covered");
        assert!(changes.rooms[&RoomNid(7)].typing);
        assert_eq!(feeds.visible(), StreamPos(11));
    }

    #[test]
    fn an_overflowing_feed_admits_that_it_forgot() {
        let feeds = Feeds::new(StreamPos(0));
        let feed = feeds.open(user_id!("@a:x"), 0);
        for pos in 1..=600 {
            feeds.admit(&[typing(pos)], StreamPos(pos));
        }
        assert_eq!(feed.changes(StreamPos(10), StreamPos(600)), None);
        assert!(feed.changes(StreamPos(88), StreamPos(600)).is_some());
    }

    #[test]
    fn waiters_keep_a_feed_alive() {
        let feeds = Feeds::new(StreamPos(0));
        let waiter = feeds.open(user_id!("@a:x"), 0).subscribe();
        feeds.open(user_id!("@b:x"), 0);
        assert_eq!(feeds.sweep(IDLE_MS + 1), 1);
        drop(waiter);
        assert_eq!(feeds.sweep(IDLE_MS + 1), 0);
    }
}
