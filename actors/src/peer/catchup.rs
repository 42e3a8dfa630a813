//! What a server has missed of a room while it did not answer.
//!
//! After a short outage it gets every event of ours that it may have; after a long one only the newest: it asks for the rest
//! if it wants it.

use std::sync::Arc;

use entities::ids::RoomNid;
use ruma::ServerName;

use super::entitled::Entitled;
use super::outbox::Owed;
use crate::clock::Millis;
use crate::env::Env;
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;

/// More missed events than this make a long outage.
const MANY: usize = 50;
/// So does one of this age, milliseconds.
const LONG_MS: Millis = 60 * 60 * 1_000;
/// So many events of a room at most follow a long outage.
const NEWEST: usize = 20;
/// How many events are looked at, from the newest on, for one that the server may have.
const SEARCHED: usize = 500;

/// A part of what is owed.
#[derive(Debug, Default)]
pub struct Part {
    /// Oldest first.
    pub events: Vec<Arc<StoredEvent>>,
    /// Up to this position nothing is owed once they have arrived.
    pub upto: i64,
}

/// Reads at most `most` (at least one) of the events that `server` is owed of a room.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn read(env: &Env, server: &ServerName, nid: RoomNid, owed: Owed, most: usize) -> Outcome<Part> {
    let nothing = Part {
        events: Vec::new(),
        upto: owed.last,
    };
    let Some(room) = env.rooms.view_nid(nid).await? else {
        return Ok(nothing);
    };
    let mut entitled = Entitled::new(&env.rooms, &room, server);
    let missed = page(env, nid, (owed.first, owed.last), false, MANY + 1).await?;
    let Some(first) = missed.first() else {
        return Ok(nothing);
    };
    let age = env.clock.now_ms() - Millis::from(first.pdu.origin_server_ts.get());
    if missed.len() > MANY || age > LONG_MS {
        let events = newest(env, &room, &mut entitled, owed).await?;
        return Ok(Part { events, ..nothing });
    }
    let mut part = nothing;
    for event in missed {
        if part.events.len() == most {
            return Ok(part);
        }
        part.upto = event.pos.map_or(part.upto, |pos| pos.0);
        if entitled.to(&event).await? {
            part.events.push(event);
        }
    }
    part.upto = owed.last;
    Ok(part)
}

async fn page(
    env: &Env,
    nid: RoomNid,
    range: (i64, i64),
    newest_first: bool,
    limit: usize,
) -> Outcome<Vec<Arc<StoredEvent>>> {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let server = env.server_name.as_str();
    let rows = env
        .store
        .events_to_send_in_room(server, nid.0, range, newest_first, limit)
        .await?;
    let events = env.rooms.decode(rows).await?;
    Ok(events
        .into_iter()
        .filter(|event| range.0 <= event.pos.map_or(0, |pos| pos.0))
        .collect())
}

/// The newest event that the server may have, and those of ours that nothing follows.
async fn newest(
    env: &Env,
    room: &RoomSnapshot,
    entitled: &mut Entitled<'_>,
    owed: Owed,
) -> Outcome<Vec<Arc<StoredEvent>>> {
    let mut found: Vec<Arc<StoredEvent>> = Vec::new();
    let mut last = owed.last;
    'search: for _ in 0..SEARCHED / MANY {
        let events = page(env, room.nid, (owed.first, last), true, MANY).await?;
        for event in &events {
            if entitled.to(event).await? {
                found.push(event.clone());
                break 'search;
            }
        }
        match events.last().and_then(|event| event.pos) {
            Some(oldest) if events.len() == MANY => last = oldest.0 - 1,
            _ => break,
        }
    }
    let ends: Vec<_> = room.extremities.iter().map(|end| end.nid).collect();
    for end in env.rooms.events(&ends).await?.into_values() {
        let in_range = end.pos.is_some_and(|pos| (owed.first..=owed.last).contains(&pos.0));
        let ours = env.is_local(&end.pdu.sender) && in_range;
        if ours && found.iter().all(|event| event.nid != end.nid) && entitled.to(&end).await? {
            found.push(end);
        }
    }
    found.sort_by_key(|event| std::cmp::Reverse(event.pos));
    found.truncate(NEWEST);
    found.reverse();
    Ok(found)
}
