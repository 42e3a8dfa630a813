//! The way to the actors of one kind, from any thread of the io runtime.

use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use actix::{Actor, Addr};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::actor::Supervisor;
use super::managed::Managed;
use super::messages::{
    Deliver, Drain, ForgetAbsent, Item, Liveness, Observation, Passivate, Passivation, Peek, Permits, Release, ReplyTo,
};
use super::{Fabric, Settings, Shared};
use crate::error::{DomainError, Outcome};
use crate::stats::{ActorInfo, LaneStats, ListQuery, Phase, Registry};

/// How long an observation waits for the actor.
const OBSERVE: Duration = Duration::from_secs(1);

/// A cheap clone for whoever asks. Its futures need a tokio runtime, not an actix context; they may be dropped at any time:
/// a command that has not begun is then skipped, one that has begun runs to its end.
pub struct Handle<M: Managed>(Arc<Inner<M>>);

impl<M: Managed> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<M: Managed> {
    shared: Arc<Shared<M>>,
    lanes: Vec<Lane<M>>,
    hasher: RandomState,
}

struct Lane<M: Managed> {
    supervisor: Addr<Supervisor<M>>,
    in_flight: Arc<Semaphore>,
    stats: Arc<LaneStats>,
}

impl<M: Managed> Handle<M> {
    /// Starts the kind's supervisors, one on each arbiter.
    #[must_use]
    pub fn start(fabric: &Fabric, env: Arc<M::Env>, settings: Settings) -> Self {
        let count = fabric.arbiters.len();
        let weight_capacity = settings.weight_capacity / count as u64;
        let settings = Settings {
            weight_capacity,
            ..settings
        };
        let shared = Arc::new(Shared {
            env,
            fabric: fabric.clone(),
            settings,
        });
        let lane = |index| {
            let stats = fabric.registry.add_lane(M::KIND, index);
            let (of_actor, shared) = (Arc::clone(&stats), Arc::clone(&shared));
            let supervisor = Supervisor::start_in_arbiter(fabric.arbiters.handle(index), move |_| {
                Supervisor::new(shared, of_actor)
            });
            Lane {
                supervisor,
                in_flight: Arc::new(Semaphore::new(settings.in_flight)),
                stats,
            }
        };
        let lanes = (0..count).map(lane).collect();
        Self(Arc::new(Inner {
            shared,
            lanes,
            hasher: RandomState::new(),
        }))
    }

    fn lane(&self, key: &str) -> &Lane<M> {
        let count = self.0.lanes.len() as u64;
        let index = usize::try_from(self.0.hasher.hash_one(key) % count).expect("below the number of lanes");
        &self.0.lanes[index]
    }

    fn deliver(&self, key: &str, command: M::Command, reply: ReplyTo<M>, within: Duration) -> Outcome<()> {
        let lane = self.lane(key);
        let Ok(permit) = Arc::clone(&lane.in_flight).try_acquire_owned() else {
            lane.stats.refused.fetch_add(1, Relaxed);
            return Err(DomainError::Overloaded { retry_after_ms: 1_000 });
        };
        let item = Item {
            may_start: M::may_start(&command),
            creates: M::creates(&command),
            command,
            reply,
            deadline: self.0.shared.fabric.clock.instant() + within,
            permits: Permits {
                _lane: Some(permit),
                seat: None,
            },
        };
        lane.supervisor.do_send(Deliver {
            key: Arc::from(key),
            item,
            kind: PhantomData,
        });
        Ok(())
    }

    /// Asks within the kind's deadline.
    ///
    /// # Errors
    /// `Overloaded` when the actor's queue is full: the command did not run. `Unavailable` when the actor is down, or did
    /// not answer in time: whether the command ran is not known, unless it says that it waited past its deadline. Else what
    /// the actor answers, and `NotFound` (or as the kind words it) when nothing is stored under the key.
    pub async fn ask(&self, key: &str, command: M::Command) -> Outcome<M::Reply> {
        self.ask_within(key, command, self.0.shared.settings.ask_deadline).await
    }

