//! Staged events find their place in their rooms. One worker for each room with staged events, oldest first; what they need
//! from other servers is fetched within limits. Staging is the truth: whatever stops half-way begins again from there.
//!
//! Spec: server-server API, "PDUs", "Backfilling and retrieving missing events".

mod ask;
mod gap;
pub mod order;
mod place;
pub mod verify;
mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use ruma::{OwnedRoomId, RoomId, ServerName};
use tokio::sync::{Notify, Semaphore};

pub use self::gap::past;
pub use self::place::{End, Item, with_gap};
pub use self::verify::verify;
use crate::error::Outcome;
use crate::hub::Hub;
use crate::room::commands::SetReceipt;
use crate::room::event::Pdu;

/// Gaps that are filled at the same time.
const GAPS_AT_ONCE: usize = 16;
/// Member events that other servers wait for, or waited for, whose parents are being fetched.
const MEMBERS_AT_ONCE: usize = 64;
/// Rooms whose staged events are worked on at the same time.
const ROOMS_AT_ONCE: usize = 64;
/// Receipts that wait for a room's staged events.
const MAX_RECEIPTS: usize = 1_000;

/// How far to go for what is missing.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Requests for events in between.
    pub rounds: usize,
    /// Servers to ask.
    pub servers: usize,
}

impl Effort {
    /// Whatever helps.
    pub const FULL: Self = Self { rounds: 5, servers: 4 };
    /// For a room with more than can be worked off soon.
    pub const LITTLE: Self = Self { rounds: 1, servers: 1 };
}

/// The rooms that are worked on.
pub struct Ingests {
    rooms: DashMap<OwnedRoomId, Arc<Desk>>,
    gaps: Semaphore,
    /// See [`MEMBERS_AT_ONCE`].
    pub(in crate::flows) members: Arc<Semaphore>,
    turns: Semaphore,
}

impl Default for Ingests {
    fn default() -> Self {
        Self {
            rooms: DashMap::new(),
            gaps: Semaphore::new(GAPS_AT_ONCE),
            members: Arc::new(Semaphore::new(MEMBERS_AT_ONCE)),
            turns: Semaphore::new(ROOMS_AT_ONCE),
        }
    }
}

/// What a room's worker is told.
#[derive(Default)]
struct Desk {
    /// There is something new since the worker last looked.
    again: AtomicBool,
    bell: Notify,
    /// They may point at events that are staged.
    receipts: Mutex<Vec<SetReceipt>>,
}

impl Desk {
    fn take_receipts(&self) -> Vec<SetReceipt> {
        std::mem::take(&mut *self.receipts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ingests {
    /// Whether a worker has something to do in the room.
    #[must_use]
    pub fn is_busy(&self, room_id: &RoomId) -> bool {
        self.rooms.contains_key(room_id)
    }
}

/// Events were staged for a room: somebody works on them from now on.
pub fn wake(hub: &Arc<Hub>, room_id: &RoomId) {
    let rooms = &hub.env().ingests.rooms;
    let mut fresh = false;
    let entry = rooms.entry(room_id.to_owned()).or_insert_with(|| {
        fresh = true;
        Arc::default()
    });
    // Under the entry's lock: a worker that is about to end sees it.
    entry.again.store(true, Ordering::Release);
    entry.bell.notify_one();
    let desk = entry.clone();
    drop(entry);
    if fresh {
        let work = worker::run(Arc::downgrade(hub), room_id.to_owned(), desk);
        hub.env().io.spawn(work);
    }
}

/// Begins where the last process ended.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn resume(hub: &Arc<Hub>) -> Outcome<()> {
    for room in hub.env().store.staged_rooms().await? {
        match RoomId::parse(&room) {
            Ok(room_id) => wake(hub, &room_id),
            Err(error) => tracing::error!(room, %error, "events are staged for what is no room"),
        }
    }
    Ok(())
}

/// Moves other servers' receipts once the events that are staged for the room are in it: receipts often come with the events
/// that they point at.
pub async fn receipts_after(hub: &Arc<Hub>, room_id: &RoomId, mut receipts: Vec<SetReceipt>) {
    if let Some(desk) = hub.env().ingests.rooms.get(room_id) {
        let mut waiting = desk.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        receipts.truncate(MAX_RECEIPTS.saturating_sub(waiting.len()));
        waiting.append(&mut receipts);
        return;
    }
    move_receipts(hub, room_id, receipts).await;
}

async fn move_receipts(hub: &Hub, room_id: &RoomId, receipts: Vec<SetReceipt>) {
    if receipts.is_empty() {
        return;
    }
    if let Err(error) = hub.rooms().remote_receipts(room_id, receipts).await {
        tracing::debug!(%room_id, %error, "receipts were not taken over");
    }
}

/// Brings checked events of a room, which `origin` gave, into it, with whatever they need from other servers. What became of
/// each is answered in an order in which parents come first.
///
/// # Errors
/// `M_NOT_FOUND` for unknown rooms; `Overloaded` when the room has too much to do.
pub async fn fetch_and_ingest(
    hub: &Arc<Hub>,
    room_id: &RoomId,
    origin: &ServerName,
    pdus: Vec<Pdu>,
) -> Outcome<Vec<(Pdu, End)>> {
    let item = |pdu| Item {
        pdu,
        origin: origin.to_owned(),
        staged: None,
        relay: false,
    };
    let placed = place::place(hub, room_id, pdus.into_iter().map(item).collect(), Effort::FULL).await?;
    Ok(placed.into_iter().map(|(item, end)| (item.pdu, end)).collect())
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
