//! What waits for one server. Pure.
//!
//! A server that answers is fed from memory. What memory cannot hold, because the server does not answer or is too slow, is
//! *owed*: of a room it is then only known from which position on our events are missing there, and they are read from the
//! database when the time comes. Nothing is owed that is not written down before the cursor passes it, and whatever is not
//! owed holds the cursor back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use entities::destination_room;
use entities::ids::RoomNid;
use serde_json::value::{RawValue, to_raw_value};

use super::edu::EduQueue;
use crate::clock::Millis;

/// Events in one transaction (server-server API, "Transactions").
pub const MAX_PDUS: usize = 50;
/// EDUs in one transaction.
pub const MAX_EDUS: usize = 100;
/// Events that wait in memory for one server.
const MAX_FRESH: usize = 1_000;
/// Bytes of events in one transaction.
pub const MAX_BYTES: usize = 2 * 1024 * 1024;

/// An event of ours, on its way.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Its position.
    pub pos: i64,
    /// Its room.
    pub room: RoomNid,
    /// Its text.
    pub json: Arc<str>,
}

/// Our events of a room that a server has not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// The first.
    pub first: i64,
    /// The last this process knows of.
    pub last: i64,
}

/// A transaction. It is repeated as it is until it is answered.
#[derive(Debug, Default)]
pub struct Flight {
    /// Its id.
    pub id: String,
    /// When it was put together, Unix milliseconds.
    pub ts: Millis,
    /// The events.
    pub pdus: Vec<Arc<str>>,
    /// The EDUs.
    pub edus: Vec<Box<RawValue>>,
    /// Where its events from memory stand.
    pub fresh: Vec<(i64, RoomNid)>,
    /// Rooms of which nothing is owed up to a position once it is answered.
    pub covered: Vec<(RoomNid, i64)>,
    /// The positions of its durable EDUs.
    pub durable: Vec<i64>,
}

/// What changed about what is owed.
#[derive(Debug, Default)]
pub struct Changes {
    /// To be written.
    pub owed: Vec<destination_room::Model>,
    /// To be deleted: server and room.
    pub paid: Vec<(String, i64)>,
}

/// What waits for one server.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Events in memory, oldest first.
    fresh: VecDeque<Queued>,
    owed: BTreeMap<RoomNid, Owed>,
    /// Rooms whose `owed` must be written.
    changed: BTreeSet<RoomNid>,
    flight: Option<Arc<Flight>>,
    /// Whether the flight's events from memory are owed as well.
    spilled: bool,
    /// Whether durable EDUs wait in the database.
    pub durable: bool,
    /// EDUs in memory.
    pub edus: EduQueue,
}

impl Outbox {
    /// Takes over what was owed when the last process ended. `upto`: events above it are still to be pushed.
    pub fn load(&mut self, rows: Vec<destination_room::Model>, upto: i64) {
        for row in rows {
            let owed = Owed {
                first: row.first_pos,
                last: row.last_pos.max(upto),
            };
            self.owed.insert(RoomNid(row.room_nid), owed);
        }
    }

    /// An event for it; `down`: it does not answer.
    pub fn push(&mut self, queued: Queued, down: bool) {
        match self.owed.get_mut(&queued.room) {
            Some(owed) => owed.last = owed.last.max(queued.pos),
            None if down || self.fresh.len() >= MAX_FRESH => self.owe(queued.room, queued.pos),
            None => self.fresh.push_back(queued),
        }
    }

    fn owe(&mut self, room: RoomNid, pos: i64) {
        let before = self.owed.get(&room).copied();
        let owed = self.owed.entry(room).or_insert(Owed { first: pos, last: pos });
        owed.first = owed.first.min(pos);
        owed.last = owed.last.max(pos);
        // Where it ends need not be written: what is owed is read up to the end anyway.
        if before.is_none_or(|before| before.first != owed.first) {
            self.changed.insert(room);
        }
    }

    /// The server did not answer: whatever is in memory is owed.
    pub fn spill(&mut self) {
        for queued in std::mem::take(&mut self.fresh) {
            self.owe(queued.room, queued.pos);
        }
        if let Some(flight) = self.flight.clone()
            && !std::mem::replace(&mut self.spilled, true)
        {
            for (pos, room) in &flight.fresh {
                self.owe(*room, *pos);
            }
        }
    }

    /// Gives up the transaction under way; what it held is owed, or lies in the database, or is forgotten.
    pub fn abandon(&mut self) {
        self.spill();
        if let Some(flight) = self.flight.take() {
            self.durable |= !flight.durable.is_empty();
        }
    }

    /// The transaction to repeat.
    #[must_use]
    pub fn flight(&self) -> Option<Arc<Flight>> {
        self.flight.clone()
    }

