//! The newest events of a room in a range of positions.

use std::sync::Arc;

use entities::ids::StreamPos;
use ruma::api::client::filter::RoomEventFilter;

use super::Context;
use super::filter::event_allowed;
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;
use crate::stream::token::Token;

/// Pages read from the database for one room before giving up on a filter that lets hardly anything through.
const MAX_PAGES: usize = 5;
/// Events in such a page.
const PAGE: u32 = 100;

/// A piece of a room's timeline.
#[derive(Debug, Default)]
pub struct Slice {
    /// Oldest first; filtered.
    pub events: Vec<Arc<StoredEvent>>,
    /// Whether events of the range are missing before the first one.
    pub limited: bool,
    /// Every event of the range from the first one on was looked at from here: the start of the slice.
    pub start: Option<Arc<StoredEvent>>,
}

impl Slice {
    /// The token to page back from.
    #[must_use]
    pub fn prev_batch(&self, since: StreamPos) -> String {
        match self
            .start
            .as_ref()
            .and_then(|event| Some((event.pdu.depth, event.pos?)))
        {
            Some((depth, pos)) => Token::History {
                depth,
                pos: StreamPos(pos.0 - 1),
            }
            .to_string(),
            None => Token::Live(since).to_string(),
        }
    }
}

/// The newest `limit` events with `since < position <= upto` that pass the filter.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn slice(
    cx: &Context<'_>,
    room: &RoomSnapshot,
    since: StreamPos,
    upto: StreamPos,
    filter: &RoomEventFilter,
    limit: usize,
) -> Outcome<Slice> {
    let mut taken = Taken {
        events: Vec::new(),
        start: None,
        limit,
        filter,
        cx,
        more: false,
    };
    let tail: Vec<_> = room
        .timeline
        .iter()
        .filter(|e| e.is_between(since, upto))
        .rev()
        .cloned()
        .collect();
    let oldest = room.timeline.front().and_then(|event| event.pos);
    let mut full = taken.take(tail);
    let covered = room.timeline_complete || oldest.is_some_and(|pos| pos <= since);
    if !full && !covered {
        let mut from = oldest.map_or(upto, |pos| StreamPos(pos.0 - 1)).min(upto);
        for page in 0.. {
            let events = cx.page_back(room, from, since, PAGE).await?;
            let last = events.len() < PAGE as usize;
            from = events
                .last()
                .and_then(|event| event.pos)
                .map_or(since, |pos| StreamPos(pos.0 - 1));
            full = taken.take(events);
            if full || last {
                break;
            }
            if page + 1 == MAX_PAGES {
                taken.more = true;
                break;
            }
        }
    }
    taken.events.reverse();
    Ok(Slice {
        events: taken.events,
        limited: taken.more,
        start: taken.start,
    })
}

struct Taken<'a, 'c> {
    events: Vec<Arc<StoredEvent>>,
    start: Option<Arc<StoredEvent>>,
    limit: usize,
    filter: &'a RoomEventFilter,
    cx: &'a Context<'c>,
    more: bool,
}

impl Taken<'_, '_> {
    /// Takes events, newest first. True once an event had to be left out: the slice is full.
    fn take(&mut self, events: Vec<Arc<StoredEvent>>) -> bool {
        for event in events {
            let wanted = event_allowed(self.filter, &event) && !self.cx.is_ignored(&event);
            if wanted && self.events.len() == self.limit {
                self.more = true;
                return true;
            }
            self.start = Some(event.clone());
            if wanted {
                self.events.push(event);
            }
        }
        false
    }
}
