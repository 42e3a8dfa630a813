//! The actor itself: a queue, and one batch in flight on the io runtime.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler};
use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;

use super::actor::Supervisor;
use super::managed::{Managed, Ran};
use super::messages::{
    BatchDone, BatchOutcome, Busy, ChildDown, Frozen, Item, Look, Permits, ReplyTo, Retire, RetireMode, Work, prune,
};
use super::{Shared, panic_text};
use crate::error::{DomainError, Outcome};
use crate::stats::{ActorStats, LaneStats};

pub(super) struct Child<M: Managed> {
    pub shared: Arc<Shared<M>>,
    pub lane: Arc<LaneStats>,
    pub stats: Arc<ActorStats>,
    pub state: Arc<M::State>,
    pub queue: VecDeque<Item<M>>,
    /// A batch is in flight.
    pub busy: bool,
    pub ending: Ending,
    pub notice: DeathNotice<M>,
}

/// Whether and how the child is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    No,
    /// Finish the queue, then stop.
    WhenDone,
    /// The state is in doubt, or a batch panicked: run nothing, wait for the supervisor's last message.
    Frozen,
}

/// Tells the supervisor that the child is gone, whatever the reason: sent when the actor is dropped.
pub(super) struct DeathNotice<M: Managed> {
    pub supervisor: Addr<Supervisor<M>>,
    pub key: Arc<str>,
    pub generation: u64,
    pub panic: Option<String>,
    pub leftover: VecDeque<Item<M>>,
}

impl<M: Managed> Drop for DeathNotice<M> {
    fn drop(&mut self) {
        let unwinding = std::thread::panicking().then(|| "panicked on its arbiter".to_owned());
        self.supervisor.do_send(ChildDown {
            key: Arc::clone(&self.key),
            generation: self.generation,
            panic: self.panic.take().or(unwinding),
            leftover: std::mem::take(&mut self.leftover),
            kind: PhantomData,
        });
    }
}

/// Nothing in it is ever pinned in place.
impl<M: Managed> Unpin for Child<M> {}

impl<M: Managed> Actor for Child<M> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The mailbox is bounded by the commands' permits; actix's own bound does not hold.
        ctx.set_mailbox_capacity(0);
        self.pump(ctx);
    }
}

impl<M: Managed> Child<M> {
    /// Starts the next batch if none is in flight.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        if self.busy || self.ending == Ending::Frozen {
            return;
        }
        let gone = prune(&mut self.queue, self.shared.fabric.clock.instant());
        self.stats.count_expired(gone);
        self.lane.expired.fetch_add(gone, Relaxed);
        if self.queue.is_empty() {
            if self.ending == Ending::WhenDone {
                ctx.stop();
            }
            return;
        }
        let wanted = M::batch_len(self.queue.iter().map(|item| &item.command));
        let batch: Vec<Item<M>> = self.queue.drain(..wanted.clamp(1, self.queue.len())).collect();
        self.busy = true;
        self.stats.batch_begins(self.shared.fabric.clock.now_ms());
        let run = Run {
            shared: Arc::clone(&self.shared),
            lane: Arc::clone(&self.lane),
            stats: Arc::clone(&self.stats),
            // Free: the last batch gave it back before it reported, and the load before it did.
            turn: self.stats.try_turn(),
            state: Arc::clone(&self.state),
            child: ctx.address(),
        };
        self.shared.fabric.io.spawn(run.batch(batch));
    }

    fn freeze(&mut self, ctx: &mut Context<Self>) {
        if self.ending == Ending::WhenDone {
            // The supervisor has said its last word already.
            return self.hand_back(ctx);
        }
        self.ending = Ending::Frozen;
        let (key, generation) = (Arc::clone(&self.notice.key), self.notice.generation);
        self.notice.supervisor.do_send(Frozen {
            key,
            generation,
            kind: PhantomData,
        });
    }

    fn hand_back(&mut self, ctx: &mut Context<Self>) {
        self.notice.leftover = std::mem::take(&mut self.queue);
        ctx.stop();
    }
}

impl<M: Managed> Handler<Work<M>> for Child<M> {
    type Result = ();

    fn handle(&mut self, msg: Work<M>, ctx: &mut Self::Context) {
        self.queue.push_back(msg.item);
        self.pump(ctx);
    }
}

impl<M: Managed> Handler<BatchDone<M>> for Child<M> {
    type Result = ();

