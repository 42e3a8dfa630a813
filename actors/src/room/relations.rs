//! Reading what relates to an event, and a room's threads (client-server API, "Relationships API", "Threading").

use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::event::RelationQuery;
use ruma::{EventId, OwnedEventId, OwnedUserId};

use super::event::StoredEvent;
use super::read::{self, Access};
use super::redact::prune_pdu;
use super::visibility::filter_visible;
use crate::env::Env;
use crate::error::Outcome;
use crate::stream::token::Token;

/// How far indirect relations are followed.
pub const MAX_DEPTH: u32 = 3;
/// Events whose relations are followed at most.
const MAX_FOLLOWED: u32 = 1_000;
/// The most events of one page.
const MAX_PAGE: usize = 100;

/// Which relations to read.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// The event that others relate to.
    pub event_id: &'a EventId,
    /// Only this `rel_type`.
    pub rel_type: Option<&'a str>,
    /// Only this event type.
    pub event_type: Option<&'a str>,
    /// Where to begin.
    pub from: Option<Token>,
    /// Where to stop.
    pub to: Option<Token>,
    /// Newest first.
    pub backwards: bool,
    /// How many.
    pub limit: usize,
    /// Whether events that relate to related events count too.
    pub recurse: bool,
}

/// A page of related events, and where the next one begins.
pub type Page = (Vec<Arc<StoredEvent>>, Option<Token>);

/// A page of the events that relate to one event, as far as the user sees them.
///
/// # Errors
/// `M_NOT_FOUND` where the user does not see the event.
pub async fn page(env: &Env, access: &Access, query: &Query<'_>) -> Outcome<Page> {
    let target = read::event(env, access, query.event_id).await?;
    let room = &access.room;
    let mut ids = vec![target.event_id().to_string()];
    if query.recurse {
        let mut level = ids.clone();
        for _ in 1..MAX_DEPTH {
            level = env
                .store
                .related_ids(room.nid.0, &level, access.upto.0, MAX_FOLLOWED)
                .await?;
            if level.is_empty() {
                break;
            }
            ids.extend(level.iter().cloned());
        }
    }
    let limit = query.limit.clamp(1, MAX_PAGE);
    let (mut from, mut to) = (query.from.map(Token::pos), query.to.map(Token::pos));
    let newer = if query.backwards { &mut from } else { &mut to };
    *newer = Some(newer.map_or(access.upto, |pos| pos.min(access.upto)));
    let rows = env
        .store
        .relations(&RelationQuery {
            room_nid: room.nid.0,
            event_ids: &ids,
            rel_type: query.rel_type,
            event_type: query.event_type,
            from: from.map(|pos| pos.0),
            to: to.map(|pos| pos.0),
            backwards: query.backwards,
            limit: u32::try_from(limit + 1).unwrap_or(u32::MAX),
        })
        .await?;
    let mut events = env.rooms.decode(rows).await?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next = events
        .last()
        .filter(|_| more)
        .and_then(|last| read::after(last, query.backwards));
    let seen = filter_visible(&env.rooms, &access.user, room, events).await?;
    Ok((seen, next))
}

/// Which threads to read.
#[derive(Clone, Debug)]
pub struct Threads<'a> {
    /// Where to begin.
    pub from: Option<Token>,
    /// Only threads that the reader took part in.
    pub participated: bool,
    /// How many.
    pub limit: usize,
    /// Whose roots are shown pruned.
    pub ignored: &'a std::collections::HashSet<OwnedUserId>,
}

/// The roots of a room's threads, those with the newest events first.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn threads(env: &Env, access: &Access, query: &Threads<'_>) -> Outcome<Page> {
    let limit = query.limit.clamp(1, MAX_PAGE);
    let from = query.from.map_or(access.upto, |token| token.pos().min(access.upto));
    let participant = query.participated.then_some(access.user.as_str());
    let asked = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let mut rows = env
        .store
        .threads(access.room.nid.0, from.0, access.upto.0, participant, asked)
        .await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|(_, pos)| Token::Live(StreamPos((pos - 1).max(0))));
    let ids: Vec<OwnedEventId> = rows.iter().filter_map(|(id, _)| EventId::parse(id).ok()).collect();
    let found = env.rooms.events_by_id(&ids).await?;
    let here = |event: &&Arc<StoredEvent>| event.room_nid == access.room.nid && event.pos.is_some();
    let roots: Vec<_> = ids
        .iter()
        .filter_map(|id| found.get(id))
        .filter(here)
        .cloned()
        .collect();
    let mut roots = filter_visible(&env.rooms, &access.user, &access.room, roots).await?;
    for root in &mut roots {
        if query.ignored.contains(&root.pdu.sender)
            && let Ok(pdu) = prune_pdu(&root.pdu, &access.room.rules)
        {
            *root = Arc::new(StoredEvent {
                pdu: Arc::new(pdu),
                unsigned: None,
                ..(**root).clone()
            });
        }
    }
    Ok((roots, next))
}
