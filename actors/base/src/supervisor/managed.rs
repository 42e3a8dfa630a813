//! What a managed actor is: plain functions over an immutable state, no actix in sight.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{DomainError, Outcome};

/// The kinds of managed actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One per room; the key is the room's id.
    Room,
    /// One per local user; the key is the user's id.
    Session,
    /// One per remote server; the key is its name.
    Peer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Room, Self::Session, Self::Peer];

    /// `room`, `session` or `peer`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Session => "session",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| DomainError::invalid_param("kind must be room, session or peer"))
    }
}

/// Why a command found no actor to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing is stored under the key.
    Unknown,
    /// The actor is not running and the command may not start it.
    NotLive,
}

/// What became of a batch.
pub enum Ran<M: Managed> {
    /// Everything is known: the new state (or the old one), and one reply for each command, in order.
    Done {
        /// What the next batch starts from.
        state: Arc<M::State>,
        /// As many as there were commands.
        replies: Vec<Outcome<M::Reply>>,
    },
    /// In doubt (a commit whose outcome is unknown, a store that contradicts the state): the actor ends and is rebuilt from
    /// the store before the next command.
    Reload {
        /// As many as there were commands.
        replies: Vec<Outcome<M::Reply>>,
    },
}

/// A kind of actor. One batch of an actor runs at a time; loading and running happen on the io runtime, never on an arbiter.
/// A panic anywhere in here ends that one actor: it is rebuilt from the store after a pause.
pub trait Managed: Send + Sync + Sized + 'static {
    /// Which.
    const KIND: Kind;
    /// What the functions need besides their arguments.
    type Env: Send + Sync + 'static;
    /// Immutable, shared with readers.
    type State: Send + Sync + 'static;
    /// What it can be asked: data.
    type Command: Send + 'static;
    /// What it answers: data.
    type Reply: Send + 'static;

    /// Reads the state from the store; `None` when nothing is stored under the key.
    fn load(env: Arc<Self::Env>, key: Arc<str>) -> BoxFuture<'static, Outcome<Option<Arc<Self::State>>>>;

    /// Runs a batch. What it promises in a reply is committed.
    fn run(
        env: Arc<Self::Env>,
        key: Arc<str>,
        state: Arc<Self::State>,
        batch: Vec<Self::Command>,
    ) -> BoxFuture<'static, Ran<Self>>;

    /// How many of the waiting commands (at least one waits) are run together. Called on the arbiter: must be quick.
    fn batch_len<'a>(_waiting: impl ExactSizeIterator<Item = &'a Self::Command>) -> usize {
        1
    }

    /// Whether the command may start the actor; otherwise it reaches live ones only.
    fn may_start(_command: &Self::Command) -> bool {
        true
    }

    /// Whether the command makes what is not there yet. Such a command is not refused for a recent "nothing there".
    fn creates(_command: &Self::Command) -> bool {
        false
    }

    /// The state a creating command begins with when nothing is stored. Quick, called on the arbiter.
    fn fresh(_env: &Arc<Self::Env>, _key: &Arc<str>, _command: &Self::Command) -> Option<Arc<Self::State>> {
        None
    }

    /// Whether anything is stored under the key. When `false` after a batch (a creation that was refused, a purge), the
    /// actor ends as after [`Ran::Reload`].
    fn exists(_state: &Self::State) -> bool {
        true
    }

    /// A command that the actor gives itself when it starts; its reply goes nowhere.
    fn first(_state: &Self::State) -> Option<Self::Command> {
        None
    }

    /// The answer to a command that found no actor.
    fn absent(_key: &str, _why: Missing, _command: &Self::Command) -> Outcome<Self::Reply> {
        Err(DomainError::not_found(format!("Unknown {}", Self::KIND)))
    }

    /// Its share of the memory budget.
    fn weight(_state: &Self::State) -> u64 {
        1
    }

    /// Whether somebody relies on it staying in memory although it is idle. Quick, called on the arbiter.
    fn pinned(_env: &Arc<Self::Env>, _key: &Arc<str>, _state: &Self::State) -> bool {
        false
    }

    /// What an administrator sees of the state. Quick, called on the arbiter.
    fn observe(state: &Self::State) -> Value;
}
