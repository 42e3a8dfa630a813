//! Named points where the process can be told to die as `kill -9` would have it, to test what a restart finds.
//!
//! `SYNAPSE_RUST_FAILPOINT=name:count` arms one point: the process aborts at its `count`-th pass. Only that variable does;
//! the configuration file cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that arms a point.
pub const VARIABLE: &str = "SYNAPSE_RUST_FAILPOINT";

/// Before the journal's transaction.
pub const BEFORE_COMMIT: &str = "journal.before_commit";
/// Committed; nobody was told and nothing is visible.
pub const AFTER_COMMIT: &str = "journal.after_commit";
/// Visible; nobody was answered.
pub const AFTER_PUBLISH: &str = "journal.after_publish";
/// Before a user's actor works on a command.
pub const SESSION_BEFORE: &str = "session.before_write";
/// What a user's actor had to write is written; nobody was answered.
pub const SESSION_AFTER: &str = "session.after_write";
/// A room's events are planned, not yet submitted.
pub const ROOM_BEFORE: &str = "room.before_submit";
/// A room is about to be told of a new profile.
pub const PROFILE_ROOM: &str = "profile.before_room";
/// The room that replaces another is there; the old one knows nothing of it.
pub const UPGRADE_CREATED: &str = "upgrade.created";
/// The old room has its tombstone; nothing else has happened to it.
pub const UPGRADE_ANNOUNCED: &str = "upgrade.announced";
/// Of the old room only the listing in the directory is left.
pub const UPGRADE_MOVED: &str = "upgrade.moved";
/// A user's half of a friendship is written; nobody else knows of it.
pub const FRIEND_UNTOLD: &str = "friend.untold";
/// The other half has been told; this one does not know that yet.
pub const FRIEND_TOLD: &str = "friend.told";
/// The room of two friends is chosen and not there yet.
pub const FRIEND_ROOM: &str = "friend.room";
/// The room of two friends is there; the user's clients do not know yet what it is.
pub const FRIEND_ENTERED: &str = "friend.entered";
/// How far an administrator's task has come is written; the next step is not begun.
pub const ADMIN_NOTED: &str = "admin.noted";
/// A delayed event is in its room; that it is over is not written yet.
pub const DELAYED_SENT: &str = "delayed.sent";
/// A room's readers have lost it; the rest of it is still there.
pub const ROOM_PURGED: &str = "room.purged";

/// The armed point, if any.
#[derive(Clone, Debug, Default)]
pub struct Failpoints(Option<Arc<Armed>>);

#[derive(Debug)]
struct Armed {
    name: String,
    left: AtomicU64,
}

impl Failpoints {
    /// As the environment has it.
    #[must_use]
    pub fn from_environment() -> Self {
        std::env::var(VARIABLE).map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// From `name:count`; without a count the first pass.
    fn parse(text: &str) -> Self {
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        let Ok(left) = count.parse::<u64>() else {
            tracing::error!(text, "{VARIABLE} is not name:count, nothing is armed");
            return Self::default();
        };
        tracing::warn!(name, left, "a failpoint is armed: this process will abort");
        Self(Some(Arc::new(Armed {
            name: name.to_owned(),
            left: AtomicU64::new(left.max(1)),
        })))
    }

    /// Passes a point.
    pub fn pass(&self, name: &str) {
        if self.0.as_ref().is_some_and(|armed| armed.is_due(name)) {
            std::process::abort();
        }
    }
}

impl Armed {
    fn is_due(&self, name: &str) -> bool {
        self.name == name && self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counted_pass_of_the_named_point_is_due() {
        let armed = Failpoints::parse("journal.after_commit:3").0.expect("well-formed");
        assert!(!armed.is_due(BEFORE_COMMIT));
        assert_eq!(
            [1, 2, 3, 4].map(|_| armed.is_due(AFTER_COMMIT)),
            [false, false, true, false]
        );
        assert!(Failpoints::parse("x").0.expect("well-formed").is_due("x"));
        assert!(Failpoints::parse("x:many").0.is_none());
        Failpoints::default().pass(AFTER_COMMIT);
    }
}
