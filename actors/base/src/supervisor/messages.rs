//! What handles, supervisors and children say to each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::managed::Managed;
use crate::error::{DomainError, Outcome};
use crate::stats::ActorInfo;

/// Where a reply goes; `None` for a tell.
pub(super) type ReplyTo<M> = Option<oneshot::Sender<Outcome<<M as Managed>::Reply>>>;

/// A command on its way, with everything that must be given back when it ends.
pub(super) struct Item<M: Managed> {
    pub command: M::Command,
    pub reply: ReplyTo<M>,
    pub deadline: Instant,
    /// [`Managed::may_start`] of the command.
    pub may_start: bool,
    /// [`Managed::creates`] of the command.
    pub creates: bool,
    pub permits: Permits,
}

/// What bounds the commands of a lane and of an actor.
#[derive(Default)]
pub(super) struct Permits {
    pub _lane: Option<OwnedSemaphorePermit>,
    pub seat: Option<OwnedSemaphorePermit>,
}

impl<M: Managed> Item<M> {
    /// A command of the actor to itself.
    pub fn own(command: M::Command, now: Instant) -> Self {
        Self {
            command,
            reply: None,
            deadline: now + Duration::from_secs(24 * 3_600),
            may_start: false,
            creates: false,
            permits: Permits::default(),
        }
    }

    /// Whether nobody waits for the answer any longer.
    pub fn is_stale(&self, now: Instant) -> bool {
        self.deadline <= now || self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    /// Answers instead of running.
    pub fn answer(self, outcome: Outcome<M::Reply>) {
        let Self { reply, permits, .. } = self;
        drop(permits);
        if let Some(reply) = reply {
            // Nobody waits: fine.
            let _ = reply.send(outcome);
        }
    }

    /// Refuses.
    pub fn fail(self, error: DomainError) {
        self.answer(Err(error));
    }
}

/// Refuses all of them.
pub(super) fn fail_all<M: Managed>(items: VecDeque<Item<M>>, error: &DomainError) {
    items.into_iter().for_each(|item| item.fail(error.clone()));
}

/// Answers and removes the commands nobody waits for; how many.
pub(super) fn prune<M: Managed>(queue: &mut VecDeque<Item<M>>, now: Instant) -> u64 {
    if !queue.iter().any(|item| item.is_stale(now)) {
        return 0;
    }
    let before = queue.len();
    for item in std::mem::take(queue) {
        if item.is_stale(now) {
            item.fail(expired());
        } else {
            queue.push_back(item);
        }
    }
    (before - queue.len()) as u64
}

/// The answer to a command that waited too long.
pub(super) fn expired() -> DomainError {
    DomainError::unavailable("the command waited past its deadline")
}

/// What an actor starts from, computed away from the arbiters.
pub(super) struct Start<M: Managed> {
    pub state: Arc<M::State>,
    pub weight: u64,
    pub first: Option<M::Command>,
}

impl<M: Managed> Start<M> {
    pub fn of(state: Arc<M::State>) -> Self {
        Self {
            weight: M::weight(&state),
            first: M::first(&state),
            state,
        }
    }
}

macro_rules! message {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {
        $($(#[$doc])*
        pub(super) struct $name<M: Managed> {
            $(pub $field: $ty,)*
            pub kind: std::marker::PhantomData<fn() -> M>,
        }

        impl<M: Managed> Message for $name<M> {
            type Result = ();
        })*
    };
}

message! {
    /// Handle → supervisor: a command.
    Deliver { key: Arc<str>, item: Item<M> }
    /// Io task → supervisor: a load ended.
    Loaded { key: Arc<str>, generation: u64, outcome: LoadOutcome<M> }
    /// Timer → supervisor: a pause is over.
    Wake { key: Arc<str>, generation: u64 }
    /// Child → supervisor: not idle, keep me.
    Busy { key: Arc<str>, generation: u64 }
    /// Child → supervisor: my state is in doubt or a batch panicked, end me.
    Frozen { key: Arc<str>, generation: u64 }
    /// A child's last breath → supervisor.
    ChildDown { key: Arc<str>, generation: u64, panic: Option<String>, leftover: VecDeque<Item<M>> }
    /// Handle → supervisor: something was stored under the key.
    ForgetAbsent { key: Arc<str> }
    /// Handle → supervisor: look inside.
    Peek { key: Arc<str>, reply: oneshot::Sender<Option<Value>> }
    /// Handle → supervisor: end the actor if it is idle.
    Passivate { key: Arc<str>, reply: oneshot::Sender<Passivation> }
    /// Handle → supervisor: forget the panics.
    Release { key: Arc<str>, reply: oneshot::Sender<bool> }
    /// Handle → supervisor: finish everything, refuse anything new.
    Drain { reply: oneshot::Sender<()> }
    /// Supervisor → child: a command.
    Work { item: Item<M> }
    /// Supervisor → child: look inside.
    Look { reply: oneshot::Sender<Option<Value>> }
    /// Supervisor → child, always its last message (unless it answers `Busy`).
    Retire { mode: RetireMode }
    /// Io task → child: a batch ended.
    BatchDone { outcome: BatchOutcome<M> }
}

/// How a load ended.
pub(super) enum LoadOutcome<M: Managed> {
    Found(Start<M>),
    Absent,
    Failed(DomainError),
    Panicked(String),
}

/// How a batch ended.
pub(super) enum BatchOutcome<M: Managed> {
    Done {
        state: Arc<M::State>,
        weight: u64,
        exists: bool,
    },
    Reload,
    Panicked(String),
}

/// How a child is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetireMode {
    /// If it is idle and nobody relies on it.
    IfUnpinned,
    /// If it is idle.
    IfIdle,
    /// When its queue is empty.
    WhenDone,
    /// At once; what waits goes back to the supervisor.
    HandBack,
}

/// What a request to passivate led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passivation {
    /// It is out of memory.
    Passivated,
    /// It is working.
    Busy,
    /// It was not in memory.
    NotLive,
}

/// Whether an actor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// It answered.
    Alive,
    /// It did not answer in time; the figures are what others know about it.
    Timeout,
    /// It is down.
    PostMortem,
}

/// An actor seen from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observation {
    /// Whether it answers.
    pub status: Liveness,
    /// Its figures.
    #[serde(flatten)]
    pub info: ActorInfo,
    /// [`Managed::observe`], if it is alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
    /// The text of its newest panic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_panic: Option<String>,
}
