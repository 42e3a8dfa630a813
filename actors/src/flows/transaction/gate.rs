//! Who may hand in a transaction now: of one server one is worked on and a few wait, and one that is handed in again while
//! its first copy is under way shares that one's answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use moka::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::error::{DomainError, Outcome};

/// Of one server: one that is worked on and four that wait, copies included.
const MAX_PRESENT: usize = 5;
/// What a server that has too many is told to wait.
const RETRY_MS: u64 = 1_000;
/// Answers kept in memory.
const ANSWERS: u64 = 10_000;
const ANSWERS_FOR: Duration = Duration::from_secs(60 * 60);

/// The body of an answer.
pub type Answer = Arc<str>;
type Shared = Option<Outcome<Answer>>;

/// Every server's transactions under way, and answers that were given lately.
pub struct Gate {
    origins: Arc<DashMap<OwnedServerName, Origin>>,
    answers: Cache<(OwnedServerName, String), Answer>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            origins: Arc::default(),
            answers: Cache::builder().max_capacity(ANSWERS).time_to_live(ANSWERS_FOR).build(),
        }
    }
}

#[derive(Default)]
struct Origin {
    present: usize,
    turn: Arc<Mutex<()>>,
    under_way: HashMap<String, watch::Receiver<Shared>>,
}

/// A place at the gate, given back when dropped.
pub struct Seat {
    origins: Arc<DashMap<OwnedServerName, Origin>>,
    origin: OwnedServerName,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let over = self.origins.get_mut(&self.origin).is_some_and(|mut entry| {
            entry.present -= 1;
            entry.present == 0
        });
        if over {
            self.origins.remove_if(&self.origin, |_, entry| entry.present == 0);
        }
    }
}

/// The first copy of a transaction: it has to be worked on.
pub struct First {
    seat: Seat,
    txn_id: String,
    turn: Arc<Mutex<()>>,
    answer: watch::Sender<Shared>,
}

impl First {
    /// Waits until the server's earlier transactions are done.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// Tells everybody who waits.
    pub fn finish(self, answer: Outcome<Answer>) {
        self.answer.send_replace(Some(answer));
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if let Some(mut entry) = self.seat.origins.get_mut(&self.seat.origin) {
            entry.under_way.remove(&self.txn_id);
        }
    }
}

/// Waits for the answer of a transaction that somebody works on.
pub struct Waiter {
    answer: watch::Receiver<Shared>,
    /// Held by copies; the first one's place goes with the work.
    _seat: Option<Seat>,
}

impl Waiter {
    /// The answer.
    ///
    /// # Errors
    /// What the work ended with; `Unavailable` if it broke off.
    pub async fn answer(mut self) -> Outcome<Answer> {
        let broke_off = || DomainError::unavailable("the work on the transaction broke off");
        let answer = self.answer.wait_for(Option::is_some).await.map_err(|_| broke_off())?;
        answer.clone().unwrap_or_else(|| Err(broke_off()))
    }
}

impl Gate {
    /// Lets a transaction in. Whoever gets a [`First`] has to work on it; everybody waits with the [`Waiter`].
    ///
    /// # Errors
    /// `Overloaded` when the server has too many under way.
    pub fn enter(&self, origin: &ServerName, txn_id: &str) -> Outcome<(Option<First>, Waiter)> {
        let mut entry = self.origins.entry(origin.to_owned()).or_default();
        if entry.present >= MAX_PRESENT {
            return Err(DomainError::Overloaded {
                retry_after_ms: RETRY_MS,
            });
        }
        entry.present += 1;
        let seat = Seat {
            origins: self.origins.clone(),
            origin: origin.to_owned(),
        };
        if let Some(answer) = entry.under_way.get(txn_id) {
            let answer = answer.clone();
            return Ok((
                None,
                Waiter {
                    answer,
                    _seat: Some(seat),
                },
            ));
        }
        let (sender, answer) = watch::channel(None);
        entry.under_way.insert(txn_id.to_owned(), answer.clone());
        let first = First {
            seat,
            txn_id: txn_id.to_owned(),
            turn: entry.turn.clone(),
            answer: sender,
        };
        Ok((Some(first), Waiter { answer, _seat: None }))
    }

    /// An answer that was given lately.
    #[must_use]
    pub fn answered(&self, origin: &ServerName, txn_id: &str) -> Option<Answer> {
        self.answers.get(&(origin.to_owned(), txn_id.to_owned()))
    }

    /// Keeps an answer for a while.
    pub fn remember(&self, origin: &ServerName, txn_id: &str, answer: Answer) {
        self.answers.insert((origin.to_owned(), txn_id.to_owned()), answer);
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn enter(gate: &Gate, txn_id: &str) -> (Option<First>, Waiter) {
        gate.enter(server_name!("y"), txn_id).expect("there is room")
    }

    #[tokio::test]
    async fn copies_share_the_first_ones_answer() {
        let gate = Gate::default();
        let (first, waiter) = enter(&gate, "1");
        let (none, copy) = enter(&gate, "1");
        assert!(none.is_none());
        first.expect("the first").finish(Ok(Answer::from("done")));
        assert_eq!(&*waiter.answer().await.expect("answered"), "done");
        assert_eq!(&*copy.answer().await.expect("answered"), "done");
        assert!(enter(&gate, "1").0.is_some(), "it is no longer under way");
    }

    #[tokio::test]
    async fn one_works_and_four_wait() {
        let gate = Gate::default();
        let mut inside: Vec<_> = ["1", "2", "3", "3", "4"].map(|id| enter(&gate, id)).into();
        let refused = gate.enter(server_name!("y"), "5").err();
        assert!(matches!(refused, Some(DomainError::Overloaded { .. })));
        assert!(gate.enter(server_name!("z"), "5").is_ok(), "others are not concerned");
        let firsts: Vec<&First> = inside.iter().filter_map(|(first, _)| first.as_ref()).collect();
        let turn = firsts[0].turn().await;
        assert!(firsts[1].turn.try_lock().is_err());
        drop(turn);
        assert!(firsts[1].turn.try_lock().is_ok());
        inside.pop();
        assert!(gate.enter(server_name!("y"), "5").is_ok());
        drop(inside);
        assert!(gate.origins.is_empty(), "nothing is kept of servers that are gone");
    }

    #[tokio::test]
    async fn work_that_breaks_off_is_no_answer() {
        let gate = Gate::default();
        let (first, waiter) = enter(&gate, "1");
        drop(first);
        assert!(matches!(waiter.answer().await, Err(DomainError::Unavailable { .. })));
        assert!(enter(&gate, "1").0.is_some());
    }
}