    /// Asks within `within`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_within(&self, key: &str, command: M::Command, within: Duration) -> Outcome<M::Reply> {
        let (reply, answer) = oneshot::channel();
        self.deliver(key, command, Some(reply), within)?;
        match timeout(within, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(DomainError::unavailable(format!("the {} ended", M::KIND))),
            Err(_) => Err(DomainError::unavailable(format!(
                "the {} did not answer in time",
                M::KIND
            ))),
        }
    }

    /// Gives a command to the actor; nobody learns what becomes of it.
    ///
    /// # Errors
    /// `Overloaded` when too many commands are on their way.
    pub fn tell(&self, key: &str, command: M::Command) -> Outcome<()> {
        self.deliver(key, command, None, self.0.shared.settings.tell_deadline)
    }

    /// To be called when something was stored under a key other than by a creating command: a recent "nothing there" holds
    /// no longer for asks made after this.
    pub fn forget_absent(&self, key: &str) {
        self.lane(key).supervisor.do_send(ForgetAbsent {
            key: Arc::from(key),
            kind: PhantomData,
        });
    }

    /// Whether an actor for the key is in memory, in any phase. Sends no message.
    #[must_use]
    pub fn is_present(&self, key: &str) -> bool {
        self.registry().get(M::KIND, key).is_some()
    }

    /// The figures of all actors and lanes.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.0.shared.fabric.registry
    }

    /// Lists this kind's actors. Sends no message.
    #[must_use]
    pub fn stats_list(&self, query: ListQuery) -> Vec<ActorInfo> {
        self.registry().list(&ListQuery {
            kind: Some(M::KIND),
            ..query
        })
    }

    /// Looks at one actor; `None` when there is none in memory. Takes 1 s at most.
    pub async fn observe(&self, key: &str) -> Option<Observation> {
        let stats = self.registry().get(M::KIND, key)?;
        let (reply, answer) = oneshot::channel();
        self.lane(key).supervisor.do_send(Peek {
            key: Arc::from(key),
            reply,
            kind: PhantomData,
        });
        let answer = timeout(OBSERVE, answer).await;
        let down = matches!(stats.phase(), Phase::Backoff | Phase::Quarantined);
        let (status, state) = match answer {
            Ok(Ok(Some(state))) => (Liveness::Alive, Some(state)),
            Ok(_) if down => (Liveness::PostMortem, None),
            Ok(Ok(None)) => (Liveness::Alive, None),
            // It ended while it was asked.
            Ok(Err(_)) => (Liveness::PostMortem, None),
            Err(_) => (Liveness::Timeout, None),
        };
        Some(Observation {
            status,
            info: stats.info(),
            state,
            last_panic: stats.last_panic(),
        })
    }

    /// Puts an actor out of memory if it is idle.
    ///
    /// # Errors
    /// `Unavailable` when its supervisor does not answer within the kind's deadline.
    pub async fn passivate(&self, key: &str) -> Outcome<Passivation> {
        let (reply, answer) = oneshot::channel();
        self.lane(key).supervisor.do_send(Passivate {
            key: Arc::from(key),
            reply,
            kind: PhantomData,
        });
        self.supervisor_says(answer).await
    }

    /// Forgets an actor's panics and ends its pause or quarantine; whether it was down.
    ///
    /// # Errors
    /// `Unavailable` when its supervisor does not answer within the kind's deadline.
    pub async fn release(&self, key: &str) -> Outcome<bool> {
        let (reply, answer) = oneshot::channel();
        self.lane(key).supervisor.do_send(Release {
            key: Arc::from(key),
            reply,
            kind: PhantomData,
        });
        self.supervisor_says(answer).await
    }

    async fn supervisor_says<T>(&self, answer: oneshot::Receiver<T>) -> Outcome<T> {
        match timeout(self.0.shared.settings.ask_deadline, answer).await {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(_)) => Err(DomainError::unavailable("the supervisor ended")),
            Err(_) => Err(DomainError::unavailable("the supervisor did not answer in time")),
        }
    }

    /// Lets the actors finish what they accepted and refuses anything new, for good. Answers how many were left when
    /// `within` was over: 0 unless something is stuck.
    pub async fn drain(&self, within: Duration) -> usize {
        let done: Vec<_> = (self.0.lanes.iter())
            .map(|lane| {
                let (reply, done) = oneshot::channel();
                lane.supervisor.do_send(Drain {
                    reply,
                    kind: PhantomData,
                });
                done
            })
            .collect();
        match timeout(within, futures_util::future::join_all(done)).await {
            Ok(_) => 0,
            Err(_) => self.registry().len(M::KIND),
        }
    }
}
