//! One room's worker. What is new comes first and together; then, one by one and the oldest first, what something has to be
//! fetched for. So nobody's events wait for what another server does not tell. It ends when nothing is staged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::inbound_pdu;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use tokio::time::sleep;

use super::place::{End, Item, together, with_gap};
use super::{Desk, Effort, move_receipts, order};
use crate::clock::Millis;
use crate::error::Outcome;
use crate::hub::Hub;
use crate::room::commands::Verdict;
use crate::room::parse;
use crate::room::snapshot::RoomSnapshot;

/// Staged events read at a time.
const PAGE: usize = 50;
/// Staged events that are looked at; the rest waits until these are done.
const MAX_STAGED: u32 = 20_000;
/// With more staged events than this, little is fetched.
const MANY: usize = 1_000;
/// How long an event that has no place yet waits at first; twice as long each time.
const FIRST_WAIT_MS: Millis = 30_000;
const LONGEST_WAIT_MS: Millis = 15 * 60_000;
/// An event without a place is given up this long after it came, but not before it was tried a few times.
const GIVE_UP_AFTER_MS: Millis = 2 * 60 * 60_000;
const TRIES: u32 = 4;
/// How long nothing is fetched for events of a server that kept this one waiting.
const SLOW_MS: Millis = 60_000;
/// The pause after the room or the database did not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// An event that has no place yet.
#[derive(Debug)]
struct Open {
    /// When it is worth another try.
    due: Millis,
    tries: u32,
    missing: Vec<OwnedEventId>,
    /// The server that was not asked because it is left alone for a while: once it may be asked again, it is.
    paused: Option<OwnedServerName>,
}

/// What a worker remembers of staged events, by row.
#[derive(Debug, Default)]
struct Memory {
    open: BTreeMap<i64, Open>,
    /// They have their place, and the commit that gave it to them has taken them out of staging.
    done: HashSet<i64>,
    /// What the last of them were waiting for has come.
    ready: HashSet<i64>,
    /// Servers that kept this one waiting, and until when they are not asked.
    slow: HashMap<OwnedServerName, Millis>,
}

impl Memory {
    /// Those of the staged events that nothing has to be fetched for, as far as is known.
    fn fresh(&mut self, staged: &[i64]) -> Vec<i64> {
        let all: HashSet<i64> = staged.iter().copied().collect();
        self.open.retain(|nid, _| all.contains(nid));
        self.done.clear();
        let ready = std::mem::take(&mut self.ready);
        let fresh = |nid: &&i64| !self.open.contains_key(*nid) || ready.contains(*nid);
        staged.iter().filter(fresh).copied().collect()
    }

    /// It was looked at and misses something. What was tried keeps its count.
    fn wait_for(&mut self, nid: i64, missing: Vec<OwnedEventId>, now: Millis) {
        let open = self.open.entry(nid).or_insert_with(|| Open {
            due: now,
            tries: 0,
            missing: Vec::new(),
            paused: None,
        });
        open.missing = missing;
    }

    /// It has its place: whatever waits for it is looked at again.
    fn placed(&mut self, nid: Option<i64>, event_id: &OwnedEventId) {
        if let Some(nid) = nid {
            self.open.remove(&nid);
            self.done.insert(nid);
        }
        let waiting = self.open.iter().filter(|(_, open)| open.missing.contains(event_id));
        self.ready.extend(waiting.map(|(nid, _)| *nid));
    }

    /// It was tried in vain. Whether it is to be given up.
    fn postpone(&mut self, nid: i64, received: Millis, missing: Vec<OwnedEventId>, now: Millis) -> bool {
        let tries = self.open.get(&nid).map_or(0, |open| open.tries) + 1;
        if tries >= TRIES && now - received >= GIVE_UP_AFTER_MS {
            self.open.remove(&nid);
            return true;
        }
        let wait = FIRST_WAIT_MS
            .saturating_mul(1 << (tries - 1).min(16))
            .min(LONGEST_WAIT_MS);
        let due = now + wait;
        let open = Open {
            due,
            tries,
            missing,
            paused: None,
        };
        self.open.insert(nid, open);
        false
    }

