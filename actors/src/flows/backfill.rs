//! Reading back beyond what this server has of a room: the missing events are fetched from others in the room while the reader
//! waits, for a while.
//!
//! Spec: server-server API, "Backfilling and retrieving missing events".

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use entities::ids::StreamPos;
use ruma::api::client::filter::RoomEventFilter;
use ruma::api::federation::backfill::get_backfill;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::ingest;
use crate::error::Outcome;
use crate::hub::Hub;
use crate::peer::handle::Pace;
use crate::room::commands::Verdict;
use crate::room::read::{self, Access, Page, PageQuery, Surroundings};
use crate::room::snapshot::{Hole, RoomSnapshot};
use crate::stream::token::Token;

/// How long one page waits for history.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often history is fetched for one page.
const ROUNDS: usize = 4;
/// How often history is fetched on the way to one event.
const ROUNDS_TO_REACH: usize = 40;
/// Events of one request.
const EVENTS: u32 = 100;
/// Missing events that are asked for at once.
const MISSING: usize = 5;
/// Servers that are asked, one after the other.
const SERVERS: usize = 4;
/// How long a room is left alone after nobody could help, milliseconds.
const PAUSE_MS: i64 = 60_000;

/// The rooms whose history is being fetched.
#[derive(Default)]
pub struct Backfills {
    rooms: DashMap<OwnedRoomId, Arc<Mutex<Desk>>>,
}

/// One fetch of a room at a time.
#[derive(Default)]
struct Desk {
    /// Nobody could help; until then nobody is asked again.
    pause_until: i64,
}

/// [`read::page`], with what is missing fetched from other servers if the page leads to it. `access` is that to the room as it
/// is then.
///
/// # Errors
/// As [`read::page`]; where other servers do not help the page is what there is.
pub async fn page(hub: &Arc<Hub>, access: &mut Access, query: &PageQuery<'_>) -> Outcome<Page> {
    let env = hub.env();
    let mut page = read::page(env, access, query).await?;
    if !query.backwards || !access.joined {
        return Ok(page);
    }
    let deadline = env.clock.instant() + PATIENCE;
    for _ in 0..ROUNDS {
        let Some(lack) = lack(access, &page, query) else {
            return Ok(page);
        };
        let left = deadline.saturating_duration_since(env.clock.instant());
        // The work goes on where the reader does not wait: the next page finds what it brought.
        let (task_hub, room_id) = (hub.clone(), access.room.room_id.clone());
        let task = env
            .io
            .spawn(async move { fill(&task_hub, &room_id, &lack.missing).await });
        match timeout(left, task).await {
            Ok(Ok(Ok(true))) => {}
            Ok(Ok(Ok(false))) => return Ok(page),
            Ok(Ok(Err(error))) => {
                tracing::debug!(room_id = %access.room.room_id, %error, "history was not fetched");
                return Ok(page);
            }
            _ => return Ok(to_be_continued(page, lack.hole)),
        }
        access.room = hub.rooms().existing(&access.room.room_id).await?;
        page = read::page(env, access, query).await?;
    }
    let hole = lack(access, &page, query).map(|lack| lack.hole);
    Ok(match hole {
        Some(hole) => to_be_continued(page, hole),
        None => page,
    })
}

/// An event and what is around it, see [`read::surroundings`]; what is missing before it is fetched like a page's.
///
/// # Errors
/// `M_NOT_FOUND` where the user does not see the event.
pub async fn surroundings(
    hub: &Arc<Hub>,
    access: &mut Access,
    event_id: &EventId,
    limit: usize,
    filter: &RoomEventFilter,
) -> Outcome<Surroundings> {
    let event = read::event(hub.env(), access, event_id).await?;
    let before = match read::before(&event, limit, filter) {
        Some(query) => Some(page(hub, access, &query).await?),
        None => None,
    };
    read::surroundings(hub.env(), access, event, before, limit, filter).await
}

/// Fetches history until an event is here that another server knows of, or until it takes too long. Tells whether it is.
///
/// # Errors
/// `M_NOT_FOUND` for unknown rooms; `Unavailable` when the database does not answer.
pub async fn reach(hub: &Arc<Hub>, room_id: &RoomId, event_id: &EventId) -> Outcome<bool> {
    let env = hub.env();
    let deadline = env.clock.instant() + PATIENCE;
    for _ in 0..ROUNDS_TO_REACH {
        let room = hub.rooms().existing(room_id).await?;
        let stored = env.rooms.event_by_id(event_id).await?;
        if stored.is_some_and(|event| event.room_nid == room.nid && event.pos.is_some()) {
            return Ok(true);
        }
        let mut missing: Vec<_> = room.gaps.iter().collect();
        missing.sort_by_key(|(_, gap)| std::cmp::Reverse(gap.depth));
        let missing: Vec<OwnedEventId> = missing.into_iter().take(MISSING).map(|(id, _)| id.clone()).collect();
        let left = deadline.saturating_duration_since(env.clock.instant());
        if missing.is_empty() || left.is_zero() {
            return Ok(false);
        }
        let (task_hub, task_room) = (hub.clone(), room_id.to_owned());
        let task = env.io.spawn(async move { fill(&task_hub, &task_room, &missing).await });
        match timeout(left, task).await {
            Ok(Ok(Ok(true))) => {}
            Ok(Ok(Err(error))) => return Err(error),
            _ => return Ok(false),
        }
    }
    Ok(false)
}

