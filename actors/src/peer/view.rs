//! What this process knows of a server, shared by everybody who has to do with it: how it goes, how many requests are
//! under way, what waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use entities::ids::RoomNid;
use entities::{destination, destination_room};
use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::edu::TransientEdu;
use super::health::{Health, Sign};
use super::outbox::{Changes, Flight, Outbox, Owed, Queued};
use crate::clock::Millis;
use crate::error::{DomainError, Outcome};

/// Requests to one server at the same time, without transactions.
pub const MAX_IN_FLIGHT: usize = 16;
/// Requests that wait for one of those.
const MAX_WAITING: usize = 64;
/// How long an answer is still news for the database, where nothing else has changed.
const STALE_SUCCESS_MS: Millis = 10 * 60 * 1_000;
/// Transactions, and refused events, that are remembered for the operator.
const LOGGED: usize = 32;

/// Counts since the server came into memory; reading them sends no message.
#[derive(Debug, Default)]
pub struct Figures {
    /// Requests under way.
    pub in_flight: AtomicUsize,
    /// Requests that wait.
    pub waiting: AtomicUsize,
    /// Requests that were answered or refused.
    pub answered: AtomicU64,
    /// Requests without an answer.
    pub failed: AtomicU64,
    /// When it last sent a request, Unix milliseconds.
    pub last_seen: AtomicI64,
}

/// A server.
pub struct PeerView {
    server: OwnedServerName,
    gate: Arc<Semaphore>,
    /// See there.
    pub figures: Figures,
    state: Mutex<State>,
}

/// What changes together.
#[derive(Default)]
struct State {
    /// Whether what is stored was read.
    loaded: bool,
    health: Health,
    /// Whether `health` must be written.
    unwritten: bool,
    outbox: Outbox,
    /// Whether a task sends to it.
    sending: bool,
    log: Log,
    touched: Millis,
}

/// The newest transactions, for the operator.
#[derive(Default)]
struct Log {
    /// When they were answered, and the positions of their events.
    sent: VecDeque<(Millis, Vec<i64>)>,
    /// Events that the server has refused: its words.
    refused: VecDeque<(OwnedEventId, String)>,
}

/// What a sender does next.
pub(super) enum Next {
    /// There is nothing to do, or not now.
    Rest,
    /// What is stored about the server must be read.
    Load,
    /// An unanswered transaction.
    Repeat(Arc<Flight>),
    /// A new one, with these rooms of which events are owed.
    Compose(Vec<(RoomNid, Owed)>),
}

/// What is known about one event of ours and one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// It waits in memory.
    Waits,
    /// It is owed.
    Owed,
    /// It was answered for, at this time if that was lately.
    Sent(Option<Millis>),
}

/// What an operator sees at one glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerInfo {
    /// `well`, `failing` (about to be tried again) or `paused`.
    pub state: &'static str,
    /// The first failure since the last success, Unix milliseconds.
    pub failing_since_ts: Option<Millis>,
    /// When it is tried again, Unix milliseconds; `None` while it may be tried at any time.
    pub next_try_ts: Option<Millis>,
    /// 0: never.
    pub last_success_ts: Millis,
    /// In words.
    pub last_error: Option<String>,
    /// Requests under way.
    pub in_flight: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Events that wait in memory.
    pub events: usize,
    /// Rooms of which it has not got all our events.
    pub rooms_behind: usize,
    /// EDUs that wait in memory.
    pub edus: usize,
    /// Whether a transaction is under way or waits to be repeated.
    pub transaction: bool,
    /// The newest of our events that it has answered for.
    pub last_sent_pos: i64,
}