    /// It was not tried in earnest: its server is left alone for now.
    fn hold(&mut self, nid: i64, server: OwnedServerName) {
        if let Some(open) = self.open.get_mut(&nid) {
            open.paused = Some(server);
        }
    }

    /// `pause` tells how long a server is still left alone; a request of that server may have ended it early.
    fn hurry(&mut self, now: Millis, pause: impl Fn(&ServerName) -> Millis) {
        for open in self.open.values_mut() {
            if let Some(server) = &open.paused {
                open.due = open.due.min(now + pause(server));
            }
        }
    }

    /// The oldest that is worth a try now.
    fn due(&self, now: Millis) -> Option<i64> {
        self.open.iter().find(|(_, open)| open.due <= now).map(|(nid, _)| *nid)
    }

    fn next_due(&self) -> Option<Millis> {
        self.open.values().map(|open| open.due).min()
    }
}

/// What to do next.
enum Next {
    AtOnce,
    At(Millis),
    Nothing,
}

/// Works until nothing is staged for the room, or the hub is gone.
pub(super) async fn run(weak: Weak<Hub>, room_id: OwnedRoomId, desk: Arc<Desk>) {
    let mut memory = Memory::default();
    loop {
        desk.again.store(false, Ordering::Release);
        let Some(hub) = weak.upgrade().filter(|hub| !hub.is_draining()) else {
            return;
        };
        let wait = match turn(&hub, &room_id, &mut memory).await {
            Ok(Next::AtOnce) => Duration::ZERO,
            Ok(Next::At(due)) => millis_until(due, hub.env().clock.now_ms()),
            Ok(Next::Nothing) => {
                move_receipts(&hub, &room_id, desk.take_receipts()).await;
                let rooms = &hub.env().ingests.rooms;
                let over = rooms.remove_if(&room_id, |_, desk| !desk.again.load(Ordering::Acquire));
                if over.is_some() {
                    // They may have come since.
                    return move_receipts(&hub, &room_id, desk.take_receipts()).await;
                }
                Duration::ZERO
            }
            Err(error) => {
                tracing::warn!(%room_id, %error, "staged events wait");
                PAUSE
            }
        };
        move_receipts(&hub, &room_id, desk.take_receipts()).await;
        drop(hub);
        if wait.is_zero() {
            continue;
        }
        tokio::select! {
            () = desk.bell.notified() => {}
            () = sleep(wait) => {}
        }
    }
}

fn millis_until(due: Millis, now: Millis) -> Duration {
    // Not zero: there was nothing to do a moment ago.
    Duration::from_millis(u64::try_from(due - now).unwrap_or(0).max(1))
}

/// All that is new, or one that is not.
async fn turn(hub: &Arc<Hub>, room_id: &RoomId, memory: &mut Memory) -> Outcome<Next> {
    let env = hub.env();
    let _permit = env.ingests.turns.acquire().await;
    let staged = env.store.staged_in(room_id.as_str(), MAX_STAGED).await?;
    if staged.is_empty() {
        return Ok(Next::Nothing);
    }
    let room = hub.rooms().view(room_id).await?;
    let Some(room) = room.filter(|room| !room.local_joined.is_empty()) else {
        tracing::info!(%room_id, events = staged.len(), "dropping staged events of a room that was left");
        drop_rows(hub, &staged).await?;
        return Ok(Next::AtOnce);
    };
    let left_over: Vec<i64> = staged
        .iter()
        .filter(|nid| memory.done.contains(*nid))
        .copied()
        .collect();
    if !left_over.is_empty() {
        tracing::error!(%room_id, events = left_over.len(), "events have their place and are staged still");
        drop_rows(hub, &left_over).await?;
    }
    let fresh = memory.fresh(&staged);
    for page in fresh.chunks(PAGE) {
        place_page(hub, &room, env.store.staged(page).await?, memory).await?;
    }
    if !memory.ready.is_empty() {
        return Ok(Next::AtOnce);
    }
    let now = env.clock.now_ms();
    memory.hurry(now, |server| pause_of(hub, server, now));
    match (memory.due(now), memory.next_due()) {
        (Some(nid), _) => {
            let effort = if staged.len() > MANY {
                Effort::LITTLE
            } else {
                Effort::FULL
            };
            fetch_for(hub, &room, nid, effort, memory).await?;
            Ok(Next::AtOnce)
        }
        (None, Some(due)) => Ok(Next::At(due)),
        // What was not read yet.
        (None, None) => Ok(Next::AtOnce),
    }
}

