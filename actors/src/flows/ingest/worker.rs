//! One room's worker: through the staged events from the oldest on, again whenever there are new ones, until none is left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::inbound_pdu;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId};
use tokio::time::sleep;

use super::place::{End, Item, place};
use super::{Desk, Effort, move_receipts};
use crate::clock::Millis;
use crate::error::Outcome;
use crate::hub::Hub;
use crate::room::commands::Verdict;
use crate::room::parse;
use crate::room::snapshot::RoomSnapshot;

/// Staged events read at a time.
const PAGE: u32 = 50;
/// With more staged events than this, little is fetched.
const MANY: u32 = 1_000;
/// How long an event that has no place yet waits at first; twice as long each time.
const FIRST_WAIT_MS: Millis = 30_000;
const LONGEST_WAIT_MS: Millis = 15 * 60_000;
/// An event without a place is given up this long after it came, but not before it was tried a few times.
const GIVE_UP_AFTER_MS: Millis = 2 * 60 * 60_000;
const TRIES: u32 = 4;
/// The pause after the room or the database did not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// An event that has no place yet.
#[derive(Debug)]
struct Postponed {
    due: Millis,
    tries: u32,
    missing: Vec<OwnedEventId>,
}

/// What a worker remembers from pass to pass.
#[derive(Debug, Default)]
struct Memory {
    /// By row.
    postponed: HashMap<i64, Postponed>,
    /// Events that found their place since it was last asked.
    placed: HashSet<OwnedEventId>,
}

impl Memory {
    fn waits(&self, nid: i64, now: Millis) -> bool {
        self.postponed.get(&nid).is_some_and(|postponed| postponed.due > now)
    }

    /// Whether it is to be given up.
    fn postpone(&mut self, nid: i64, received: Millis, missing: Vec<OwnedEventId>, now: Millis) -> bool {
        let tries = self.postponed.get(&nid).map_or(0, |postponed| postponed.tries) + 1;
        if tries >= TRIES && now - received >= GIVE_UP_AFTER_MS {
            self.postponed.remove(&nid);
            return true;
        }
        let wait = FIRST_WAIT_MS
            .saturating_mul(1 << (tries - 1).min(16))
            .min(LONGEST_WAIT_MS);
        let due = now + wait;
        self.postponed.insert(nid, Postponed { due, tries, missing });
        false
    }

    /// Events whose parents have come meanwhile are due at once; whether there are any.
    fn hurry(&mut self) -> bool {
        let placed = std::mem::take(&mut self.placed);
        let mut any = false;
        for postponed in self.postponed.values_mut() {
            if postponed.missing.iter().any(|id| placed.contains(id)) {
                postponed.due = 0;
                any = true;
            }
        }
        any
    }

    fn next_due(&self) -> Option<Millis> {
        self.postponed.values().map(|postponed| postponed.due).min()
    }
}

/// Works until nothing is staged for the room, or the hub is gone.
pub(super) async fn run(weak: Weak<Hub>, room_id: OwnedRoomId, desk: Arc<Desk>) {
    let mut memory = Memory::default();
    loop {
        desk.again.store(false, Ordering::Release);
        let Some(hub) = weak.upgrade().filter(|hub| !hub.is_draining()) else {
            return;
        };
        let wait = match pass(&hub, &room_id, &mut memory).await {
            Ok(()) if memory.hurry() => Some(Duration::ZERO),
            Ok(()) => memory.next_due().map(|due| millis_until(due, hub.env().clock.now_ms())),
            Err(error) => {
                tracing::warn!(%room_id, %error, "staged events wait");
                Some(PAUSE)
            }
        };
        move_receipts(&hub, &room_id, desk.take_receipts()).await;
        if wait.is_none() {
            let over = hub
                .env()
                .ingests
                .rooms
                .remove_if(&room_id, |_, desk| !desk.again.load(Ordering::Acquire));
            if over.is_some() {
                // They may have come since.
                return move_receipts(&hub, &room_id, desk.take_receipts()).await;
            }
        }
        drop(hub);
        let wait = wait.unwrap_or(Duration::ZERO);
        tokio::select! {
            () = desk.bell.notified() => {}
            () = sleep(wait) => {}
        }
    }
}

fn millis_until(due: Millis, now: Millis) -> Duration {
    Duration::from_millis(u64::try_from(due - now).unwrap_or(0))
}

