//! The one writer of everything that has a stream position.
//!
//! While one commit is in flight the next batch gathers, so batches grow with load and an idle server commits at once.
//! The rules (positions in arrival order, never reused, visible only after COMMIT, the culprit of a failed batch found
//! and refused alone, an unknown outcome looked up before anybody is answered) are those of ARCHITECTURE.md, "The
//! stream".

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use entities::error::StoreError;
use entities::ids::StreamPos;
use entities::store::journal::Head;
use entities::store::rows::Rows;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::fact::Fact;
use super::feed::Feeds;
use crate::clock::Clock;
use crate::error::{DomainError, Outcome};
use crate::failpoint::{AFTER_COMMIT, AFTER_PUBLISH, BEFORE_COMMIT, Failpoints};

/// Submissions that may wait.
const MAX_WAITING: usize = 4_096;
/// Positions one batch may take.
const MAX_POSITIONS: u32 = 500;
/// Bytes of event text one batch may carry.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Positions reserved at a time.
const BLOCK: i64 = 4_096;
/// A new block is reserved when fewer than this are left.
const LOW_WATER: i64 = 1_024;
/// How long a batch of facts stays available to a slow consumer before it must read the database.
const FANOUT_BACKLOG: usize = 4_096;

/// Called after COMMIT and before readers may see the positions, with the position of offset 0. Must be quick.
pub type Publish = Box<dyn FnOnce(StreamPos) -> Vec<Fact> + Send>;

/// What an actor wants committed.
pub struct Submission {
    /// What to write; `pos` columns hold offsets below `positions`.
    pub rows: Rows,
    /// How many positions it takes.
    pub positions: u32,
    /// Swaps caches and says what happened.
    pub publish: Publish,
}

impl Submission {
    /// Says what happened and swaps nothing; the facts' positions are offsets.
    #[must_use]
    pub fn telling(rows: Rows, positions: i64, mut facts: Vec<Fact>) -> Self {
        Self {
            rows,
            positions: u32::try_from(positions).unwrap_or(u32::MAX),
            publish: Box::new(move |base| {
                for fact in &mut facts {
                    fact.pos = StreamPos(fact.pos.0 + base.0);
                }
                facts
            }),
        }
    }
}

/// Where the journal writes: the store, or a model of one in tests.
pub trait Sink: Send + Sync + 'static {
    /// One transaction: the head moves to `head.batch` if its epoch is `head.epoch`, and everything is written.
    fn commit<'a>(&'a self, head: Head, rows: &'a Rows, reserve: Option<i64>) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The head as it is in the database.
    fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>>;
}

impl Sink for entities::store::Store {
    fn commit<'a>(&'a self, head: Head, rows: &'a Rows, reserve: Option<i64>) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.commit_batch(head, rows, reserve))
    }

    fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(self.read_head())
    }
}

struct Waiting {
    submission: Submission,
    done: oneshot::Sender<Outcome<StreamPos>>,
}

/// Figures about the journal; reading them sends no message.
#[derive(Debug, Default)]
pub struct JournalStats {
    /// Submissions not yet answered.
    pub waiting: AtomicUsize,
    /// Committed batches.
    pub batches: AtomicI64,
    /// Committed submissions.
    pub submissions: AtomicI64,
    /// Refused submissions.
    pub refused: AtomicI64,
    /// Microseconds the last commit took.
    pub last_commit_us: AtomicI64,
    /// Unix milliseconds of the last commit.
    pub last_commit_ms: AtomicI64,
}

/// Where the journal goes on.
pub struct Start {
    /// What [`entities::store::Store::take_epoch`] answered.
    pub head: Head,
    /// The first position never reserved.
    pub next: i64,
    /// Where this process is to die, in tests.
    pub failpoints: Failpoints,
}

/// Handle on the journal.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Waiting>,
    facts: broadcast::Sender<Arc<[Fact]>>,
    stats: Arc<JournalStats>,
}

impl Journal {
    /// Starts the writer on `io`.
    pub fn start(
        io: &tokio::runtime::Handle,
        sink: Arc<dyn Sink>,
        feeds: Arc<Feeds>,
        clock: Clock,
        start: Start,
    ) -> Self {
        let Start { head, next, failpoints } = start;
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let facts = broadcast::Sender::new(FANOUT_BACKLOG);
        let stats = Arc::new(JournalStats::default());
        let writer = Writer {
            sink,
            feeds,
            clock,
            head,
            next,
            end: next,
            failpoints,
            facts: facts.clone(),
            stats: stats.clone(),
        };
        io.spawn(writer.run(waiting));
        Self { queue, facts, stats }
    }

