//! Unread counts: push rules over the events after the user's receipt, remembered for each user and room so that every
//! event is looked at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use entities::ids::{RoomNid, StreamPos};
use entities::receipt;
use moka::sync::Cache;
use ruma::OwnedUserId;
use tokio::sync::Mutex;

use super::Context;
use super::look::Candidate;
use super::response::Unread;
use crate::error::Outcome;
use crate::push::{Reader, evaluate};
use crate::room::event::{StoredEvent, relation_of};

/// Events looked at when nothing is remembered: more unread ones are not counted.
const MAX_SCAN: usize = 1_000;
const PAGE: u32 = 100;
/// Notifying events remembered for one user and room.
const MAX_NOTES: usize = 2_000;

/// Unread counts in memory.
pub struct UnreadCache {
    rooms: Cache<(OwnedUserId, RoomNid), Arc<Mutex<State>>>,
}

impl Default for UnreadCache {
    fn default() -> Self {
        Self {
            rooms: Cache::new(50_000),
        }
    }
}

/// What [`UnreadCache::counts`] answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The room, without its threads if those are counted apart.
    pub room: Unread,
    /// By thread root.
    pub threads: BTreeMap<String, Unread>,
}

/// An event that notifies.
#[derive(Clone, Debug)]
struct Note {
    pos: StreamPos,
    thread: Option<String>,
    highlight: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Everything up to here was looked at.
    upto: StreamPos,
    loaded: bool,
    notes: VecDeque<Note>,
    marks: Marks,
}

/// Up to where a user has read a room.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    everything: StreamPos,
    main: StreamPos,
    threads: BTreeMap<String, StreamPos>,
}

impl Marks {
    /// From the user's receipts in the room.
    pub(crate) fn of<'a>(receipts: impl IntoIterator<Item = &'a receipt::Model>) -> Self {
        let mut marks = Self::default();
        marks.raise(receipts);
        marks
    }

    /// Moves on to the receipts: they never go back, but who reads them may be late.
    fn raise<'a>(&mut self, receipts: impl IntoIterator<Item = &'a receipt::Model>) {
        for receipt in receipts {
            let mark = match receipt.thread_id.as_str() {
                "" => &mut self.everything,
                "main" => &mut self.main,
                thread => self.threads.entry(thread.to_owned()).or_default(),
            };
            *mark = (*mark).max(StreamPos(receipt.event_pos));
        }
    }

    fn has_read(&self, note: &Note) -> bool {
        self.cover(note.pos, note.thread.as_deref())
    }

    /// Whether an event at `pos` in a thread (by its root) or outside all threads is read.
    pub(crate) fn cover(&self, pos: StreamPos, thread: Option<&str>) -> bool {
        let mark = match thread {
            Some(thread) => self.threads.get(thread).copied().unwrap_or_default(),
            None => self.main,
        };
        pos <= self.everything.max(mark)
    }
}

impl UnreadCache {
    /// The counts for the user of `cx` as of `upto`. `receipts`: all of the room's up to there, of anybody, where they
    /// are at hand.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub(super) async fn counts(
        &self,
        cx: &Context<'_>,
        room: &Candidate,
        receipts: Option<&[receipt::Model]>,
        upto: StreamPos,
        by_thread: bool,
    ) -> Outcome<Counts> {
        let key = (cx.args.user.clone(), room.snapshot.nid);
        let state = self.rooms.get_with(key, Arc::default);
        let mut state = state.lock().await;
        if let Some(receipts) = receipts {
            let user = cx.args.user.as_str();
            state
                .marks
                .raise(receipts.iter().filter(|receipt| receipt.user_id == user));
        } else if !state.loaded || room.change.receipt || cx.args.since.is_none() {
            let nid = room.snapshot.nid.0;
            let receipts = cx.env.store.receipts_of_user(cx.args.user.as_str(), &[nid]).await?;
            state.marks.raise(&receipts);
        }
        let floor = if state.loaded {
            state.upto
        } else {
            state.marks.everything.max(room.member_pos)
        };
        if upto > floor {
            state.loaded = true;
            let events = unseen(cx, room, floor, upto).await?;
            note(cx, room, &events, &mut state).await;
        }
        state.upto = state.upto.max(upto);
        let State { notes, marks, .. } = &mut *state;
        notes.retain(|note| !marks.has_read(note));
        Ok(count(notes.iter().filter(|note| note.pos <= upto), by_thread))
    }

    /// Forgets what was counted: the user's push rules changed.
    pub fn forget(&self, user: &OwnedUserId) {
        let stale: Vec<_> = self
            .rooms
            .iter()
            .filter(|(key, _)| key.0 == *user)
            .map(|(key, _)| key)
            .collect();
        for key in stale {
            self.rooms.invalidate(&*key);
        }
    }
}

fn count<'a>(notes: impl Iterator<Item = &'a Note>, by_thread: bool) -> Counts {
    let mut counts = Counts::default();
    for note in notes {
        let unread = match &note.thread {
            Some(thread) if by_thread => counts.threads.entry(thread.clone()).or_default(),
            _ => &mut counts.room,
        };
        unread.notification_count += 1;
        unread.highlight_count += u64::from(note.highlight);
    }
    counts
}

/// Events of others in `(floor, upto]`, newest first.
async fn unseen(
    cx: &Context<'_>,
    room: &Candidate,
    floor: StreamPos,
    upto: StreamPos,
) -> Outcome<Vec<Arc<StoredEvent>>> {
    let tail = &room.snapshot.timeline;
    let mut events: Vec<_> = tail
        .iter()
        .rev()
        .filter(|event| event.is_between(floor, upto))
        .cloned()
        .collect();
    let oldest = tail.front().and_then(|event| event.pos);
    if !room.snapshot.timeline_complete && oldest.is_none_or(|pos| pos > floor) {
        let mut from = oldest.map_or(upto, |pos| StreamPos(pos.0 - 1)).min(upto);
        while events.len() < MAX_SCAN {
            let page = cx.page_back(&room.snapshot, from, floor, PAGE).await?;
            let last = page.len() < PAGE as usize;
            from = page
                .last()
                .and_then(|event| event.pos)
                .map_or(floor, |pos| StreamPos(pos.0 - 1));
            events.extend(page);
            if last {
                break;
            }
        }
    }
    events.retain(|event| event.pdu.sender != cx.args.user && !cx.view.ignored.contains(&event.pdu.sender));
    Ok(events)
}

async fn note(cx: &Context<'_>, room: &Candidate, events: &[Arc<StoredEvent>], state: &mut State) {
    if events.is_empty() {
        return;
    }
    let reader = Reader::new(&room.snapshot, cx.view);
    for event in events.iter().rev() {
        let actions = evaluate(&reader, &cx.view.push_rules, event).await;
        if !actions.notify {
            continue;
        }
        let (relates_to, rel_type) = relation_of(&event.pdu);
        let thread = relates_to.filter(|_| rel_type.as_deref() == Some("m.thread"));
        let pos = event.pos.unwrap_or_default();
        if state.notes.len() == MAX_NOTES {
            state.notes.pop_front();
        }
        state.notes.push_back(Note {
            pos,
            thread,
            highlight: actions.highlight,
        });
    }
}
