//! The supervisor: owns the addresses of its children, starts them on demand and picks up after them.

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use actix::{Actor, Addr, AsyncContext, Context, Handler};
use lru::LruCache;
use tokio::sync::oneshot;

use super::Shared;
use super::backoff::Faults;
use super::entry::{Entry, Stage};
use super::managed::{Managed, Missing};
use super::messages::{
    Busy, ChildDown, Deliver, Drain, ForgetAbsent, Frozen, Item, Loaded, Look, Passivate, Peek, Release, Retire,
    RetireMode, Wake, Work, expired, fail_all,
};
use crate::error::DomainError;
use crate::stats::{ActorStats, LaneStats};

/// How many keys are remembered as "nothing there", and how many as recently passivated.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

pub(super) struct Supervisor<M: Managed> {
    pub shared: Arc<Shared<M>>,
    pub lane: Arc<LaneStats>,
    pub entries: LruCache<Arc<str>, Entry<M>>,
    /// Keys with nothing stored, and until when that is believed.
    pub absent: LruCache<Arc<str>, Instant>,
    /// Actors that panicked.
    pub faults: HashMap<Arc<str>, Faults>,
    /// Passivated not long ago: to see thrashing.
    pub evicted: LruCache<Arc<str>, ()>,
    /// Forgotten actors of which a load or a batch still runs: a successor must wait for it.
    pub ending: HashMap<Arc<str>, Arc<ActorStats>>,
    pub loads_running: usize,
    pub loads_waiting: VecDeque<Arc<str>>,
    pub last_generation: u64,
    /// `Some` once the drain began; those who wait for its end.
    pub draining: Option<Vec<oneshot::Sender<()>>>,
}

impl<M: Managed> Supervisor<M> {
    pub fn new(shared: Arc<Shared<M>>, lane: Arc<LaneStats>) -> Self {
        Self {
            shared,
            lane,
            entries: LruCache::unbounded(),
            absent: LruCache::new(REMEMBERED),
            faults: HashMap::new(),
            evicted: LruCache::new(REMEMBERED),
            ending: HashMap::new(),
            loads_running: 0,
            loads_waiting: VecDeque::new(),
            last_generation: 0,
            draining: None,
        }
    }

    pub fn now(&self) -> Instant {
        self.shared.fabric.clock.instant()
    }