    fn handle(&mut self, msg: BatchDone<M>, ctx: &mut Self::Context) {
        self.busy = false;
        match msg.outcome {
            BatchOutcome::Done { state, weight, exists } => {
                self.state = state;
                self.lane.set_weight(&self.stats, weight);
                if exists { self.pump(ctx) } else { self.freeze(ctx) }
            }
            BatchOutcome::Reload => self.freeze(ctx),
            BatchOutcome::Panicked(text) => {
                self.notice.panic = Some(text);
                self.freeze(ctx);
            }
        }
    }
}

impl<M: Managed> Handler<Retire<M>> for Child<M> {
    type Result = ();

    fn handle(&mut self, msg: Retire<M>, ctx: &mut Self::Context) {
        if self.ending == Ending::Frozen {
            return self.hand_back(ctx);
        }
        let idle = !self.busy && self.queue.is_empty();
        let pinned = || M::pinned(&self.shared.env, &self.notice.key, &self.state);
        match msg.mode {
            RetireMode::WhenDone => {
                self.ending = Ending::WhenDone;
                self.pump(ctx);
            }
            // Only asked of frozen children.
            RetireMode::HandBack => self.hand_back(ctx),
            RetireMode::IfIdle if idle => ctx.stop(),
            RetireMode::IfUnpinned if idle && !pinned() => ctx.stop(),
            RetireMode::IfIdle | RetireMode::IfUnpinned => {
                let (key, generation) = (Arc::clone(&self.notice.key), self.notice.generation);
                self.notice.supervisor.do_send(Busy {
                    key,
                    generation,
                    kind: PhantomData,
                });
            }
        }
    }
}

impl<M: Managed> Handler<Look<M>> for Child<M> {
    type Result = ();

    fn handle(&mut self, msg: Look<M>, _: &mut Self::Context) {
        // The asker may be gone.
        let _ = msg.reply.send(Some(M::observe(&self.state)));
    }
}

/// What a batch takes along to the io runtime.
struct Run<M: Managed> {
    shared: Arc<Shared<M>>,
    lane: Arc<LaneStats>,
    stats: Arc<ActorStats>,
    turn: Option<OwnedSemaphorePermit>,
    state: Arc<M::State>,
    child: Addr<Child<M>>,
}

impl<M: Managed> Run<M> {
    async fn batch(self, batch: Vec<Item<M>>) {
        let Self {
            shared,
            lane,
            stats,
            turn,
            state,
            child,
        } = self;
        let turn = if turn.is_some() { turn } else { stats.turn().await };
        let clock = &shared.fabric.clock;
        let began = clock.instant();
        let count = batch.len();
        let (commands, waiting): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|item| (item.command, (item.reply, item.permits)))
            .unzip();
        let key = Arc::clone(stats.key());
        let ran = AssertUnwindSafe(async {
            match M::run(Arc::clone(&shared.env), key, state, commands).await {
                Ran::Done { state, replies } => {
                    let (weight, exists) = (M::weight(&state), M::exists(&state));
                    (BatchOutcome::Done { state, weight, exists }, replies)
                }
                Ran::Reload { replies } => (BatchOutcome::Reload, replies),
            }
        })
        .catch_unwind()
        .await;
        let took = clock.instant().duration_since(began);
        stats.batch_ends(count, took, clock.now_ms());
        lane.handled.fetch_add(count as u64, Relaxed);
        metrics::histogram!("synapse_actor_batch_seconds", "kind" => M::KIND.as_str()).record(took.as_secs_f64());
        drop(turn);
        match ran {
            Ok((outcome, replies)) => {
                // The child is told first, so that whoever has a reply observes the state after it.
                child.do_send(BatchDone {
                    outcome,
                    kind: PhantomData,
                });
                answer::<M>(waiting, replies);
            }
            Err(panic) => {
                let outcome = BatchOutcome::Panicked(panic_text(&*panic));
                child.do_send(BatchDone {
                    outcome,
                    kind: PhantomData,
                });
                let count = waiting.len();
                answer::<M>(
                    waiting,
                    (0..count)
                        .map(|_| Err(DomainError::unavailable("the actor failed")))
                        .collect(),
                );
            }
        }
    }
}

fn answer<M: Managed>(waiting: Vec<(ReplyTo<M>, Permits)>, replies: Vec<Outcome<M::Reply>>) {
    let mut replies = replies.into_iter();
    for (reply_to, permits) in waiting {
        drop(permits);
        let reply = replies
            .next()
            .unwrap_or_else(|| Err(DomainError::internal("a command was left without a reply")));
        if let Some(reply_to) = reply_to {
            // Nobody waits: the command has run all the same.
            let _ = reply_to.send(reply);
        }
    }
}
