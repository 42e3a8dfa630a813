//! Walks backwards through the event graph (server-server API, "Backfilling and retrieving missing events").
//!
//! Most of a room's graph is one line: a page of the timeline is read ahead, and only what lies beside it by its id.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use entities::ids::EventNid;
use ruma::OwnedEventId;

use crate::env::Env;
use crate::error::Outcome;
use crate::room::event::{Status, StoredEvent};
use crate::room::snapshot::RoomSnapshot;

/// Events of one answer at most.
pub const MAX_EVENTS: usize = 100;
/// Events that are looked at for one answer; more than it holds only where many are rejected.
const MAX_STEPS: usize = 10 * MAX_EVENTS;

/// The part of the graph that has been read.
struct Graph<'a> {
    env: &'a Env,
    room: &'a RoomSnapshot,
    known: HashMap<OwnedEventId, Arc<StoredEvent>>,
}

impl<'a> Graph<'a> {
    fn new(env: &'a Env, room: &'a RoomSnapshot) -> Self {
        let newest = room.timeline.iter();
        Self {
            env,
            room,
            known: newest
                .map(|event| (event.pdu.event_id.clone(), event.clone()))
                .collect(),
        }
    }

    /// An event of the graph. Outliers have no place in it.
    fn get(&self, id: &OwnedEventId) -> Option<&Arc<StoredEvent>> {
        let here = |event: &&Arc<StoredEvent>| event.room_nid == self.room.nid && event.status != Status::Outlier;
        self.known.get(id).filter(here)
    }

    async fn read(&mut self, ids: &[OwnedEventId]) -> Outcome<()> {
        let unknown: Vec<_> = ids.iter().filter(|id| !self.known.contains_key(*id)).cloned().collect();
        if !unknown.is_empty() {
            self.known.extend(self.env.rooms.events_by_id(&unknown).await?);
        }
        Ok(())
    }

    /// Reads the parents of an event, and with them what came before it.
    async fn read_parents(&mut self, event: &StoredEvent, ahead: usize) -> Outcome<()> {
        let parents = &event.pdu.prev_events;
        if parents.iter().all(|id| self.known.contains_key(id)) {
            return Ok(());
        }
        if let Some(pos) = event.pos {
            let limit = u32::try_from(ahead.clamp(10, MAX_EVENTS)).unwrap_or(u32::MAX);
            let rooms = &self.env.rooms;
            let page = rooms
                .timeline_range(self.room.nid, Some(pos.0 - 1), None, limit, true)
                .await?;
            for event in page {
                self.known.entry(event.pdu.event_id.clone()).or_insert(event);
            }
        }
        self.read(parents).await
    }

    fn parents(&self, event: &StoredEvent) -> Vec<Arc<StoredEvent>> {
        event
            .pdu
            .prev_events
            .iter()
            .filter_map(|id| self.get(id).cloned())
            .collect()
    }
}

/// `/backfill`: the given events and those before them, the deepest first.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn backfill(
    env: &Env,
    room: &RoomSnapshot,
    from: &[OwnedEventId],
    limit: usize,
) -> Outcome<Vec<Arc<StoredEvent>>> {
    let mut graph = Graph::new(env, room);
    graph.read(from).await?;
    let mut seen: HashSet<EventNid> = HashSet::new();
    let mut open: BinaryHeap<(i64, EventNid)> = BinaryHeap::new();
    let mut events: HashMap<EventNid, Arc<StoredEvent>> = HashMap::new();
    let mut next: Vec<Arc<StoredEvent>> = from.iter().filter_map(|id| graph.get(id).cloned()).collect();
    let mut found = Vec::new();
    for _ in 0..MAX_STEPS {
        for event in next {
            if seen.insert(event.nid) {
                open.push((event.pdu.depth, event.nid));
                events.insert(event.nid, event);
            }
        }
        if found.len() >= limit.min(MAX_EVENTS) {
            break;
        }
        let Some(event) = open.pop().and_then(|(_, nid)| events.remove(&nid)) else {
            break;
        };
        graph.read_parents(&event, limit - found.len()).await?;
        next = graph.parents(&event);
        if event.status != Status::Rejected {
            found.push(event);
        }
    }
    Ok(found)
}

/// Which events somebody misses.
#[derive(Clone, Debug)]
pub struct Gap<'a> {
    /// Those it has already.
    pub earliest: &'a [OwnedEventId],
    /// Those whose past it misses.
    pub latest: &'a [OwnedEventId],
    /// Nothing of a lower depth.
    pub min_depth: i64,
    /// How many.
    pub limit: usize,
}

/// `/get_missing_events`: what lies between two sets of events, breadth first from the later one; answered with parents
/// before children.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn missing(env: &Env, room: &RoomSnapshot, gap: &Gap<'_>) -> Outcome<Vec<Arc<StoredEvent>>> {
    let limit = gap.limit.min(MAX_EVENTS);
    let mut graph = Graph::new(env, room);
    graph.read(gap.latest).await?;
    let mut seen: HashSet<OwnedEventId> = gap.earliest.iter().chain(gap.latest).cloned().collect();
    let mut open: VecDeque<Arc<StoredEvent>> = gap.latest.iter().filter_map(|id| graph.get(id).cloned()).collect();
    let mut found: Vec<Arc<StoredEvent>> = Vec::new();
    for _ in 0..MAX_STEPS {
        let Some(event) = open.pop_front().filter(|_| found.len() < limit) else {
            break;
        };
        graph.read_parents(&event, limit - found.len()).await?;
        for parent in graph.parents(&event) {
            if parent.pdu.depth < gap.min_depth || !seen.insert(parent.pdu.event_id.clone()) {
                continue;
            }
            if parent.status != Status::Rejected && found.len() < limit {
                found.push(parent.clone());
            }
            open.push_back(parent);
        }
    }
    // Positions follow the order of arrival, which is that of the graph, also between events of one depth.
    found.sort_by_key(|event| (event.pdu.depth, Reverse(event.pos.is_none()), event.pos, event.nid));
    Ok(found)
}
