//! Searching the messages of a user's rooms (client-server API, "Server Side Search").
//!
//! The database finds candidates within windows of the stream, so that one request never reads a room's whole history.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{RoomNid, StreamPos};
use ruma::UserId;
use ruma::api::client::filter::RoomEventFilter;
use serde::Deserialize;

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;
use crate::room::visibility::filter_visible;
use crate::session::sync::filter::{event_allowed, section_allows_room};

/// Positions that one statement looks at.
const WINDOW: i64 = 100_000;
/// Windows that one request looks at.
const MAX_WINDOWS: usize = 20;
/// Candidates of one statement.
const CANDIDATES: u32 = 200;
/// The most results of one page.
const MAX_PAGE: usize = 50;
/// Words that count.
const MAX_WORDS: usize = 4;

/// Which parts of events are searched.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// `content.body`
    pub body: bool,
    /// `content.name`
    pub name: bool,
    /// `content.topic`
    pub topic: bool,
}

/// What to search.
#[derive(Clone, Debug)]
pub struct Search<'a> {
    /// Whose rooms.
    pub user: &'a UserId,
    /// Every word of it must be there.
    pub term: &'a str,
    /// Where.
    pub keys: Keys,
    /// Which events and rooms.
    pub filter: &'a RoomEventFilter,
    /// How many.
    pub limit: usize,
    /// Where to go on.
    pub from: Option<&'a str>,
}

/// What was found, newest first.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The events, each with its room.
    pub results: Vec<(Arc<StoredEvent>, Arc<RoomSnapshot>)>,
    /// The words that were searched, lower-case.
    pub words: Vec<String>,
    /// Where to go on.
    pub next: Option<String>,
}

/// Searches the rooms the user is joined to.
///
/// # Errors
/// `M_INVALID_PARAM` for unknown tokens and empty terms.
pub async fn search(env: &Env, search: &Search<'_>) -> Outcome<Found> {
    let visible = env.visible();
    let mut upto = match search.from {
        Some(token) => token.parse().map_err(|_| DomainError::invalid_param("unknown token"))?,
        None => visible.0,
    }
    .min(visible.0);
    let words: Vec<String> = search
        .term
        .split_whitespace()
        .take(MAX_WORDS)
        .map(str::to_lowercase)
        .collect();
    if words.is_empty() {
        return Err(DomainError::invalid_param("search_term is empty"));
    }
    let rooms = rooms(env, search).await?;
    let nids: Vec<i64> = rooms.keys().map(|nid| nid.0).collect();
    let limit = search.limit.clamp(1, MAX_PAGE);
    let floor = floor(env, &nids).await?;
    let mut found = Found {
        words,
        ..Found::default()
    };
    for _ in 0..MAX_WINDOWS {
        if upto < floor || nids.is_empty() {
            return Ok(found);
        }
        let above = (upto - WINDOW).max(floor - 1);
        let rows = env
            .store
            .search_events(&nids, &found.words, above, upto, CANDIDATES)
            .await?;
        let whole = rows.len() < CANDIDATES as usize;
        for event in env.rooms.decode(rows).await? {
            let Some(pos) = event.pos else { continue };
            upto = pos.0 - 1;
            let Some(room) = rooms.get(&event.room_nid) else {
                continue;
            };
            if !matches(&event, &found.words, search.keys) || !event_allowed(search.filter, &event) {
                continue;
            }
            let seen = filter_visible(&env.rooms, search.user, room, vec![event]).await?;
            found
                .results
                .extend(seen.into_iter().map(|event| (event, room.clone())));
            if found.results.len() == limit {
                found.next = (upto >= floor).then(|| upto.to_string());
                return Ok(found);
            }
        }
        if whole {
            upto = above;
        }
    }
    found.next = Some(upto.to_string());
    Ok(found)
}

/// The user's rooms that the filter leaves in.
async fn rooms(env: &Env, search: &Search<'_>) -> Outcome<HashMap<RoomNid, Arc<RoomSnapshot>>> {
    let joined: Option<&[&str]> = Some(&["join"]);
    let mut rooms = HashMap::new();
    for (_, row) in env.store.memberships_of_user(search.user.as_str(), joined).await? {
        let Ok(room_id) = ruma::RoomId::parse(row.room_id) else {
            continue;
        };
        if !section_allows_room(search.filter, &room_id) {
            continue;
        }
        if let Some(room) = env.rooms.view(&room_id).await? {
            rooms.insert(room.nid, room);
        }
    }
    Ok(rooms)
}

/// The oldest position of any of the rooms.
async fn floor(env: &Env, nids: &[i64]) -> Outcome<i64> {
    let mut floor = i64::MAX;
    for nid in nids {
        floor = floor.min(env.store.earliest_event_pos(*nid).await?.unwrap_or(i64::MAX));
    }
    Ok(if floor == i64::MAX { StreamPos(1).0 } else { floor })
}

fn matches(event: &StoredEvent, words: &[String], keys: Keys) -> bool {
    #[derive(Deserialize)]
    struct Content {
        body: Option<String>,
        name: Option<String>,
        topic: Option<String>,
    }
    let Ok(content) = event.pdu.content_as::<Content>() else {
        return false;
    };
    let (kind, state) = (event.pdu.kind.to_string(), event.pdu.state_key.is_some());
    let text = match kind.as_str() {
        "m.room.message" if keys.body && !state => content.body,
        "m.room.name" if keys.name && state => content.name,
        "m.room.topic" if keys.topic && state => content.topic,
        _ => None,
    };
    text.map(|text| text.to_lowercase())
        .is_some_and(|text| words.iter().all(|word| text.contains(word.as_str())))
}