/// Once through everything that is staged.
async fn pass(hub: &Arc<Hub>, room_id: &RoomId, memory: &mut Memory) -> Outcome<()> {
    let env = hub.env();
    let _permit = env.ingests.passes.acquire().await;
    let many = env.store.staged_for(room_id.as_str(), MANY + 1).await? > u64::from(MANY);
    let effort = if many { Effort::LITTLE } else { Effort::FULL };
    let (mut after, mut seen) = (0, HashSet::new());
    loop {
        let mut rows = env.store.staged_page(room_id.as_str(), after, PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = last.nid;
        seen.extend(rows.iter().map(|row| row.nid));
        let now = env.clock.now_ms();
        rows.retain(|row| !memory.waits(row.nid, now));
        if rows.is_empty() {
            continue;
        }
        let room = hub.rooms().view(room_id).await?;
        match room.filter(|room| !room.local_joined.is_empty()) {
            Some(room) => page(hub, &room, rows, effort, memory).await?,
            None => {
                tracing::info!(%room_id, events = rows.len(), "dropping staged events of a room that was left");
                let mut gone = Gone::default();
                rows.iter().for_each(|row| gone.add(&row.origin, row.nid));
                gone.discard(hub).await?;
            }
        }
    }
    memory.postponed.retain(|nid, _| seen.contains(nid));
    Ok(())
}

/// By origin, rows that are given up.
#[derive(Default)]
struct Gone(BTreeMap<String, Vec<i64>>);

impl Gone {
    fn add(&mut self, origin: &str, nid: i64) {
        self.0.entry(origin.to_owned()).or_default().push(nid);
    }

    async fn discard(self, hub: &Hub) -> Outcome<()> {
        for (origin, nids) in self.0 {
            // It was checked before anything was staged.
            let Ok(origin) = OwnedServerName::try_from(origin) else {
                continue;
            };
            hub.peers().discard(&origin, nids).await?;
        }
        Ok(())
    }
}

async fn page(
    hub: &Arc<Hub>,
    room: &RoomSnapshot,
    rows: Vec<inbound_pdu::Model>,
    effort: Effort,
    memory: &mut Memory,
) -> Outcome<()> {
    let mut items = Vec::with_capacity(rows.len());
    let mut gone = Gone::default();
    let mut received = HashMap::with_capacity(rows.len());
    for row in rows {
        received.insert(row.nid, row.received_ts);
        match item_of(&row, room) {
            Some(item) => items.push(item),
            None => {
                tracing::error!(room_id = %room.room_id, event_id = row.event_id, "a staged event cannot be read");
                gone.add(&row.origin, row.nid);
            }
        }
    }
    let now = hub.env().clock.now_ms();
    for (item, end) in place(hub, &room.room_id, items, effort).await? {
        let (Some(nid), event_id) = (item.staged, &item.pdu.event_id) else {
            continue;
        };
        match end {
            End::Settled(verdict) => {
                if let Verdict::Rejected(reason) = &verdict {
                    tracing::info!(room_id = %room.room_id, %event_id, reason, "an event was rejected");
                }
                memory.postponed.remove(&nid);
                memory.placed.insert(item.pdu.event_id);
            }
            End::Open { missing, reason } => {
                let came = received.get(&nid).copied().unwrap_or(now);
                let given_up = memory.postpone(nid, came, missing, now);
                tracing::info!(room_id = %room.room_id, %event_id, origin = %item.origin, reason, given_up, "an event has no place yet");
                if given_up {
                    gone.add(item.origin.as_str(), nid);
                }
            }
            End::Hopeless(reason) => {
                tracing::warn!(room_id = %room.room_id, %event_id, reason, "an event cannot be stored");
                gone.add(item.origin.as_str(), nid);
            }
        }
    }
    gone.discard(hub).await
}

fn item_of(row: &inbound_pdu::Model, room: &RoomSnapshot) -> Option<Item> {
    let event_id = EventId::parse(row.event_id.as_str()).ok()?;
    Some(Item {
        pdu: parse::parse_pdu(&row.json, &room.rules, Some(event_id)).ok()?,
        origin: OwnedServerName::try_from(row.origin.as_str()).ok()?,
        staged: Some(row.nid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> OwnedEventId {
        EventId::parse(name).expect("an event id")
    }

    #[test]
    fn an_event_waits_longer_each_time_and_is_given_up() {
        let mut memory = Memory::default();
        let (mut now, mut waits) = (1_000, Vec::new());
        while !memory.postpone(7, 1_000, vec![id("$1")], now) {
            let due = memory.next_due().expect("it waits");
            assert!(memory.waits(7, now) && !memory.waits(7, due));
            waits.push((due - now) / 1_000);
            now = due;
        }
        assert_eq!(waits[..7], [30, 60, 120, 240, 480, 900, 900]);
        assert!(now - 1_000 >= GIVE_UP_AFTER_MS && now - 1_000 < GIVE_UP_AFTER_MS + LONGEST_WAIT_MS);
        assert!(memory.next_due().is_none());
        // After a restart long ago it gets its tries.
        assert!((1..TRIES).all(|_| !memory.postpone(8, 1_000, Vec::new(), now)));
        assert!(memory.postpone(8, 1_000, Vec::new(), now));
    }

    #[test]
    fn a_parent_that_came_ends_the_wait() {
        let mut memory = Memory::default();
        memory.postpone(1, 0, vec![id("$a"), id("$b")], 0);
        memory.postpone(2, 0, vec![id("$c")], 0);
        memory.placed.insert(id("$b"));
        assert!(memory.hurry());
        assert!(!memory.waits(1, 0) && memory.waits(2, 0));
        assert!(!memory.hurry(), "once");
    }
}