    /// Whether there is anything to send.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.flight.is_some()
            || self.durable
            || !self.fresh.is_empty()
            || !self.owed.is_empty()
            || !self.edus.is_empty()
    }

    /// Whether it holds nothing that the database does not hold as well.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.fresh.is_empty() && self.changed.is_empty() && self.flight.is_none()
    }

    /// Rooms of which events are owed and none is in memory, those owed longest first.
    #[must_use]
    pub fn debts(&self, most: usize) -> Vec<(RoomNid, Owed)> {
        let in_memory: BTreeSet<RoomNid> = self.fresh.iter().map(|queued| queued.room).collect();
        let free = self.owed.iter().filter(|(room, _)| !in_memory.contains(room));
        let mut debts: Vec<_> = free.map(|(room, owed)| (*room, *owed)).collect();
        debts.sort_by_key(|(room, owed)| (owed.first, *room));
        debts.truncate(most);
        debts
    }

    /// Adds what lies in memory to a transaction, which is then under way; `None` if it holds nothing all the same.
    pub fn depart(&mut self, mut flight: Flight, now: Millis) -> Option<Arc<Flight>> {
        let mut bytes: usize = flight.pdus.iter().map(|pdu| pdu.len()).sum();
        while flight.pdus.len() < MAX_PDUS
            && bytes < MAX_BYTES
            && let Some(queued) = self.fresh.pop_front()
        {
            bytes += queued.json.len();
            flight.fresh.push((queued.pos, queued.room));
            flight.pdus.push(queued.json);
        }
        let room = MAX_EDUS.saturating_sub(flight.edus.len());
        let edus = self.edus.take(room, now);
        flight.edus.extend(edus.iter().filter_map(|edu| to_raw_value(edu).ok()));
        if flight.pdus.is_empty() && flight.edus.is_empty() {
            for (room, upto) in flight.covered {
                self.pay(room, upto);
            }
            return None;
        }
        let flight = Arc::new(flight);
        self.spilled = false;
        self.flight = Some(flight.clone());
        Some(flight)
    }

    /// The transaction was answered. Answers the newest of its positions.
    pub fn arrived(&mut self) -> Option<i64> {
        let flight = self.flight.take()?;
        for (pos, room) in &flight.fresh {
            self.pay(*room, *pos);
        }
        for (room, upto) in &flight.covered {
            self.pay(*room, *upto);
        }
        let fresh = flight.fresh.iter().map(|(pos, _)| *pos);
        fresh.chain(flight.covered.iter().map(|(_, upto)| *upto)).max()
    }

    /// Nothing is owed of a room up to a position.
    pub fn pay(&mut self, room: RoomNid, upto: i64) {
        let Some(owed) = self.owed.get_mut(&room).filter(|owed| owed.first <= upto) else {
            return;
        };
        owed.first = upto + 1;
        if owed.first > owed.last {
            self.owed.remove(&room);
        }
        self.changed.insert(room);
    }

    /// The lowest position of an event that only this process knows to be missing.
    #[must_use]
    pub fn lowest(&self) -> Option<i64> {
        let aboard = self.flight.iter().filter(|_| !self.spilled);
        let aboard = aboard.flat_map(|flight| &flight.fresh).map(|(pos, _)| *pos);
        aboard.chain(self.fresh.front().map(|queued| queued.pos)).min()
    }

    /// What must be written of what is owed.
    pub fn take_changes(&mut self, server: &str, into: &mut Changes) {
        for room in std::mem::take(&mut self.changed) {
            match self.owed.get(&room) {
                Some(owed) => into.owed.push(destination_room::Model {
                    server_name: server.to_owned(),
                    room_nid: room.0,
                    first_pos: owed.first,
                    last_pos: owed.last,
                }),
                None => into.paid.push((server.to_owned(), room.0)),
            }
        }
    }

    /// It could not be written.
    pub fn keep_change(&mut self, room: RoomNid) {
        self.changed.insert(room);
    }

    /// Whether this event waits in memory or is under way.
    #[must_use]
    pub fn holds(&self, pos: i64) -> bool {
        let aboard = self.flight.iter().flat_map(|flight| &flight.fresh);
        aboard
            .map(|(pos, _)| *pos)
            .chain(self.fresh.iter().map(|queued| queued.pos))
            .any(|held| held == pos)
    }

    /// From which position on events of a room are owed.
    #[must_use]
    pub fn owed_from(&self, room: RoomNid) -> Option<i64> {
        self.owed.get(&room).map(|owed| owed.first)
    }

    /// Events that wait, by room: how many in memory, and what is owed.
    #[must_use]
    pub fn by_room(&self) -> BTreeMap<RoomNid, (usize, Option<Owed>)> {
        let mut rooms: BTreeMap<RoomNid, (usize, Option<Owed>)> = BTreeMap::new();
        let aboard = self.flight.iter().flat_map(|flight| &flight.fresh);
        let aboard = aboard.map(|(_, room)| *room);
        for room in self.fresh.iter().map(|queued| queued.room).chain(aboard) {
            rooms.entry(room).or_default().0 += 1;
        }
        for (room, owed) in &self.owed {
            rooms.entry(*room).or_default().1 = Some(*owed);
        }
        rooms
    }

    /// How many events wait in memory, and of how many rooms some are owed.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.fresh.len(), self.owed.len())
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