/// How long a server is still left alone, milliseconds.
fn pause_of(hub: &Hub, server: &ServerName, now: Millis) -> Millis {
    hub.peers().view(server).map_or(0, |view| view.health().wait(now))
}

async fn drop_rows(hub: &Hub, nids: &[i64]) -> Outcome<()> {
    for page in nids.chunks(PAGE) {
        let mut gone = Gone::default();
        let rows = hub.env().store.staged(page).await?;
        rows.iter().for_each(|row| gone.add(&row.origin, row.nid));
        gone.discard(hub).await?;
    }
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

/// Brings in what can come in as it is; the rest is remembered as open.
async fn place_page(
    hub: &Arc<Hub>,
    room: &RoomSnapshot,
    rows: Vec<inbound_pdu::Model>,
    memory: &mut Memory,
) -> Outcome<()> {
    let mut gone = Gone::default();
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        match item_of(&row, room) {
            Some(item) => items.push(item),
            None => {
                tracing::error!(room_id = %room.room_id, event_id = row.event_id, "a staged event cannot be read");
                gone.add(&row.origin, row.nid);
            }
        }
    }
    let items = order::parents_first(items, |item| &item.pdu);
    let now = hub.env().clock.now_ms();
    for (item, end) in together(hub, &room.room_id, items).await? {
        match end {
            End::Settled(verdict) => settled(&item, &verdict, memory),
            End::Open { missing, .. } => {
                if let Some(nid) = item.staged {
                    memory.wait_for(nid, missing, now);
                }
            }
            End::Hopeless(reason) => hopeless(&item, &reason, &mut gone),
        }
    }
    gone.discard(hub).await
}

/// Fetches what one event needs, unless its server kept this one waiting a moment ago.
async fn fetch_for(hub: &Arc<Hub>, room: &RoomSnapshot, nid: i64, effort: Effort, memory: &mut Memory) -> Outcome<()> {
    let Some(row) = hub.env().store.staged(&[nid]).await?.pop() else {
        memory.open.remove(&nid);
        return Ok(());
    };
    // Whatever cannot be read was dropped before.
    let Some(item) = item_of(&row, room) else { return Ok(()) };
    let missing = memory.open.get(&nid).map_or_else(Vec::new, |open| open.missing.clone());
    let now = hub.env().clock.now_ms();
    memory.slow.retain(|_, until| *until > now);
    let end = if memory.slow.contains_key(&item.origin) {
        let reason = "its server is slow".to_owned();
        End::Open { missing, reason }
    } else {
        let (end, late) = with_gap(hub, &room.room_id, &item, missing, effort).await?;
        if late {
            memory
                .slow
                .insert(item.origin.clone(), hub.env().clock.now_ms() + SLOW_MS);
        }
        end
    };
    let mut gone = Gone::default();
    match end {
        End::Settled(verdict) => settled(&item, &verdict, memory),
        End::Open { missing, reason } => {
            let now = hub.env().clock.now_ms();
            let given_up = memory.postpone(nid, row.received_ts, missing, now);
            if pause_of(hub, &item.origin, now) > 0 {
                memory.hold(nid, item.origin.clone());
            }
            let event_id = &item.pdu.event_id;
            tracing::info!(room_id = %room.room_id, %event_id, origin = row.origin, reason, given_up, "an event has no place yet");
            if given_up {
                gone.add(&row.origin, nid);
            }
        }
        End::Hopeless(reason) => hopeless(&item, &reason, &mut gone),
    }
    gone.discard(hub).await
}