/// Events that a page leads to and that are not here.
struct Lack {
    missing: Vec<OwnedEventId>,
    /// Where in the timeline; `None`: before its beginning.
    hole: Option<Hole>,
}

/// The first lack that the page comes to on its way back.
fn lack(access: &Access, page: &Page, query: &PageQuery<'_>) -> Option<Lack> {
    let room = &access.room;
    let from = query.from.map_or(access.upto, Token::pos).min(access.upto).0;
    let to = [page.end, query.to].into_iter().flatten();
    let to = to.map(|token| token.pos().0).max().unwrap_or(i64::MIN);
    let passed = room.holes.iter().filter(|(_, hole)| hole.low <= from && hole.low > to);
    let passed = passed.max_by_key(|(_, hole)| hole.low);
    let hole = match passed {
        Some((id, hole)) => Some((*id, *hole)),
        None if to == i64::MIN => None,
        None => return None,
    };
    let wanted = hole.map(|(id, _)| id);
    let mut missing: Vec<_> = room.gaps.iter().filter(|(_, gap)| gap.hole == wanted).collect();
    missing.sort_by_key(|(_, gap)| std::cmp::Reverse(gap.depth));
    let missing: Vec<OwnedEventId> = missing.into_iter().take(MISSING).map(|(id, _)| id.clone()).collect();
    (!missing.is_empty()).then(|| Lack {
        missing,
        hole: hole.map(|(_, hole)| hole),
    })
}

/// The page up to where something is missing that may be there the next time.
fn to_be_continued(mut page: Page, hole: Option<Hole>) -> Page {
    let Some(hole) = hole else {
        let last = page.events.last();
        page.end = page.end.or(last.and_then(|event| read::after(event, true)));
        return page;
    };
    page.events
        .retain(|event| event.pos.is_some_and(|pos| pos.0 >= hole.next));
    let depth = page.events.last().map_or(0, |event| event.pdu.depth);
    let pos = StreamPos(hole.next - 1);
    page.end = Some(Token::History { depth, pos });
    page
}

/// Fetches events that are missing, and some of those before them. Whether anything was found.
///
/// # Errors
/// `M_NOT_FOUND` for unknown rooms; `Unavailable` when the database does not answer.
pub async fn fill(hub: &Arc<Hub>, room_id: &RoomId, missing: &[OwnedEventId]) -> Outcome<bool> {
    let env = hub.env();
    let desk = env.backfills.rooms.entry(room_id.to_owned()).or_default().clone();
    let mut desk = desk.lock().await;
    let room = hub.rooms().existing(room_id).await?;
    let still: Vec<OwnedEventId> = missing
        .iter()
        .filter(|id| room.gaps.contains_key(*id))
        .cloned()
        .collect();
    if still.len() < missing.len() {
        // Somebody else has been here meanwhile.
        return Ok(true);
    }
    if env.clock.now_ms() < desk.pause_until {
        return Ok(false);
    }
    for server in whom_to_ask(&room, &env.server_name) {
        match from(hub, &room, &server, &still).await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => tracing::debug!(%room_id, %server, %error, "a server gave no history"),
        }
    }
    desk.pause_until = env.clock.now_ms() + PAUSE_MS;
    Ok(false)
}

/// The servers with most members, and the creator's.
fn whom_to_ask(room: &RoomSnapshot, us: &ServerName) -> Vec<OwnedServerName> {
    let mut servers: Vec<(&OwnedServerName, u64)> = room.server_members.iter().map(|(s, n)| (s, *n)).collect();
    servers.retain(|(server, _)| *server != us);
    servers.sort_by_key(|(_, members)| std::cmp::Reverse(*members));
    let creator = room.state_event("m.room.create", "");
    let creator = creator.map(|event| event.pdu.sender.server_name());
    let first = servers.iter().position(|(server, _)| creator == Some(&**server));
    if let Some(at) = first.filter(|at| *at >= SERVERS) {
        servers.swap(at, SERVERS - 1);
    }
    let chosen = servers.into_iter().take(SERVERS);
    chosen.map(|(server, _)| server.clone()).collect()
}

/// Whether the server brought anything new.
async fn from(
    hub: &Arc<Hub>,
    room: &Arc<RoomSnapshot>,
    server: &ServerName,
    missing: &[OwnedEventId],
) -> Outcome<bool> {
    let request = get_backfill::v1::Request::new(room.room_id.clone(), missing.to_vec(), EVENTS.into());
    let mut raw = hub.peers().call(server, request, Pace::Patient).await?.pdus;
    raw.truncate(EVENTS as usize);
    let mut pdus = ingest::verify::verified(hub.env(), &room.rules, raw, server).await?;
    pdus.retain(|pdu| pdu.room_id == room.room_id);
    let backfill = ingest::past(hub, room.clone(), server, missing, pdus).await?;
    if backfill.events.is_empty() {
        return Ok(false);
    }
    let verdicts = hub.rooms().backfill(&room.room_id, backfill).await?;
    let is_new = |verdict: &Verdict| matches!(verdict, Verdict::Accepted | Verdict::Rejected(_));
    Ok(verdicts.iter().any(is_new))
}

#[cfg(test)]
#[path = "backfill_tests.rs"]
mod tests;
