//! The newest events of a room in a range of positions.

use std::sync::Arc;

use entities::ids::StreamPos;
use ruma::api::client::filter::RoomEventFilter;

use super::filter::{event_allowed, section_allows_room, timeline_limit};
use super::{Context, tail_covers};
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;
use crate::room::visibility::filter_visible;
use crate::stream::token::Token;

/// Pages read from the database for one room before giving up on a filter that lets hardly anything through.
const MAX_PAGES: usize = 5;
/// Events in such a page.
const PAGE: u32 = 100;

/// A piece of a room's timeline: the newest events of a range.
#[derive(Debug)]
pub struct Slice {
    /// Oldest first; filtered.
    pub events: Vec<Arc<StoredEvent>>,
    /// State events that are not among `events` although they came after `start`; oldest first.
    pub dropped: Vec<Arc<StoredEvent>>,
    /// Whether events of the range are missing before the first one.
    pub limited: bool,
    /// Every event of the range from this one on was looked at; `None` where there was none to look at.
    pub start: Option<Arc<StoredEvent>>,
    /// Whether every state event of the range is in `events` or `dropped`, and nothing else has changed the state.
    pub tells_all: bool,
    /// The end of the range.
    pub upto: StreamPos,
}

impl Slice {
    /// The token to page back from.
    #[must_use]
    pub fn prev_batch(&self) -> String {
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
            None => Token::Live(self.upto).to_string(),
        }
    }

    /// Where events of the range are missing here, the slice begins behind them, and pages back from it find them.
    fn begin_behind_gap(&mut self, room: &RoomSnapshot, since: StreamPos, full: bool) {
        let oldest = self.start.as_ref().and_then(|event| event.pos);
        let holes = room.holes.values();
        let inside = holes.filter(|hole| hole.low > since.0 && hole.next <= self.upto.0);
        if let Some(hole) = inside.max_by_key(|hole| hole.low) {
            for list in [&mut self.events, &mut self.dropped] {
                list.retain(|event| event.pos >= Some(StreamPos(hole.next)));
            }
            if oldest < Some(StreamPos(hole.next)) {
                let first = self.events.first().into_iter().chain(self.dropped.first());
                self.start = first.min_by_key(|event| event.pos).cloned();
            }
            self.limited = true;
        }
        // What came before everything that is here is somewhere else.
        let begins = !full && since.0 == i64::MIN;
        self.limited |= begins && room.gaps.values().any(|gap| gap.hole.is_none());
    }

    /// Leaves out what the user does not see. The slice then begins with the first event that it does.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn hide(&mut self, cx: &Context<'_>, room: &RoomSnapshot) -> Outcome<()> {
        let all = std::mem::take(&mut self.events);
        let seen = filter_visible(&cx.env.rooms, &cx.args.user, room, all.clone()).await?;
        if seen.len() < all.len() {
            let first = seen.first().cloned();
            let after_first = |event: &Arc<StoredEvent>| first.as_ref().is_some_and(|first| event.pos > first.pos);
            let hidden = all.into_iter().filter(|event| {
                event.pdu.state_key.is_some() && seen.binary_search_by_key(&event.pos, |seen| seen.pos).is_err()
            });
            self.dropped.extend(hidden);
            self.dropped.retain(after_first);
            self.dropped.sort_by_key(|event| event.pos);
            self.start = first;
            self.tells_all = false;
        }
        self.events = seen;
        self.untangle();
        Ok(())
    }

    /// Clients take `dropped` in before `events`: where one of these would bring back what one of those replaced, the slice
    /// begins behind it.
    fn untangle(&mut self) {
        let replaced = |old: &&Arc<StoredEvent>| {
            let newer = self.dropped.iter().filter(|new| new.pos > old.pos);
            old.pdu.state_key.is_some()
                && newer
                    .into_iter()
                    .any(|new| new.pdu.state_key == old.pdu.state_key && new.pdu.kind == old.pdu.kind)
        };
        let Some(last) = self.events.iter().rev().find(replaced).and_then(|event| event.pos) else {
            return;
        };
        for list in [&mut self.events, &mut self.dropped] {
            list.retain(|event| event.pos > Some(last));
        }
        let first = self.events.first().into_iter().chain(self.dropped.first());
        self.start = first.min_by_key(|event| event.pos).cloned();
        self.limited = true;
        self.tells_all = false;
    }
}

/// The newest events with `since < position <= upto` that pass the timeline's filter, up to its limit.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn slice(cx: &Context<'_>, room: &RoomSnapshot, since: StreamPos, upto: StreamPos) -> Outcome<Slice> {
    let filter = &cx.args.filter.room.timeline;
    let mut taken = Taken {
        slice: Slice {
            events: Vec::new(),
            dropped: Vec::new(),
            limited: false,
            start: None,
            tells_all: room.extremities.len() <= 1,
            upto,
        },
        limit: timeline_limit(filter),
        filter,
        cx,
    };
    if !section_allows_room(filter, &room.room_id) {
        taken.slice.tells_all = false;
        return Ok(taken.slice);
    }
    let mut full = false;
    for event in room.timeline.iter().rev().filter(|e| e.is_between(since, upto)) {
        full = taken.take(event);
        if full {
            break;
        }
    }
    if !full && !tail_covers(room, since) {
        let oldest = room.timeline.front().and_then(|event| event.pos);
        let from = oldest.map_or(upto, |pos| StreamPos(pos.0 - 1)).min(upto);
        taken.read_on(room, from, since).await?;
    }
    let mut slice = taken.slice;
    slice.events.reverse();
    slice.dropped.reverse();
    slice.begin_behind_gap(room, since, full);
    slice.tells_all &= !slice.limited;
    slice.untangle();
    Ok(slice)
}

struct Taken<'a, 'c> {
    slice: Slice,
    limit: usize,
    filter: &'a RoomEventFilter,
    cx: &'a Context<'c>,
}

impl Taken<'_, '_> {
    /// Takes an event that is older than those before it. True if it had to be left out: the slice is full.
    fn take(&mut self, event: &Arc<StoredEvent>) -> bool {
        let wanted = event_allowed(self.filter, event) && !self.cx.is_ignored(event);
        if wanted && self.slice.events.len() == self.limit {
            self.slice.limited = true;
            return true;
        }
        self.slice.start = Some(event.clone());
        // Where branches of the room meet, the state changes without an event that says so.
        self.slice.tells_all &= event.pdu.prev_events.len() <= 1;
        if wanted {
            self.slice.events.push(event.clone());
        } else if event.pdu.state_key.is_some() {
            self.slice.dropped.push(event.clone());
        }
        false
    }

    /// Goes on with the database.
    async fn read_on(&mut self, room: &RoomSnapshot, mut from: StreamPos, since: StreamPos) -> Outcome<()> {
        for _ in 0..MAX_PAGES {
            let events = self.cx.page_back(room, from, since, PAGE).await?;
            if events.iter().any(|event| self.take(event)) || events.len() < PAGE as usize {
                return Ok(());
            }
            from = events
                .last()
                .and_then(|event| event.pos)
                .map_or(since, |pos| StreamPos(pos.0 - 1));
        }
        self.slice.limited = true;
        Ok(())
    }
}
