//! Loading, starting, and what follows a child's end.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use actix::{Actor, Addr};
use futures_util::FutureExt;

use super::actor::{Supervisor, answer_absent};
use super::backoff::Verdict;
use super::child::{Child, DeathNotice, Ending};
use super::entry::Stage;
use super::managed::{Managed, Missing};
use super::messages::{ChildDown, Item, LoadOutcome, Loaded, Passivation, Start, Wake, fail_all, prune};
use super::{Shared, panic_text};
use crate::error::DomainError;
use crate::stats::ActorStats;

impl<M: Managed> Supervisor<M> {
    /// Loads the key, whose entry is `Loading`, now or when there is room.
    pub(super) fn begin_load(&mut self, key: Arc<str>, me: &Addr<Self>) {
        if self.loads_running >= self.shared.settings.loads {
            self.loads_waiting.push_back(key);
            return self.count();
        }
        let generation = self.next_generation();
        let Some(entry) = self.entries.peek_mut(&*key) else {
            return;
        };
        entry.generation = generation;
        let stats = Arc::clone(&entry.stats);
        self.loads_running += 1;
        self.count();
        let (shared, supervisor) = (Arc::clone(&self.shared), me.clone());
        self.shared.fabric.io.spawn(async move {
            let outcome = load(shared, Arc::clone(&key), stats).await;
            supervisor.do_send(Loaded {
                key,
                generation,
                outcome,
                kind: PhantomData,
            });
        });
    }

    /// Starts the next load that somebody still waits for.
    fn next_load(&mut self, me: &Addr<Self>) {
        let now = self.now();
        while self.loads_running < self.shared.settings.loads {
            let Some(key) = self.loads_waiting.pop_front() else {
                break;
            };
            let Some(entry) = self.entries.peek_mut(&*key) else {
                continue;
            };
            let Stage::Loading { buffer, .. } = entry.stage() else {
                continue;
            };
            let gone = prune(buffer, now);
            let wanted = !buffer.is_empty();
            self.lane.expired.fetch_add(gone, Relaxed);
            if wanted {
                self.begin_load(key, me)
            } else {
                self.remove(&key)
            }
        }
        self.count();
    }

    pub(super) fn loaded(&mut self, key: &Arc<str>, generation: u64, outcome: LoadOutcome<M>, me: &Addr<Self>) {
        self.loads_running -= 1;
        self.next_load(me);
        let Some(entry) = self
            .entries
            .peek_mut(&**key)
            .filter(|entry| entry.generation == generation)
        else {
            return;
        };
        let Stage::Loading { recheck, .. } = entry.stage() else {
            return;
        };
        let again = std::mem::take(recheck);
        match outcome {
            LoadOutcome::Found(start) => {
                let buffer = entry.take_buffer();
                self.spawn_child(key, start, buffer, me);
            }
            LoadOutcome::Absent if again => self.begin_load(Arc::clone(key), me),
            LoadOutcome::Absent => self.nothing_there(key, me),
            LoadOutcome::Failed(error) => {
                let buffer = entry.take_buffer();
                self.remove(key);
                fail_all(buffer, &error);
            }
            LoadOutcome::Panicked(text) => self.down(key, generation, text, VecDeque::new(), me),
        }
    }

    /// Nothing is stored: the first creating command starts the actor, what came before it is refused.
    fn nothing_there(&mut self, key: &Arc<str>, me: &Addr<Self>) {
        let Some(entry) = self.entries.peek_mut(&**key) else {
            return;
        };
        let mut buffer = entry.take_buffer();
        let mut refused = Vec::new();
        while let Some(item) = buffer.pop_front() {
            let env = &self.shared.env;
            let made = || M::fresh(env, key, &item.command).map(Start::of);
            let fresh = || if item.creates { made() } else { None };
            // A panic here is the command's fault, not the supervisor's.
            match catch_unwind(AssertUnwindSafe(fresh)) {
                Ok(Some(start)) => {
                    buffer.push_front(item);
                    self.spawn_child(key, start, buffer, me);
                    return refuse_all(key, refused);
                }
                Ok(_) => refused.push(item),
                Err(panic) => item.fail(DomainError::internal(format!("creating: {}", panic_text(&*panic)))),
            }
        }
        let until = self.now() + self.shared.settings.negative;
        self.absent.put(Arc::clone(key), until);
        self.remove(key);
        refuse_all(key, refused);
    }