impl PeerView {
    pub(super) fn new(server: OwnedServerName) -> Self {
        Self {
            server,
            gate: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            figures: Figures::default(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// How it goes.
    #[must_use]
    pub fn health(&self) -> Health {
        self.state().health.clone()
    }

    /// `upto`: events above it are still to be pushed.
    pub(super) fn load(&self, row: Option<destination::Model>, owed: Vec<destination_room::Model>, upto: i64) {
        let mut state = self.state();
        if std::mem::replace(&mut state.loaded, true) {
            return;
        }
        if let Some(row) = row {
            state.health = Health::from_row(row);
        }
        state.outbox.load(owed, upto);
    }

    /// Notes what a try that began at `began` has shown.
    pub fn note(&self, sign: Sign, began: Millis, now: Millis, chance: u64) {
        let figure = match sign {
            Sign::Down(_) => &self.figures.failed,
            Sign::Alive | Sign::Busy(_) => &self.figures.answered,
        };
        figure.fetch_add(1, Relaxed);
        let mut state = self.state();
        let before = state.health.last_success;
        let changed = state.health.note(sign, began, now, chance);
        state.unwritten |= changed || state.health.last_success - before > STALE_SUCCESS_MS;
        if state.health.pause > 0 {
            state.outbox.edus.forget_typing();
        }
        state.touched = now;
    }

    /// It has sent a request.
    pub fn seen(&self, now: Millis) {
        self.figures.last_seen.store(now, Relaxed);
        let mut state = self.state();
        let news = state.health.seen(now);
        state.unwritten |= news;
        state.touched = now;
    }

    /// Forgets its pause.
    pub fn reset(&self, now: Millis) {
        let mut state = self.state();
        state.health.reset();
        (state.unwritten, state.touched) = (true, now);
    }

    /// Lets a request pass that heeds the pause.
    ///
    /// # Errors
    /// `Unavailable` during a pause.
    pub fn admit(&self, now: Millis) -> Outcome<()> {
        let mut state = self.state();
        state.touched = now;
        match u64::try_from(state.health.wait(now)) {
            Ok(wait) if wait > 0 => Err(DomainError::Unavailable {
                retry_after_ms: wait,
                reason: format!("{} did not answer lately and is left alone", self.server),
            }),
            _ => Ok(()),
        }
    }

    /// Waits for a place among the requests under way.
    ///
    /// # Errors
    /// `Overloaded` when too many wait already.
    pub async fn place(&self) -> Outcome<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.gate).try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting = Waiting::begin(&self.figures.waiting)?;
        let permit = Arc::clone(&self.gate).acquire_owned().await;
        permit.map_err(|_| DomainError::unavailable("the server is being shut off"))
    }

    /// Whether what is stored about it was read.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.state().loaded
    }

    /// Something durable waits for it.
    pub fn want(&self, now: Millis) {
        let mut state = self.state();
        (state.outbox.durable, state.touched) = (true, now);
    }

