//! One user's presence as a function of time. Pure.

use entities::presence;

use super::Status;
use crate::clock::Millis;

/// Without a poll for this long a user is offline.
const OFFLINE_AFTER: Millis = 30_000;
/// Without an action for this long a user is unavailable.
const IDLE_AFTER: Millis = 300_000;
/// The time of the last action is written at most this often.
const REFRESH: Millis = 60_000;
/// Entries of users who are offline are kept this long.
const FORGET_AFTER: Millis = 600_000;

/// What others see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// `online`
    Online,
    /// `unavailable`
    Unavailable,
    /// `offline`
    Offline,
}

impl Shown {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Unavailable => "unavailable",
            Self::Offline => "offline",
        }
    }

    /// The state of that name; unknown ones count as offline.
    pub fn named(name: &str) -> Self {
        match name {
            "online" => Self::Online,
            "unavailable" => Self::Unavailable,
            _ => Self::Offline,
        }
    }
}

/// What a poll says of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Here.
    Online,
    /// Connected, but away.
    Unavailable,
}

/// Polls of one kind, of all devices together.
#[derive(Clone, Copy, Debug, Default)]
struct Polls {
    waiting: u32,
    last: Millis,
}

impl Polls {
    fn alive(self, now: Millis) -> bool {
        self.waiting > 0 || now - self.last < OFFLINE_AFTER
    }
}

/// A user.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    online: Polls,
    away: Polls,
    last_active: Millis,
    /// The user asked to be shown as unavailable.
    unavailable: bool,
    /// The user asked to be shown as offline: holds until the next poll.
    offline: bool,
    message: Option<String>,
    written: Option<Status>,
    written_at: Millis,
}

impl Entry {
    /// From what a former process wrote.
    pub fn adopted(row: &presence::Model, now: Millis) -> Self {
        let state = Shown::named(&row.state);
        let last = Polls { waiting: 0, last: now };
        let written = Status {
            state: state.as_str(),
            message: row.status_msg.clone(),
            last_active: row.last_active_ts,
        };
        Self {
            online: if state == Shown::Online { last } else { Polls::default() },
            away: if state == Shown::Unavailable {
                last
            } else {
                Polls::default()
            },
            last_active: row.last_active_ts,
            message: row.status_msg.clone(),
            written: Some(written),
            written_at: now,
            ..Self::default()
        }
    }

    fn polls(&mut self, poll: Poll) -> &mut Polls {
        match poll {
            Poll::Online => &mut self.online,
            Poll::Unavailable => &mut self.away,
        }
    }

    /// A poll begins. One that brings its user online counts as an action, later ones do not.
    pub fn begin_poll(&mut self, poll: Poll, now: Millis) {
        if poll == Poll::Online && (self.offline || !self.online.alive(now)) {
            self.last_active = now;
        }
        self.offline = false;
        let polls = self.polls(poll);
        polls.waiting += 1;
        polls.last = now;
    }

    /// A poll is answered.
    pub fn end_poll(&mut self, poll: Poll, now: Millis) {
        let polls = self.polls(poll);
        polls.waiting = polls.waiting.saturating_sub(1);
        polls.last = now;
    }

    /// The user did something: whoever is connected is there.
    pub fn act(&mut self, now: Millis) {
        self.last_active = now;
        self.unavailable = false;
        if self.away.alive(now) {
            self.online.last = self.online.last.max(now);
        }
    }

    /// The user says what it is.
    pub fn set(&mut self, state: Shown, message: Option<String>, now: Millis) {
        self.last_active = now;
        self.message = message;
        self.unavailable = state == Shown::Unavailable;
        self.offline = state == Shown::Offline;
        match state {
            Shown::Online => self.online.last = now,
            Shown::Unavailable => self.away.last = now,
            Shown::Offline => {}
        }
    }

    fn shown(&self, now: Millis) -> Shown {
        let (online, away) = (self.online.alive(now), self.away.alive(now));
        if self.offline || !online && !away {
            Shown::Offline
        } else if self.unavailable || !online || now - self.last_active >= IDLE_AFTER {
            Shown::Unavailable
        } else {
            Shown::Online
        }
    }