    fn spawn_child(&mut self, key: &Arc<str>, start: Start<M>, mut queue: VecDeque<Item<M>>, me: &Addr<Self>) {
        let now = self.now();
        let generation = self.next_generation();
        let Some(entry) = self.entries.peek_mut(&**key) else {
            return;
        };
        entry.generation = generation;
        self.lane.set_weight(&entry.stats, start.weight);
        if let Some(command) = start.first {
            queue.push_front(Item::own(command, now));
        }
        let addr = Child {
            shared: Arc::clone(&self.shared),
            lane: Arc::clone(&self.lane),
            stats: Arc::clone(&entry.stats),
            state: start.state,
            queue,
            busy: false,
            ending: Ending::No,
            notice: DeathNotice {
                supervisor: me.clone(),
                key: Arc::clone(key),
                generation,
                panic: None,
                leftover: VecDeque::new(),
            },
        }
        .start();
        entry.set_stage(Stage::Live { addr });
        self.absent.pop(&**key);
        self.lane.started.fetch_add(1, Relaxed);
        if self.evicted.pop(&**key).is_some() {
            self.lane.recreated.fetch_add(1, Relaxed);
        }
        if self.draining.is_some() {
            self.drain_one(key);
        } else {
            self.relieve(64);
        }
    }

    /// A child is gone.
    pub(super) fn child_down(&mut self, msg: ChildDown<M>, me: &Addr<Self>) {
        let ChildDown {
            key,
            generation,
            panic,
            leftover,
            ..
        } = msg;
        let Some(entry) = self
            .entries
            .peek_mut(&*key)
            .filter(|entry| entry.generation == generation)
        else {
            return fail_all(leftover, &failed());
        };
        if let Some(text) = panic {
            return self.down(&key, generation, text, leftover, me);
        }
        if matches!(entry.stage(), Stage::Passivating { evicting: true, .. }) {
            self.lane.passivated.fetch_add(1, Relaxed);
            self.evicted.put(Arc::clone(&key), ());
        }
        for asked in entry.take_asked() {
            // The asker may be gone.
            let _ = asked.send(Passivation::Passivated);
        }
        let mut queue = leftover;
        queue.append(&mut entry.take_buffer());
        self.restart_or_remove(&key, queue, me);
    }

    /// Loads afresh if anything waits.
    pub(super) fn restart_or_remove(&mut self, key: &Arc<str>, queue: VecDeque<Item<M>>, me: &Addr<Self>) {
        if queue.is_empty() {
            self.remove(key);
        } else {
            self.reload(key, queue, me);
        }
    }

    pub(super) fn reload(&mut self, key: &Arc<str>, queue: VecDeque<Item<M>>, me: &Addr<Self>) {
        let Some(entry) = self.entries.peek_mut(&**key) else {
            return;
        };
        entry.stats.count_restart();
        entry.set_stage(Stage::loading(queue));
        self.begin_load(Arc::clone(key), me);
    }

