//! One job for each user, which ends when nobody waits for it.

use dashmap::DashSet;
use ruma::{OwnedUserId, UserId};

use crate::error::{DomainError, Outcome};

/// How soon somebody whose job is still running should try again.
const RETRY_MS: u64 = 2_000;

/// Whose audio is being worked on.
#[derive(Debug, Default)]
pub struct Jobs(DashSet<OwnedUserId>);

/// The right to have audio worked on.
pub(super) struct Turn<'a> {
    jobs: &'a Jobs,
    user: OwnedUserId,
}

impl Jobs {
    /// # Errors
    /// 429 while another job of the user runs.
    pub(super) fn begin(&self, user: &UserId) -> Outcome<Turn<'_>> {
        if !self.0.insert(user.to_owned()) {
            return Err(DomainError::Overloaded {
                retry_after_ms: RETRY_MS,
            });
        }
        Ok(Turn {
            jobs: self,
            user: user.to_owned(),
        })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.jobs.0.remove(&self.user);
    }
}

/// Stops a job when it is dropped: the request was given up, or the job is done anyway.
#[derive(Default)]
pub(super) struct StopOnDrop(audio::Stop);

impl StopOnDrop {
    pub(super) fn flag(&self) -> audio::Stop {
        self.0.clone()
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn one_job_for_each_user() {
        let jobs = Jobs::default();
        let turn = jobs.begin(user_id!("@a:hs")).expect("nothing runs");
        let refused = jobs.begin(user_id!("@a:hs")).err().expect("one is enough");
        assert!(matches!(refused, DomainError::Overloaded { retry_after_ms } if retry_after_ms > 0));
        assert!(jobs.begin(user_id!("@b:hs")).is_ok());
        drop(turn);
        assert!(jobs.begin(user_id!("@a:hs")).is_ok());
    }

    #[test]
    fn what_is_dropped_stops() {
        let guard = StopOnDrop::default();
        let flag = guard.flag();
        assert!(!flag.is_set());
        drop(guard);
        assert!(flag.is_set());
    }
}