    /// What others see.
    pub fn status(&self, now: Millis) -> Status {
        Status {
            state: self.shown(now).as_str(),
            message: self.message.clone(),
            last_active: self.last_active,
        }
    }

    /// Whether what others see differs from what is written, by more than a moment.
    pub fn due(&self, now: Millis) -> bool {
        let state = self.shown(now).as_str();
        match &self.written {
            // Who never was anything need not be written as offline.
            None => state != Shown::Offline.as_str() || self.message.is_some() || self.offline,
            Some(written) => {
                written.state != state
                    || written.message != self.message
                    || written.last_active < self.last_active && now - self.written_at >= REFRESH
            }
        }
    }

    /// It is committed.
    pub fn written(&mut self, status: Status, now: Millis) {
        self.written = Some(status);
        self.written_at = now;
    }

    /// Whether the database knows everything that is worth knowing.
    pub fn is_over(&self, now: Millis) -> bool {
        let last = self.online.last.max(self.away.last).max(self.last_active);
        self.online.waiting + self.away.waiting == 0 && !self.due(now) && now - last >= FORGET_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Millis = 1_000_000_000;

    fn polled(now: Millis) -> Entry {
        let mut entry = Entry::default();
        entry.begin_poll(Poll::Online, now);
        entry
    }

    #[test]
    fn polls_keep_a_user_online_and_their_end_lets_go() {
        let mut entry = polled(START);
        assert_eq!(entry.shown(START), Shown::Online);
        assert_eq!(entry.shown(START + 120_000), Shown::Online, "a long poll waits");
        entry.end_poll(Poll::Online, START + 120_000);
        assert_eq!(entry.shown(START + 149_999), Shown::Online);
        assert_eq!(entry.shown(START + 150_000), Shown::Offline);
    }

    #[test]
    fn five_minutes_without_an_action_are_idle() {
        let mut entry = polled(START);
        entry.begin_poll(Poll::Online, START + 200_000);
        assert_eq!(entry.shown(START + 300_000), Shown::Unavailable);
        entry.act(START + 300_000);
        assert_eq!(entry.shown(START + 300_000), Shown::Online);
    }

    #[test]
    fn any_device_that_is_there_makes_the_user_there() {
        let mut entry = Entry::default();
        entry.begin_poll(Poll::Unavailable, START);
        assert_eq!(entry.shown(START), Shown::Unavailable);
        entry.begin_poll(Poll::Online, START);
        assert_eq!(entry.shown(START), Shown::Online);
        entry.end_poll(Poll::Online, START);
        assert_eq!(entry.shown(START + 30_000), Shown::Unavailable);
        entry.act(START + 40_000);
        assert_eq!(entry.shown(START + 40_000), Shown::Online);
        assert_eq!(entry.shown(START + 70_000), Shown::Unavailable);
    }

    #[test]
    fn what_the_user_asks_for_holds() {
        let mut entry = polled(START);
        entry.set(Shown::Unavailable, Some("lunch".to_owned()), START);
        entry.begin_poll(Poll::Online, START + 1);
        assert_eq!(entry.shown(START + 1), Shown::Unavailable);
        entry.act(START + 2);
        assert_eq!(entry.shown(START + 2), Shown::Online);
        entry.set(Shown::Offline, None, START + 3);
        assert_eq!(entry.shown(START + 3), Shown::Offline);
        entry.begin_poll(Poll::Online, START + 4);
        assert_eq!(entry.shown(START + 4), Shown::Online);
    }

    #[test]
    fn only_changes_are_written_and_the_time_once_a_minute() {
        let mut entry = polled(START);
        assert!(entry.due(START));
        entry.written(entry.status(START), START);
        entry.act(START + 1_000);
        assert!(!entry.due(START + 59_999));
        assert!(entry.due(START + 60_000));
        entry.written(entry.status(START + 60_000), START + 60_000);
        assert!(!entry.due(START + 120_000), "nothing happened since");
        entry.end_poll(Poll::Online, START + 120_000);
        assert!(!entry.is_over(START + 900_000), "offline is not written yet");
        entry.written(entry.status(START + 900_000), START + 900_000);
        assert!(entry.is_over(START + 900_000));
    }

    #[test]
    fn nobody_is_written_for_nothing() {
        assert!(!Entry::default().due(START));
    }
}
