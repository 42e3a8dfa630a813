//! Unread counts: push rules over the events after the user's receipt, remembered for each user and room so that every
//! event is looked at once.

mod marks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use entities::ids::{RoomNid, StreamPos};
use entities::receipt;
use moka::sync::Cache;
use ruma::{OwnedEventId, OwnedUserId};
use tokio::sync::Mutex;

pub(crate) use self::marks::Marks;
use super::look::{Candidate, Look};
use super::response::Unread;
use super::{Context, tail_covers};
use crate::error::Outcome;
use crate::push::{Reader, evaluate};
use crate::room::event::{StoredEvent, thread_of};
use crate::room::visibility::membership_before;

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
    event_id: OwnedEventId,
    pos: StreamPos,
    thread: Option<String>,
    highlight: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Every event up to here was looked at; `None`: none was.
    upto: Option<StreamPos>,
    notes: VecDeque<Note>,
    /// From the user's receipts and its own messages.
    marks: Marks,
    /// Every receipt up to here is in `marks`.
    marked_upto: Option<StreamPos>,
}

impl UnreadCache {
    /// The counts for the user of `cx`.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub(super) async fn counts(
        &self,
        cx: &Context<'_>,
        room: &Candidate,
        look: &Look,
        by_thread: bool,
    ) -> Outcome<Counts> {
        let key = (cx.args.user.clone(), room.snapshot.nid);
        let state = self.rooms.get_with(key, Arc::default);
        let mut state = state.lock().await;
        state.mark(cx, room, look).await?;
        let floor = state.upto.unwrap_or(state.marks.everything());
        if state.upto.is_none() || cx.upto > floor {
            let events = unseen(cx, room, floor).await?;
            state.note(cx, room, &events).await?;
            state.upto = state.upto.max(Some(cx.upto));
        }
        let State { notes, marks, .. } = &mut *state;
        notes.retain(|note| !marks.cover(note.pos, note.thread.as_deref()));
        Ok(count(notes.iter().filter(|note| note.pos <= cx.upto), by_thread))
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

impl State {
    /// Brings the marks up to date: from what this answer knows of receipts, else from the database.
    async fn mark(&mut self, cx: &Context<'_>, room: &Candidate, look: &Look) -> Outcome<()> {
        if self.marked_upto >= Some(cx.upto) {
            return Ok(());
        }
        let user = cx.args.user.as_str();
        let own = |row: &&Arc<receipt::Model>| row.user_id == user;
        let nid = room.snapshot.nid;
        if room.is_new() {
            let all = look.receipts.get(&nid).map_or(&[][..], Vec::as_slice);
            all.iter().filter(own).for_each(|row| self.marks.note(row));
        } else if self.marked_upto.is_some() && self.marked_upto >= cx.args.since {
            let moved = room.change.receipts.iter().filter(own);
            moved.for_each(|row| self.marks.note(row));
        } else {
            let rows = cx.env.store.receipts_of_user(user, &[nid.0]).await?;
            rows.iter().for_each(|row| self.marks.note(row));
        }
        self.marked_upto = Some(cx.upto);
        Ok(())
    }

    /// Looks at events, oldest first.
    async fn note(&mut self, cx: &Context<'_>, room: &Candidate, events: &[Arc<StoredEvent>]) -> Outcome<()> {
        if events.is_empty() {
            return Ok(());
        }
        let mut reader = None;
        for event in events {
            let pos = event.pos.unwrap_or_default();
            if begins_stay(cx, event).await? {
                self.notes.clear();
            }
            if cx.view.ignored.contains(&event.pdu.sender) {
                continue;
            }
            if let Some(target) = &event.pdu.redacts {
                self.notes.retain(|note| note.event_id != *target);
            }
            let own = event.pdu.sender == cx.args.user;
            if own && event.pdu.state_key.is_some() {
                continue;
            }
            let thread = thread_of(&event.pdu);
            // Whoever writes has read what is above.
            if own {
                self.marks.raise(thread.as_deref(), pos);
                continue;
            }
            if event.redacted_by.is_some() || self.marks.cover(pos, thread.as_deref()) {
                continue;
            }
            let reader = match &mut reader {
                Some(reader) => reader,
                none => none.insert(Reader::new(&room.snapshot, cx.view)),
            };
            reader.look_at(cx.env, cx.view, thread.as_deref()).await?;
            let verdict = evaluate(reader, &cx.view.push_rules, event).await;
            if !verdict.notify {
                continue;
            }
            if self.notes.len() == MAX_NOTES {
                self.notes.pop_front();
            }
            self.notes.push_back(Note {
                event_id: event.pdu.event_id.clone(),
                pos,
                thread,
                highlight: verdict.highlight,
            });
        }
        Ok(())
    }
}

/// Whether the user came into the room with this event: what was before does not count.
async fn begins_stay(cx: &Context<'_>, event: &StoredEvent) -> Outcome<bool> {
    let joins = event.pdu.is_state("m.room.member", cx.args.user.as_str()) && event.pdu.has_membership("join");
    Ok(joins && membership_before(&cx.env.rooms, event).await?.as_deref() != Some("join"))
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

/// The events in `(floor, upto]` since the user came, oldest first; of more than can be looked at, the newest.
async fn unseen(cx: &Context<'_>, room: &Candidate, floor: StreamPos) -> Outcome<Vec<Arc<StoredEvent>>> {
    let snapshot = &room.snapshot;
    let tail = snapshot.timeline.iter().rev();
    let mut events: Vec<_> = tail.filter(|event| event.is_between(floor, cx.upto)).cloned().collect();
    let mut looked = 0;
    let mut came = arrival(cx, &events, &mut looked).await?;
    if came.is_none() && !tail_covers(snapshot, floor) {
        let oldest = snapshot.timeline.front().and_then(|event| event.pos);
        let mut from = oldest.map_or(cx.upto, |pos| StreamPos(pos.0 - 1)).min(cx.upto);
        while events.len() < MAX_SCAN && came.is_none() {
            let page = cx.page_back(snapshot, from, floor, PAGE).await?;
            let last = page.len() < PAGE as usize;
            from = page
                .last()
                .and_then(|event| event.pos)
                .map_or(floor, |pos| StreamPos(pos.0 - 1));
            events.extend(page);
            came = arrival(cx, &events, &mut looked).await?;
            if last {
                break;
            }
        }
    }
    events.truncate(came.map_or(events.len(), |at| at + 1));
    events.reverse();
    Ok(events)
}

/// Where, among events newest first, the user came into the room; those before `looked` were looked at already.
async fn arrival(cx: &Context<'_>, events: &[Arc<StoredEvent>], looked: &mut usize) -> Outcome<Option<usize>> {
    for (at, event) in events.iter().enumerate().skip(*looked) {
        if begins_stay(cx, event).await? {
            return Ok(Some(at));
        }
    }
    *looked = events.len();
    Ok(None)
}
