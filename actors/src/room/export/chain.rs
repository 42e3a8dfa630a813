//! Auth chains: the events that authorize given ones, those that authorize these, and so on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ruma::OwnedEventId;

use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;

/// Events of one chain at most.
const MAX_EVENTS: usize = 500_000;
/// Generations that are read by their ids; the further ancestors are few and old, and are asked for in one statement.
const GENERATIONS: usize = 3;
/// Generations in all.
const MAX_GENERATIONS: usize = 2_000;
/// Ids looked up by one statement.
const CHUNK: usize = 10_000;
/// Ancestors asked for in one statement.
const ANCESTORS: u32 = 20_000;
/// From so many events on, walking the graph is work for the CPU pool.
const MANY: usize = 500;

/// The graph as far as it has been walked.
#[derive(Default)]
struct Walk {
    /// Events whose names lead somewhere.
    known: HashMap<OwnedEventId, Arc<StoredEvent>>,
    seen: HashSet<OwnedEventId>,
    chain: Vec<Arc<StoredEvent>>,
}

impl Walk {
    /// Follows `open` as far as events are known. What is named and not known is left over.
    fn follow(&mut self, mut open: Vec<Arc<StoredEvent>>) -> Vec<OwnedEventId> {
        let mut unknown = Vec::new();
        while let Some(event) = open.pop() {
            for id in &event.pdu.auth_events {
                if !self.seen.insert(id.clone()) {
                    continue;
                }
                match self.known.get(id) {
                    Some(next) => {
                        self.chain.push(next.clone());
                        open.push(next.clone());
                    }
                    None => unknown.push(id.clone()),
                }
            }
        }
        unknown
    }
}

/// The auth chain of `roots`, in no order. A root is in it only where another one names it. Where the room is named after
/// its create event, which then authorizes every event without being named, that event is in it too.
///
/// # Errors
/// `Unavailable` when the database does not answer or the chain is too long.
pub async fn auth_chain(env: &Env, room: &RoomSnapshot, roots: &[Arc<StoredEvent>]) -> Outcome<Vec<Arc<StoredEvent>>> {
    let mut walk = Walk::default();
    let mut open: Vec<Arc<StoredEvent>> = roots.to_vec();
    for event in roots {
        walk.known.insert(event.pdu.event_id.clone(), event.clone());
    }
    for generation in 0..MAX_GENERATIONS {
        let unknown;
        (walk, unknown) = follow(env, walk, open).await?;
        if unknown.is_empty() {
            add_create(room, roots, &mut walk);
            return Ok(walk.chain);
        }
        for event in read(env, &unknown, generation).await? {
            if event.room_nid == room.nid {
                walk.known.entry(event.pdu.event_id.clone()).or_insert(event);
            }
        }
        // What is not stored here cannot be told.
        open = unknown.iter().filter_map(|id| walk.known.get(id).cloned()).collect();
        walk.chain.extend(open.iter().cloned());
        if walk.known.len() > MAX_EVENTS {
            break;
        }
    }
    Err(DomainError::unavailable(format!(
        "an auth chain in {} is too long",
        room.room_id
    )))
}

async fn follow(env: &Env, mut walk: Walk, open: Vec<Arc<StoredEvent>>) -> Outcome<(Walk, Vec<OwnedEventId>)> {
    if walk.known.len() < MANY {
        let unknown = walk.follow(open);
        return Ok((walk, unknown));
    }
    let job = move || {
        let unknown = walk.follow(open);
        (walk, unknown)
    };
    env.cpu.run(Class::Plan, job).await
}

async fn read(env: &Env, ids: &[OwnedEventId], generation: usize) -> Outcome<Vec<Arc<StoredEvent>>> {
    if generation >= GENERATIONS && ids.len() <= CHUNK {
        let before = env.rooms.generation();
        let rows = env.store.auth_ancestors(ids, ANCESTORS).await?;
        return env.rooms.decode_and_keep(rows, before).await;
    }
    let mut found = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(CHUNK) {
        found.extend(env.rooms.events_by_id(chunk).await?.into_values());
    }
    Ok(found)
}

fn add_create(room: &RoomSnapshot, roots: &[Arc<StoredEvent>], walk: &mut Walk) {
    if !room.rules.authorization.room_create_event_id_as_room_id {
        return;
    }
    let Some(create) = room.state_event("m.room.create", "") else {
        return;
    };
    let authorizes = roots.iter().any(|root| root.nid != create.nid);
    if authorizes && walk.seen.insert(create.pdu.event_id.clone()) {
        walk.chain.push(create.clone());
    }
}