fn settled(item: &Item, verdict: &Verdict, memory: &mut Memory) {
    if let Verdict::Rejected(reason) = verdict {
        let event_id = &item.pdu.event_id;
        tracing::info!(room_id = %item.pdu.room_id, %event_id, reason, "an event was rejected");
    }
    memory.placed(item.staged, &item.pdu.event_id);
}

fn hopeless(item: &Item, reason: &str, gone: &mut Gone) {
    let event_id = &item.pdu.event_id;
    tracing::warn!(room_id = %item.pdu.room_id, %event_id, reason, "an event cannot be stored");
    if let Some(nid) = item.staged {
        gone.add(item.origin.as_str(), nid);
    }
}

fn item_of(row: &inbound_pdu::Model, room: &RoomSnapshot) -> Option<Item> {
    let event_id = EventId::parse(row.event_id.as_str()).ok()?;
    Some(Item {
        pdu: parse::parse_pdu(&row.json, &room.rules, Some(event_id)).ok()?,
        origin: OwnedServerName::try_from(row.origin.as_str()).ok()?,
        staged: Some(row.nid),
        relay: false,
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
            assert_eq!((memory.due(now), memory.due(due)), (None, Some(7)));
            waits.push((due - now) / 1_000);
            now = due;
            // Looked at again in between, it keeps its place in the row.
            memory.wait_for(7, vec![id("$2")], now);
        }
        assert_eq!(waits[..7], [30, 60, 120, 240, 480, 900, 900]);
        assert!(now - 1_000 >= GIVE_UP_AFTER_MS && now - 1_000 < GIVE_UP_AFTER_MS + LONGEST_WAIT_MS);
        assert!(memory.next_due().is_none());
        // After a restart long ago it gets its tries.
        assert!((1..TRIES).all(|_| !memory.postpone(8, 1_000, Vec::new(), now)));
        assert!(memory.postpone(8, 1_000, Vec::new(), now));
    }

    #[test]
    fn an_event_of_a_server_that_is_left_alone_waits_no_longer_than_that() {
        let server = ServerName::parse("a.example").expect("a server name");
        let mut memory = Memory::default();
        memory.postpone(7, 0, vec![id("$1")], 0);
        memory.postpone(8, 0, vec![id("$1")], 0);
        memory.hold(7, server);
        memory.hurry(1_000, |_| 60_000);
        assert_eq!(memory.next_due(), Some(30_000), "it is not put off");
        memory.hurry(2_000, |_| 8_000);
        assert_eq!((memory.due(9_999), memory.due(10_000)), (None, Some(7)));
        memory.postpone(7, 0, vec![id("$1")], 10_000);
        memory.hurry(10_000, |_| 0);
        assert_eq!(memory.due(10_000), None, "what was tried in earnest waits");
    }

    #[test]
    fn what_is_new_or_was_waited_for_comes_first() {
        let mut memory = Memory::default();
        assert_eq!(memory.fresh(&[1, 2, 3]), [1, 2, 3]);
        memory.wait_for(1, vec![id("$a"), id("$b")], 0);
        memory.wait_for(2, vec![id("$c")], 0);
        memory.placed(Some(3), &id("$3"));
        assert_eq!(memory.fresh(&[1, 2, 4]), [4]);
        assert_eq!(memory.due(0), Some(1), "the oldest");
        memory.postpone(1, 0, vec![id("$b")], 0);
        assert_eq!(memory.due(0), Some(2));
        memory.placed(Some(4), &id("$b"));
        assert_eq!(memory.fresh(&[1, 2]), [1]);
        assert_eq!(memory.fresh(&[1, 2]), Vec::<i64>::new(), "once");
        assert_eq!(memory.fresh(&[2]), Vec::<i64>::new());
        assert_eq!(memory.next_due(), Some(0), "what is gone is forgotten");
    }
}