    /// Commits; the answer is the position of offset 0.
    ///
    /// # Errors
    /// `Overloaded` when too many wait; `M_CONFLICT` when a row exists already; `Unavailable` when the database refused
    /// (nothing was written).
    pub async fn submit(&self, submission: Submission) -> Outcome<StreamPos> {
        let (done, answer) = oneshot::channel();
        self.stats.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(refused) = self.queue.try_send(Waiting { submission, done }) {
            self.stats.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(match refused {
                TrySendError::Full(_) => DomainError::Overloaded { retry_after_ms: 1_000 },
                TrySendError::Closed(_) => DomainError::unavailable("the journal stopped"),
            });
        }
        answer
            .await
            .unwrap_or_else(|_| Err(DomainError::unavailable("the journal stopped")))
    }

    /// Waits until nothing is waiting to be committed.
    pub async fn idle(&self) {
        while self.stats.waiting.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every batch of facts from now on, in order.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<[Fact]>> {
        self.facts.subscribe()
    }

    /// The figures.
    #[must_use]
    pub fn stats(&self) -> &JournalStats {
        &self.stats
    }
}

struct Writer {
    sink: Arc<dyn Sink>,
    feeds: Arc<Feeds>,
    clock: Clock,
    head: Head,
    /// The next position to give out.
    next: i64,
    /// The first position that is not reserved.
    end: i64,
    failpoints: Failpoints,
    facts: broadcast::Sender<Arc<[Fact]>>,
    stats: Arc<JournalStats>,
}

/// A submission with its positions.
struct Placed {
    rows: Rows,
    base: i64,
    /// Its last position.
    last: i64,
    publish: Publish,
    done: oneshot::Sender<Outcome<StreamPos>>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(waiting) => waiting,
                None => match queue.recv().await {
                    Some(waiting) => waiting,
                    None => return,
                },
            };
            let (batch, over) = gather(first, &mut queue);
            held = over;
            let count = batch.len();
            let batch = self.place(batch);
            let fenced = self.write(batch).await;
            self.stats.waiting.fetch_sub(count, Ordering::Relaxed);
            metrics::gauge!("journal_waiting").set(queue.len() as f64);
            if fenced {
                tracing::error!("another process took over the database, this one stops writing");
                return;
            }
        }
    }

    fn place(&mut self, batch: Vec<Waiting>) -> Vec<Placed> {
        let mut place = |waiting: Waiting| {
            let Submission {
                mut rows,
                positions,
                publish,
            } = waiting.submission;
            let base = self.next;
            self.next += i64::from(positions);
            rows.shift(base);
            Placed {
                rows,
                base,
                last: self.next - 1,
                publish,
                done: waiting.done,
            }
        };
        batch.into_iter().map(&mut place).collect()
    }

    /// Writes a batch and answers everybody in it. True when this process must not write any more.
    async fn write(&mut self, mut batch: Vec<Placed>) -> bool {
        let mut rows = Rows::default();
        if let [only] = batch.as_mut_slice() {
            std::mem::swap(&mut rows, &mut only.rows);
        } else {
            for placed in &batch {
                rows.merge(placed.rows.clone());
            }
        }
        let started = self.clock.instant();
        match self.commit(&rows).await {
            Ok(()) => {
                let took = self.clock.instant().duration_since(started);
                self.note_commit(batch.len(), took);
                self.admit(batch);
                false
            }
            Err(StoreError::Fenced) => {
                refuse(
                    batch,
                    &DomainError::unavailable("this process no longer owns the database"),
                );
                true
            }
            Err(error) if batch.len() == 1 => {
                tracing::warn!(%error, "submission refused by the database");
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                refuse(batch, &refusal(&error));
                false
            }
            Err(error) => {
                tracing::warn!(%error, submissions = batch.len(), "batch failed, trying its submissions one by one");
                for placed in batch {
                    if Box::pin(self.write(vec![placed])).await {
                        return true;
                    }
                }
                false
            }
        }
    }

    /// One transaction, or none where nothing needs one.
    async fn commit(&mut self, rows: &Rows) -> Result<(), StoreError> {
        let reserve = (self.end - self.next < LOW_WATER).then(|| self.next.max(self.end) + BLOCK);
        if rows.is_empty() && self.next <= self.end {
            return Ok(());
        }
        self.failpoints.pass(BEFORE_COMMIT);
        self.head.batch += 1;
        match self.sink.commit(self.head, rows, reserve).await {
            Ok(()) => {}
            Err(StoreError::Fenced) => return Err(StoreError::Fenced),
            // Whether COMMIT happened is in the database.
            Err(error) => self.settle(error).await?,
        }
        self.failpoints.pass(AFTER_COMMIT);
        if let Some(end) = reserve {
            self.end = end;
        }
        Ok(())
    }

    /// Finds out whether the batch that failed with `error` was committed all the same.
    async fn settle(&mut self, error: StoreError) -> Result<(), StoreError> {
        let mut wait = Duration::from_millis(50);
        loop {
            match self.sink.head().await {
                Ok(head) if head.epoch != self.head.epoch => return Err(StoreError::Fenced),
                Ok(head) if head.batch == self.head.batch => return Ok(()),
                Ok(head) => {
                    self.head = head;
                    return Err(error);
                }
                Err(lost) => {
                    tracing::error!(%lost, "database unreachable, outcome of a commit unknown");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    fn note_commit(&self, submissions: usize, took: Duration) {
        let stats = &self.stats;
        stats.batches.fetch_add(1, Ordering::Relaxed);
        stats
            .submissions
            .fetch_add(i64::try_from(submissions).unwrap_or(0), Ordering::Relaxed);
        stats
            .last_commit_us
            .store(i64::try_from(took.as_micros()).unwrap_or(i64::MAX), Ordering::Relaxed);
        stats.last_commit_ms.store(self.clock.now_ms(), Ordering::Relaxed);
        metrics::histogram!("journal_commit_seconds").record(took.as_secs_f64());
        metrics::histogram!("journal_batch_submissions").record(submissions as f64);
        if took > Duration::from_secs(1) {
            tracing::warn!(ms = took.as_millis(), "slow commit");
        }
    }

    /// The batch is durable: caches, feeds, `visible`, wake-ups, consumers, answers, in this order.
    fn admit(&self, batch: Vec<Placed>) {
        let mut facts = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        // Not `next - 1`: when a failed batch is tried one by one, later submissions are still open.
        let upto = batch.iter().map(|placed| placed.last).max().unwrap_or(0);
        for Placed {
            base, publish, done, ..
        } in batch
        {
            let answer = match catch_unwind(AssertUnwindSafe(|| publish(StreamPos(base)))) {
                Ok(more) => {
                    facts.extend(more);
                    Ok(StreamPos(base))
                }
                Err(_) => {
                    tracing::error!("a publish step panicked; its actor reloads");
                    Err(DomainError::unavailable("committed, but not published"))
                }
            };
            answers.push((answer, done));
        }
        self.feeds.admit(&facts, StreamPos(upto));
        if !facts.is_empty() {
            // Without a consumer there is nobody to tell.
            let _ = self.facts.send(facts.into());
        }
        self.failpoints.pass(AFTER_PUBLISH);
        for (answer, done) in answers {
            // An asker that went away reads the outcome from the database.
            let _ = done.send(answer);
        }
    }
}

/// Takes what waits, up to the limits of a batch. The second value did not fit.
fn gather(first: Waiting, queue: &mut mpsc::Receiver<Waiting>) -> (Vec<Waiting>, Option<Waiting>) {
    let mut positions = first.submission.positions;
    let mut bytes = first.submission.rows.bytes();
    let mut batch = vec![first];
    while let Ok(waiting) = queue.try_recv() {
        positions += waiting.submission.positions;
        bytes += waiting.submission.rows.bytes();
        if positions > MAX_POSITIONS || bytes > MAX_BYTES {
            return (batch, Some(waiting));
        }
        batch.push(waiting);
    }
    (batch, None)
}

fn refuse(batch: Vec<Placed>, error: &DomainError) {
    for placed in batch {
        // An asker that went away does not care.
        let _ = placed.done.send(Err(error.clone()));
    }
}

fn refusal(error: &StoreError) -> DomainError {
    match error {
        StoreError::Duplicate(table) => DomainError::conflict(format!("it exists already ({table})")),
        other => other.clone().into(),
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
