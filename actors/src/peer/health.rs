//! How it goes with a server: when it last answered, and how long it is left alone after it did not. Pure.

use entities::destination;

use super::transport::WireError;
use crate::clock::Millis;

/// The first pause; each further one is twice as long.
pub const FIRST_PAUSE_MS: Millis = 60 * 1_000;
/// The longest pause.
pub const LONGEST_PAUSE_MS: Millis = 24 * 60 * 60 * 1_000;
/// The longest time that a server may ask to be left alone for.
const LONGEST_HOLD_MS: Millis = 60 * 60 * 1_000;
/// The pause that remains where a server was heard of right after it did not answer.
const SEEN_PAUSE_MS: Millis = 10 * 1_000;
/// Characters of the last error that are kept.
const MAX_ERROR: usize = 500;

/// What an answer, or the lack of one, says about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It is alive.
    Alive,
    /// It is alive and wants to be left alone for this long.
    Busy(Millis),
    /// It does not work, or not for this server; in words.
    Down(String),
}

impl Sign {
    /// Reads the sign. Refusals are answers, but for those that say that the server is broken, that it does not know this
    /// one's keys, or that it is not a Matrix server at all.
    #[must_use]
    pub fn of<T>(outcome: &Result<T, WireError>) -> Self {
        let Err(error) = outcome else {
            return Self::Alive;
        };
        match error {
            WireError::Refused {
                status: 429,
                retry_after_ms,
                ..
            } => {
                let wait = Millis::try_from(retry_after_ms.unwrap_or(5_000)).unwrap_or(LONGEST_HOLD_MS);
                Self::Busy(wait.clamp(1, LONGEST_HOLD_MS))
            }
            WireError::Refused { status, errcode, .. } => match status {
                401 | 500.. => Self::Down(error.to_string()),
                _ if errcode.is_none() => Self::Down(error.to_string()),
                _ => Self::Alive,
            },
            // It answered; what, is another matter.
            WireError::Invalid(_) => Self::Alive,
            WireError::Unreachable(_) | WireError::Blocked(_) | WireError::Disabled => Self::Down(error.to_string()),
        }
    }
}

impl Sign {
    /// The same of a transaction, which no server has a reason to refuse.
    #[must_use]
    pub fn of_transaction<T>(outcome: &Result<T, WireError>) -> Self {
        match (Self::of(outcome), outcome) {
            (Self::Alive, Err(error)) => Self::Down(error.to_string()),
            (sign, _) => sign,
        }
    }
}

/// How it goes with a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The first failure since the last success.
    pub failing_since: Option<Millis>,
    /// When it was last tried in vain or answered after that; 0: never.
    pub last_try: Millis,
    /// How long it is left alone after the last try.
    pub pause: Millis,
    /// 0: never.
    pub last_success: Millis,
    /// The last failure, in words.
    pub last_error: Option<String>,
    /// The newest of our events that it has answered for.
    pub last_sent: i64,
    /// Until when it has asked to be left alone; not stored.
    pub held_until: Millis,
}

impl Health {
    /// As stored.
    #[must_use]
    pub fn from_row(row: destination::Model) -> Self {
        Self {
            failing_since: row.failing_since_ts,
            last_try: row.last_try_ts,
            pause: row.retry_interval_ms.clamp(0, LONGEST_PAUSE_MS),
            last_success: row.last_success_ts,
            last_error: row.last_error,
            last_sent: row.last_sent_pos,
            held_until: 0,
        }
    }

    /// To be stored.
    #[must_use]
    pub fn to_row(&self, server: &str) -> destination::Model {
        destination::Model {
            server_name: server.to_owned(),
            failing_since_ts: self.failing_since,
            last_try_ts: self.last_try,
            retry_interval_ms: self.pause,
            last_success_ts: self.last_success,
            last_error: self.last_error.clone(),
            last_sent_pos: self.last_sent,
        }
    }

    /// How long it is to be left alone from now on, milliseconds; 0 if it may be tried. A clock that was set back lengthens
    /// no pause.
    #[must_use]
    pub fn wait(&self, now: Millis) -> Millis {
        let left = |until: Millis, most| until.saturating_sub(now).clamp(0, most);
        left(self.last_try.saturating_add(self.pause), self.pause).max(left(self.held_until, LONGEST_HOLD_MS))
    }

    /// Notes what a try that began at `began` said. `chance`, uniform in `0..=1000`, spreads the pauses by ± 10 %. Tells
    /// whether anything has changed that must not be forgotten.
    pub fn note(&mut self, sign: Sign, began: Millis, now: Millis, chance: u64) -> bool {
        match sign {
            Sign::Alive => self.succeed(now),
            Sign::Busy(wait) => {
                self.held_until = now + wait;
                self.succeed(now)
            }
            Sign::Down(error) => {
                self.fail(error, began, now, chance);
                true
            }
        }
    }

    fn succeed(&mut self, now: Millis) -> bool {
        let recovered = self.failing_since.is_some() || self.pause > 0 || self.last_success == 0;
        self.failing_since = None;
        self.pause = 0;
        self.last_success = now;
        recovered
    }

    fn fail(&mut self, error: String, began: Millis, now: Millis, chance: u64) {
        self.last_error = Some(error.chars().take(MAX_ERROR).collect());
        // Tries that were under way together fail together: they count once. So does one that did not heed the pause.
        let counted = self.pause > 0 && began < self.last_try.saturating_add(self.pause);
        self.failing_since.get_or_insert(now);
        if counted {
            return;
        }
        self.last_try = now;
        let pause = (self.pause * 2).clamp(FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
        let percent = 90 + Millis::try_from(chance.min(1_000) * 20 / 1_000).unwrap_or(10);
        self.pause = (pause * percent / 100).clamp(FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
    }

    /// The server has sent a request: it is worth another try. Tells whether that is news.
    pub fn seen(&mut self, now: Millis) -> bool {
        let pause = if now - self.last_try >= SEEN_PAUSE_MS {
            0
        } else {
            SEEN_PAUSE_MS
        };
        if self.pause <= pause {
            return false;
        }
        self.pause = pause;
        true
    }

    /// Forgets the pause: the operator's wish.
    pub fn reset(&mut self) {
        (self.pause, self.held_until) = (0, 0);
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
