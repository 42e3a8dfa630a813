//! What a supervisor knows about one key.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use actix::Addr;
use tokio::sync::oneshot;

use super::child::Child;
use super::managed::Managed;
use super::messages::{Item, Passivation};
use crate::stats::{ActorStats, Phase};

pub(super) struct Entry<M: Managed> {
    pub stats: Arc<ActorStats>,
    /// Which load, child or pause this is: messages about former ones are ignored.
    pub generation: u64,
    /// When the newest command came.
    pub touched: Instant,
    stage: Stage<M>,
}

/// Where the actor is in its life. Commands that cannot be given to a child wait in the stage.
pub(super) enum Stage<M: Managed> {
    Loading {
        buffer: VecDeque<Item<M>>,
        /// Something was stored while the load ran: an answer "nothing there" is out of date.
        recheck: bool,
    },
    Live {
        addr: Addr<Child<M>>,
    },
    Passivating {
        addr: Addr<Child<M>>,
        buffer: VecDeque<Item<M>>,
        asked: Vec<oneshot::Sender<Passivation>>,
        /// It ends because it is idle, not because of a reload or a drain.
        evicting: bool,
    },
    Backoff {
        until: Instant,
        buffer: VecDeque<Item<M>>,
    },
    Quarantined {
        until: Instant,
    },
}

impl<M: Managed> Stage<M> {
    pub fn loading(buffer: VecDeque<Item<M>>) -> Self {
        Self::Loading { buffer, recheck: false }
    }

    fn phase(&self) -> Phase {
        match self {
            Self::Loading { .. } => Phase::Loading,
            Self::Live { .. } => Phase::Live,
            Self::Passivating { .. } => Phase::Passivating,
            Self::Backoff { .. } => Phase::Backoff,
            Self::Quarantined { .. } => Phase::Quarantined,
        }
    }
}

impl<M: Managed> Entry<M> {
    pub fn new(stats: Arc<ActorStats>, touched: Instant, first: Item<M>) -> Self {
        Self {
            stats,
            generation: 0,
            touched,
            stage: Stage::loading(VecDeque::from([first])),
        }
    }

    pub fn stage(&mut self) -> &mut Stage<M> {
        &mut self.stage
    }

    pub fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live { .. })
    }

    /// Moves on; what waited in the old stage is the caller's.
    pub fn set_stage(&mut self, stage: Stage<M>) {
        self.stats.set_phase(stage.phase());
        self.stage = stage;
    }

    /// Takes the waiting commands out.
    pub fn take_buffer(&mut self) -> VecDeque<Item<M>> {
        match &mut self.stage {
            Stage::Loading { buffer, .. } | Stage::Passivating { buffer, .. } | Stage::Backoff { buffer, .. } => {
                std::mem::take(buffer)
            }
            Stage::Live { .. } | Stage::Quarantined { .. } => VecDeque::new(),
        }
    }

    /// Takes those out who asked for the passivation.
    pub fn take_asked(&mut self) -> Vec<oneshot::Sender<Passivation>> {
        match &mut self.stage {
            Stage::Passivating { asked, .. } => std::mem::take(asked),
            _ => Vec::new(),
        }
    }
}