    pub fn next_generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }

    fn deliver(&mut self, key: Arc<str>, mut item: Item<M>, me: &Addr<Self>) {
        let now = self.now();
        if item.is_stale(now) {
            self.lane.expired.fetch_add(1, Relaxed);
            return item.fail(expired());
        }
        if self.draining.is_some() {
            return item.fail(DomainError::unavailable("shutting down"));
        }
        let now_ms = self.shared.fabric.clock.now_ms();
        let Some(entry) = self.entries.get_mut(&*key) else {
            return self.start(key, item, now, me);
        };
        let Some(seat) = entry.stats.admit(now_ms) else {
            self.lane.refused.fetch_add(1, Relaxed);
            let retry_after_ms = entry.stats.retry_after_ms();
            return item.fail(DomainError::Overloaded { retry_after_ms });
        };
        item.permits.seat = Some(seat);
        entry.touched = now;
        match entry.stage() {
            Stage::Live { addr } if addr.connected() => addr.do_send(Work {
                item,
                kind: PhantomData,
            }),
            // Its death notice is on the way; should it be lost, this is the second detector.
            Stage::Live { .. } => {
                let generation = entry.generation;
                self.down(
                    &key,
                    generation,
                    "its mailbox closed".to_owned(),
                    VecDeque::from([item]),
                    me,
                );
            }
            Stage::Loading { buffer, .. } | Stage::Passivating { buffer, .. } => buffer.push_back(item),
            Stage::Backoff { until, buffer } => {
                let left = until.saturating_duration_since(now);
                if left <= self.shared.settings.hold {
                    buffer.push_back(item);
                } else {
                    item.fail(paused(left));
                }
            }
            Stage::Quarantined { until } => {
                let left = until.saturating_duration_since(now);
                if left.is_zero() {
                    self.reload(&key, VecDeque::from([item]), me);
                } else {
                    item.fail(paused(left));
                }
            }
        }
    }

    /// A command for a key that has no entry.
    fn start(&mut self, key: Arc<str>, mut item: Item<M>, now: Instant, me: &Addr<Self>) {
        if !item.may_start {
            return answer_absent(&key, Missing::NotLive, item);
        }
        if !item.creates && self.absent.get(&*key).is_some_and(|until| now < *until) {
            return answer_absent(&key, Missing::Unknown, item);
        }
        if self.loads_waiting.len() >= self.shared.settings.waiting_loads {
            self.lane.refused.fetch_add(1, Relaxed);
            return item.fail(DomainError::unavailable("too many actors are starting"));
        }
        let now_ms = self.shared.fabric.clock.now_ms();
        let queue = self.shared.settings.queue;
        let before = self.ending.remove(&key);
        let stats = ActorStats::new(M::KIND, Arc::clone(&key), self.lane.arbiter, queue, now_ms);
        let stats = Arc::new(stats.succeeding(before.as_deref()));
        stats.set_panics(self.faults.get(&key).map_or(0, |faults| faults.total));
        item.permits.seat = stats.admit(now_ms);
        self.shared.fabric.registry.insert(Arc::clone(&stats));
        self.entries.put(Arc::clone(&key), Entry::new(stats, now, item));
        self.count();
        self.begin_load(key, me);
    }

    /// Publishes how many entries there are.
    pub fn count(&self) {
        self.lane.actors.store(self.entries.len() as u64, Relaxed);
        self.lane
            .loading
            .store((self.loads_running + self.loads_waiting.len()) as u64, Relaxed);
    }

    /// The end of an entry.
    pub fn remove(&mut self, key: &Arc<str>) {
        if let Some(entry) = self.entries.pop(&**key) {
            self.lane.set_weight(&entry.stats, 0);
            self.shared.fabric.registry.remove(M::KIND, key);
            if entry.stats.is_running() {
                self.ending.insert(Arc::clone(key), entry.stats);
            }
        }
        self.count();
        self.check_drained();
    }

    fn drain(&mut self, reply: oneshot::Sender<()>) {
        self.draining.get_or_insert_default().push(reply);
        let keys: Vec<Arc<str>> = self.entries.iter().map(|(key, _)| Arc::clone(key)).collect();
        for key in keys {
            self.drain_one(&key);
        }
        self.check_drained();
    }

    /// Moves one actor towards its end.
    pub fn drain_one(&mut self, key: &Arc<str>) {
        let Some(entry) = self.entries.peek_mut(&**key) else {
            return;
        };
        match entry.stage() {
            Stage::Live { addr } => {
                let addr = addr.clone();
                addr.do_send(Retire {
                    mode: RetireMode::WhenDone,
                    kind: PhantomData,
                });
                entry.set_stage(Stage::Passivating {
                    addr,
                    buffer: VecDeque::new(),
                    asked: Vec::new(),
                    evicting: false,
                });
            }
            // They are looked at again when the load ends, or the child answers.
            Stage::Loading { .. } | Stage::Passivating { .. } => {}
            Stage::Backoff { .. } | Stage::Quarantined { .. } => {
                fail_all(entry.take_buffer(), &DomainError::unavailable("shutting down"));
                self.remove(key);
            }
        }
    }

    pub fn check_drained(&mut self) {
        if let Some(waiting) = self.draining.as_mut().filter(|_| self.entries.is_empty()) {
            for reply in waiting.drain(..) {
                // The asker may have given up.
                let _ = reply.send(());
            }
        }
    }

    fn peek(&mut self, key: &str, reply: oneshot::Sender<Option<serde_json::Value>>) {
        match self.entries.peek_mut(key).map(Entry::stage) {
            Some(Stage::Live { addr } | Stage::Passivating { addr, .. }) => {
                addr.do_send(Look {
                    reply,
                    kind: PhantomData,
                });
            }
            // The asker may be gone.
            _ => drop(reply.send(None)),
        }
    }

    /// Something was stored under the key: "nothing there" holds no longer.
    fn forget_absent(&mut self, key: &str) {
        self.absent.pop(key);
        if let Some(Stage::Loading { recheck, .. }) = self.entries.peek_mut(key).map(Entry::stage) {
            *recheck = true;
        }
    }

    /// Forgets the panics of an actor, ends its pause.
    fn release(&mut self, key: &Arc<str>, reply: oneshot::Sender<bool>, me: &Addr<Self>) {
        self.faults.remove(key);
        let paused = |entry: &mut Entry<M>| matches!(entry.stage(), Stage::Backoff { .. } | Stage::Quarantined { .. });
        let entry = self.entries.peek_mut(&**key);
        let down = entry.and_then(|entry| paused(entry).then(|| entry.take_buffer()));
        // The asker may be gone.
        let _ = reply.send(down.is_some());
        if let Some(buffer) = down {
            self.restart_or_remove(key, buffer, me);
        }
    }
}

