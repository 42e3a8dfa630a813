//! Putting idle actors out of memory, by a handshake that loses no command.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::oneshot;

use super::actor::Supervisor;
use super::entry::{Entry, Stage};
use super::managed::Managed;
use super::messages::{Passivation, Retire, RetireMode, Work};

impl<M: Managed> Supervisor<M> {
    pub(super) fn tick(&mut self) {
        let now = self.now();
        let settings = &self.shared.settings.backoff;
        let entries = &self.entries;
        self.faults
            .retain(|key, faults| entries.contains(&**key) || !faults.is_stale(now, settings));
        self.ending.retain(|_, stats| stats.is_running());
        let over: Vec<Arc<str>> = self
            .entries
            .iter_mut()
            .filter_map(|(key, entry)| {
                matches!(entry.stage(), Stage::Quarantined { until } if *until <= now).then(|| Arc::clone(key))
            })
            .collect();
        for key in over {
            self.remove(&key);
        }
        self.relieve(4_096);
        self.count();
        self.lane.publish();
    }

    /// Walks from the actor that was longest without a command: passivates the idle, and more while the lane weighs too much.
    /// Looks at no more than `walk` of them.
    pub(super) fn relieve(&mut self, walk: usize) {
        if self.draining.is_some() {
            return;
        }
        let (now, idle) = (self.now(), self.shared.settings.idle);
        let mut excess = self
            .lane
            .weight
            .load(Relaxed)
            .saturating_sub(self.shared.settings.weight_capacity);
        let mut victims = Vec::new();
        for (key, entry) in self.entries.iter().rev().take(walk) {
            if excess == 0 && now.saturating_duration_since(entry.touched) < idle {
                break;
            }
            if !entry.is_live() {
                // One that is on its way out counts as gone.
                excess = excess.saturating_sub(entry.stats.weight());
            } else if entry.stats.queued() == 0 {
                excess = excess.saturating_sub(entry.stats.weight());
                victims.push(Arc::clone(key));
            }
        }
        for key in victims {
            self.retire(&key, RetireMode::IfUnpinned, None);
        }
    }

    /// Sends a live child its last message; from now on commands wait in the entry.
    fn retire(&mut self, key: &str, mode: RetireMode, asked: Option<oneshot::Sender<Passivation>>) {
        let Some(entry) = self.entries.peek_mut(key) else {
            return;
        };
        let Stage::Live { addr } = entry.stage() else { return };
        let addr = addr.clone();
        addr.do_send(Retire {
            mode,
            kind: PhantomData,
        });
        let evicting = mode != RetireMode::HandBack;
        let asked = asked.into_iter().collect();
        entry.set_stage(Stage::Passivating {
            addr,
            buffer: VecDeque::new(),
            asked,
            evicting,
        });
    }

    /// The child is not idle: it lives on and gets what waited.
    pub(super) fn busy(&mut self, key: &Arc<str>, generation: u64) {
        let now = self.now();
        let Some(entry) = self
            .entries
            .get_mut(&**key)
            .filter(|entry| entry.generation == generation)
        else {
            return;
        };
        // Moves to the young end, so that the next walk does not ask it again.
        entry.touched = now;
        for asked in entry.take_asked() {
            // The asker may be gone.
            let _ = asked.send(Passivation::Busy);
        }
        let buffer = entry.take_buffer();
        let Stage::Passivating { addr, .. } = entry.stage() else {
            return;
        };
        let addr = addr.clone();
        for item in buffer {
            addr.do_send(Work {
                item,
                kind: PhantomData,
            });
        }
        entry.set_stage(Stage::Live { addr });
        if self.draining.is_some() {
            self.drain_one(key);
        }
    }

    /// The child's state is in doubt: it hands its queue back and is loaded afresh.
    pub(super) fn frozen(&mut self, key: &str, generation: u64) {
        // When the child is passivating, its last message is on the way to it already.
        if self
            .entries
            .peek(key)
            .is_some_and(|entry| entry.generation == generation)
        {
            self.retire(key, RetireMode::HandBack, None);
        }
    }

    pub(super) fn passivate_on_request(&mut self, key: &str, reply: oneshot::Sender<Passivation>) {
        match self.entries.peek_mut(key).map(Entry::stage) {
            Some(Stage::Live { .. }) => self.retire(key, RetireMode::IfIdle, Some(reply)),
            Some(Stage::Passivating { asked, .. }) => asked.push(reply),
            // The asker may be gone.
            _ => drop(reply.send(Passivation::NotLive)),
        }
    }
}