    /// Whether anything waits for it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let state = self.state();
        state.outbox.has_work() || state.sending
    }

    /// An event of ours for it.
    pub(super) fn push(&self, queued: Queued, now: Millis) {
        let mut state = self.state();
        let down = state.health.wait(now) > 0;
        state.outbox.push(queued, down);
        state.touched = now;
    }

    /// An EDU for it. Notices of typing are not kept for a server that does not answer.
    pub(super) fn push_edu(&self, edu: TransientEdu, now: Millis) {
        let mut state = self.state();
        if state.health.pause == 0 || !edu.is_urgent() {
            state.outbox.edus.push(edu);
        }
        state.touched = now;
    }

    /// Whether a task has to be started that sends to it: then it counts as started.
    pub(super) fn begin_sending(&self, now: Millis) -> bool {
        let mut state = self.state();
        let begins = !state.sending && state.outbox.has_work() && state.health.wait(now) == 0;
        state.sending |= begins;
        begins
    }

    /// Whether a task sends to it.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.state().sending
    }

    /// The sender ended before its time.
    pub(super) fn end_sending(&self) {
        self.state().sending = false;
    }

    /// What the sender does next. After [`Next::Rest`] it is no longer the sender.
    pub(super) fn next(&self, now: Millis, rooms: usize) -> Next {
        let mut state = self.state();
        if !state.outbox.has_work() || state.health.wait(now) > 0 {
            state.sending = false;
            return Next::Rest;
        }
        if !state.loaded {
            return Next::Load;
        }
        match state.outbox.flight() {
            Some(flight) => Next::Repeat(flight),
            None => Next::Compose(state.outbox.debts(rooms)),
        }
    }

    /// Whether durable EDUs may wait; those that are written from now on count anew.
    pub(super) fn take_durable(&self) -> bool {
        std::mem::take(&mut self.state().outbox.durable)
    }

    /// See [`Outbox::depart`].
    pub(super) fn depart(&self, flight: Flight, now: Millis) -> Option<Arc<Flight>> {
        self.state().outbox.depart(flight, now)
    }

    /// The transaction under way was answered; what the server says about single events.
    pub(super) fn arrived(&self, refused: Vec<(OwnedEventId, String)>, now: Millis) {
        let mut state = self.state();
        let Some(flight) = state.outbox.flight() else { return };
        if let Some(newest) = state.outbox.arrived() {
            state.health.last_sent = state.health.last_sent.max(newest);
        }
        let positions = flight.fresh.iter().map(|(pos, _)| *pos).collect();
        state.log.sent.push_back((now, positions));
        state.log.refused.extend(refused);
        let surplus = state.log.sent.len().saturating_sub(LOGGED);
        state.log.sent.drain(..surplus);
        let surplus = state.log.refused.len().saturating_sub(LOGGED);
        state.log.refused.drain(..surplus);
    }

    /// The transaction under way was not answered. `give_up`: it is not kept.
    pub(super) fn failed(&self, give_up: bool) {
        let mut state = self.state();
        if give_up {
            state.outbox.abandon();
        } else {
            state.outbox.spill();
        }
    }

    /// What is known about one of our events.
    #[must_use]
    pub fn trace(&self, room: RoomNid, pos: i64) -> Trace {
        let state = self.state();
        if state.outbox.owed_from(room).is_some_and(|first| first <= pos) {
            return Trace::Owed;
        }
        if state.outbox.holds(pos) {
            return Trace::Waits;
        }
        let sent = state.log.sent.iter().find(|(_, positions)| positions.contains(&pos));
        Trace::Sent(sent.map(|(at, _)| *at))
    }

    /// What the server said when it refused an event lately.
    #[must_use]
    pub fn refusal(&self, event_id: &EventId) -> Option<String> {
        let state = self.state();
        let mut refused = state.log.refused.iter().rev();
        refused.find(|(id, _)| id == event_id).map(|(_, why)| why.clone())
    }

    /// Events that wait, by room: how many in memory, and what is owed.
    #[must_use]
    pub fn queue(&self) -> BTreeMap<RoomNid, (usize, Option<Owed>)> {
        self.state().outbox.by_room()
    }

    /// What an operator sees.
    #[must_use]
    pub fn info(&self, now: Millis) -> PeerInfo {
        let state = self.state();
        let wait = state.health.wait(now);
        PeerInfo {
            state: match (wait > 0, state.health.failing_since) {
                (true, _) => "paused",
                (false, Some(_)) => "failing",
                (false, None) => "well",
            },
            failing_since_ts: state.health.failing_since,
            next_try_ts: (wait > 0).then(|| now + wait),
            last_success_ts: state.health.last_success,
            last_error: state.health.last_error.clone(),
            in_flight: self.figures.in_flight.load(Relaxed),
            waiting: self.figures.waiting.load(Relaxed),
            answered: self.figures.answered.load(Relaxed),
            failed: self.figures.failed.load(Relaxed),
            events: state.outbox.len().0,
            rooms_behind: state.outbox.len().1,
            edus: state.outbox.edus.len(),
            transaction: state.outbox.flight().is_some(),
            last_sent_pos: state.health.last_sent,
        }
    }

    /// What must be written. Answers the lowest position of an event that only memory knows to be missing.
    pub(super) fn take_changes(&self, rows: &mut Vec<destination::Model>, changes: &mut Changes) -> Option<i64> {
        let mut state = self.state();
        if std::mem::take(&mut state.unwritten) {
            rows.push(state.health.to_row(self.server.as_str()));
        }
        state.outbox.take_changes(self.server.as_str(), changes);
        state.outbox.lowest()
    }

    /// What [`Self::take_changes`] told about itself could not be written.
    pub(super) fn keep_row(&self) {
        self.state().unwritten = true;
    }

    /// What it told about a room could not be written.
    pub(super) fn keep_change(&self, room: RoomNid) {
        self.state().outbox.keep_change(room);
    }

    /// Whether nobody had to do with it since `before`, and nothing is lost with it.
    pub(super) fn is_idle(&self, before: Millis) -> bool {
        let state = self.state();
        let busy = state.unwritten || state.sending || state.outbox.has_work() || !state.outbox.is_written();
        !busy && state.touched < before
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Outcome<Self> {
        let counted = Self(waiting);
        if waiting.fetch_add(1, Relaxed) < MAX_WAITING {
            Ok(counted)
        } else {
            Err(DomainError::Overloaded { retry_after_ms: 1_000 })
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