/// The answer to a command that found nobody, as the kind words it.
pub(super) fn answer_absent<M: Managed>(key: &str, why: Missing, item: Item<M>) {
    let outcome = catch_unwind(AssertUnwindSafe(|| M::absent(key, why, &item.command)))
        .unwrap_or_else(|_| Err(DomainError::internal("wording an absence failed")));
    item.answer(outcome);
}

fn paused(left: std::time::Duration) -> DomainError {
    DomainError::Unavailable {
        retry_after_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1),
        reason: "the actor failed and pauses".to_owned(),
    }
}

impl<M: Managed> Drop for Supervisor<M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(kind = %M::KIND, arbiter = self.lane.arbiter, "a supervisor panicked: its actors are lost");
        }
    }
}

impl<M: Managed> Actor for Supervisor<M> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The mailbox is bounded by the lane's permits.
        ctx.set_mailbox_capacity(0);
        ctx.run_interval(self.shared.settings.tick, |supervisor, _| supervisor.tick());
    }
}

macro_rules! handlers {
    ($($message:ident($this:ident, $msg:ident, $me:ident) $body:expr;)*) => {
        $(impl<M: Managed> Handler<$message<M>> for Supervisor<M> {
            type Result = ();

            fn handle(&mut self, $msg: $message<M>, ctx: &mut Self::Context) {
                let ($this, $me) = (self, &ctx.address());
                $body
            }
        })*
    };
}

handlers! {
    Deliver(this, msg, me) this.deliver(msg.key, msg.item, me);
    Loaded(this, msg, me) this.loaded(&msg.key, msg.generation, msg.outcome, me);
    Wake(this, msg, me) this.wake(&msg.key, msg.generation, me);
    ChildDown(this, msg, me) this.child_down(msg, me);
    Release(this, msg, me) this.release(&msg.key, msg.reply, me);
}

macro_rules! plain_handlers {
    ($($message:ident($this:ident, $msg:ident) $body:expr;)*) => {
        $(impl<M: Managed> Handler<$message<M>> for Supervisor<M> {
            type Result = ();

            fn handle(&mut self, $msg: $message<M>, _: &mut Self::Context) {
                let $this = self;
                $body
            }
        })*
    };
}

plain_handlers! {
    Busy(this, msg) this.busy(&msg.key, msg.generation);
    Frozen(this, msg) this.frozen(&msg.key, msg.generation);
    ForgetAbsent(this, msg) this.forget_absent(&msg.key);
    Peek(this, msg) this.peek(&msg.key, msg.reply);
    Passivate(this, msg) this.passivate_on_request(&msg.key, msg.reply);
    Drain(this, msg) this.drain(msg.reply);
}
