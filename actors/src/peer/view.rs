//! What this process knows of a server, shared by everybody who has to do with it: how it goes, how many requests are
//! under way, what waits.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use entities::destination;
use ruma::{OwnedServerName, ServerName};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::edu::{EduQueue, TransientEdu};
use super::health::{Health, Sign};
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Requests to one server at the same time, without transactions.
pub const MAX_IN_FLIGHT: usize = 16;
/// Requests that wait for one of those.
const MAX_WAITING: usize = 64;
/// How long an answer is still news for the database, where nothing else has changed.
const STALE_SUCCESS_MS: Millis = 10 * 60 * 1_000;

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
    edus: EduQueue,
    /// Whether something waits for it in the database.
    wanted: bool,
    touched: Millis,
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
    /// EDUs that wait in memory.
    pub edus: usize,
}

impl PeerView {
    fn new(server: OwnedServerName) -> Self {
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

    fn load(&self, row: Option<destination::Model>) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.loaded, true)
            && let Some(row) = row
        {
            state.health = Health::from_row(row);
        }
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
            state.edus.forget_typing();
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
        (state.wanted, state.touched) = (true, now);
    }

    /// Whether anything waits for it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let state = self.state();
        state.wanted || !state.edus.is_empty()
    }

    /// An EDU for it. Notices of typing are not kept for a server that does not answer.
    pub fn push_edu(&self, edu: TransientEdu, now: Millis) {
        let mut state = self.state();
        if state.health.pause == 0 || !edu.is_urgent() {
            state.edus.push(edu);
        }
        state.touched = now;
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
            edus: state.edus.len(),
        }
    }

    /// The row to write, if it must be written.
    fn take_row(&self) -> Option<destination::Model> {
        let mut state = self.state();
        std::mem::take(&mut state.unwritten).then(|| state.health.to_row(self.server.as_str()))
    }

    fn is_idle(&self, before: Millis) -> bool {
        let state = self.state();
        !state.unwritten && !state.wanted && state.edus.is_empty() && state.touched < before
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

/// All servers that this process has to do with.
#[derive(Default)]
pub struct Views {
    by_name: DashMap<OwnedServerName, Arc<PeerView>>,
}

impl Views {
    /// The server, if it is in memory.
    #[must_use]
    pub fn get(&self, server: &ServerName) -> Option<Arc<PeerView>> {
        self.by_name.get(server).map(|view| Arc::clone(&view))
    }

    pub(super) fn get_or_new(&self, server: &ServerName) -> Arc<PeerView> {
        self.get(server).unwrap_or_else(|| {
            let new = || Arc::new(PeerView::new(server.to_owned()));
            Arc::clone(&self.by_name.entry(server.to_owned()).or_insert_with(new))
        })
    }

    /// The servers with what is stored about them, in the same order. Those not in memory are read together.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn open<S: AsRef<ServerName>>(&self, env: &Env, servers: &[S]) -> Outcome<Vec<Arc<PeerView>>> {
        let views: Vec<_> = servers.iter().map(|server| self.get_or_new(server.as_ref())).collect();
        let missing: Vec<&Arc<PeerView>> = views.iter().filter(|view| !view.state().loaded).collect();
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|view| view.server.as_str()).collect();
            let rows = env.store.destinations(&names).await?;
            for view in missing {
                let row = rows.iter().find(|row| row.server_name == view.server.as_str());
                view.load(row.cloned());
            }
        }
        Ok(views)
    }

    /// Every server in memory.
    pub fn all(&self) -> Vec<Arc<PeerView>> {
        self.by_name.iter().map(|view| Arc::clone(&view)).collect()
    }

    /// Rows that must be written.
    pub(super) fn take_rows(&self) -> Vec<destination::Model> {
        self.by_name.iter().filter_map(|view| view.take_row()).collect()
    }

    /// Rows could not be written.
    pub(super) fn keep_rows(&self, rows: &[destination::Model]) {
        for row in rows {
            if let Some(view) = <&ServerName>::try_from(row.server_name.as_str())
                .ok()
                .and_then(|name| self.get(name))
            {
                view.state().unwritten = true;
            }
        }
    }

    /// Forgets those that nobody had to do with since `before`.
    pub(super) fn sweep(&self, before: Millis) {
        // A second holder may be about to use it.
        self.by_name
            .retain(|_, view| Arc::strong_count(view) > 1 || !view.is_idle(before));
    }
}