    /// A child, or a load, panicked. What it was running is lost and answered; what had not begun waits for the next child.
    pub(super) fn down(
        &mut self,
        key: &Arc<str>,
        generation: u64,
        text: String,
        leftover: VecDeque<Item<M>>,
        me: &Addr<Self>,
    ) {
        let (now, next) = (self.now(), self.next_generation());
        let chance = self.shared.fabric.rng.below(1_001);
        let Some(entry) = self
            .entries
            .peek_mut(&**key)
            .filter(|entry| entry.generation == generation)
        else {
            return fail_all(leftover, &failed());
        };
        // Its death is dealt with: a second notice of it means nothing.
        entry.generation = next;
        let faults = self.faults.entry(Arc::clone(key)).or_default();
        let verdict = faults.record(now, &self.shared.settings.backoff, chance);
        let total = faults.total;
        self.lane.panics.fetch_add(1, Relaxed);
        tracing::error!(kind = %M::KIND, key = %key, panics = total, ?verdict, "actor panicked: {text}");
        entry.stats.note_panic(total, text);
        self.lane.set_weight(&entry.stats, 0);
        for asked in entry.take_asked() {
            // The asker may be gone.
            let _ = asked.send(Passivation::NotLive);
        }
        let mut buffer = leftover;
        buffer.append(&mut entry.take_buffer());
        match verdict {
            Verdict::Pause(pause) => self.pause(key, pause, buffer, me),
            Verdict::Quarantine(time) => {
                self.lane.quarantined.fetch_add(1, Relaxed);
                metrics::counter!("synapse_actor_quarantine_alarms_total", "kind" => M::KIND.as_str()).increment(1);
                entry.set_stage(Stage::Quarantined { until: now + time });
                fail_all(buffer, &failed());
            }
        }
        if self.draining.is_some() {
            self.drain_one(key);
        }
    }

    fn pause(&mut self, key: &Arc<str>, pause: Duration, mut buffer: VecDeque<Item<M>>, me: &Addr<Self>) {
        let until = self.now() + pause;
        let Some(entry) = self.entries.peek_mut(&**key) else {
            return;
        };
        let generation = entry.generation;
        let mut refused = VecDeque::new();
        if pause > self.shared.settings.hold {
            refused.append(&mut buffer);
        }
        entry.set_stage(Stage::Backoff { until, buffer });
        fail_all(refused, &failed());
        // Not a future of this actor's context: every wake-up would poll them all.
        let (key, supervisor) = (Arc::clone(key), me.clone());
        self.shared.fabric.io.spawn(async move {
            tokio::time::sleep(pause).await;
            supervisor.do_send(Wake {
                key,
                generation,
                kind: PhantomData,
            });
        });
    }

    /// A pause is over.
    pub(super) fn wake(&mut self, key: &Arc<str>, generation: u64, me: &Addr<Self>) {
        let Some(entry) = self
            .entries
            .peek_mut(&**key)
            .filter(|entry| entry.generation == generation)
        else {
            return;
        };
        if matches!(entry.stage(), Stage::Backoff { .. }) {
            let queue = entry.take_buffer();
            self.reload(key, queue, me);
        }
    }
}

fn refuse_all<M: Managed>(key: &str, items: Vec<Item<M>>) {
    items
        .into_iter()
        .for_each(|item| answer_absent(key, Missing::Unknown, item));
}

fn failed() -> DomainError {
    DomainError::unavailable("the actor failed")
}

/// Waits for whatever still runs under the key, then reads its state.
async fn load<M: Managed>(shared: Arc<Shared<M>>, key: Arc<str>, stats: Arc<ActorStats>) -> LoadOutcome<M> {
    let env = Arc::clone(&shared.env);
    let work = async move {
        let turn = stats.turn().await;
        // Its own task: a load that exceeds its time keeps the turn until it has really ended.
        let run = async move {
            let _turn = turn;
            M::load(env, key).await.map(|state| state.map(Start::of))
        };
        tokio::spawn(AssertUnwindSafe(run).catch_unwind()).await
    };
    match tokio::time::timeout(shared.settings.load_deadline, work).await {
        Ok(Ok(Ok(Ok(Some(start))))) => LoadOutcome::Found(start),
        Ok(Ok(Ok(Ok(None)))) => LoadOutcome::Absent,
        Ok(Ok(Ok(Err(error)))) => LoadOutcome::Failed(error),
        Ok(Ok(Err(panic))) => LoadOutcome::Panicked(panic_text(&*panic)),
        Ok(Err(join)) => LoadOutcome::Failed(DomainError::unavailable(format!("load: {join}"))),
        Err(_) => LoadOutcome::Failed(DomainError::unavailable("loading takes too long")),
    }
}
