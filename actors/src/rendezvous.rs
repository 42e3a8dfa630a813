//! Where two devices of a user meet before one of them is signed in (MSC4108, MSC4388): short texts under names nobody can
//! guess, for a few minutes, in memory only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Millis;
use crate::error::{DomainError, Outcome};
use crate::rng::Rng;

/// The longest text, bytes.
pub const MAX_BYTES: usize = 4_096;
/// How long a meeting lasts, milliseconds.
pub const LIFETIME_MS: Millis = 5 * 60 * 1_000;
/// Meetings at a time.
const MAX_SESSIONS: usize = 2_000;
/// Characters of an id or a revision.
const NAME_LEN: usize = 32;

/// What stands at a meeting place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// What was left there last.
    pub data: Vec<u8>,
    /// Which revision that is.
    pub token: String,
    /// When it was left, Unix milliseconds.
    pub modified_ms: Millis,
    /// When the meeting ends, Unix milliseconds.
    pub expires_ms: Millis,
}

/// Why a text was not left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such meeting, or no more.
    Unknown,
    /// Another text has been left since.
    Outdated(Payload),
}

/// All meetings.
#[derive(Default)]
pub struct Rendezvous {
    sessions: Mutex<HashMap<String, Payload>>,
}

impl Rendezvous {
    fn with<T>(&self, now: Millis, id: &str, act: impl FnOnce(&mut HashMap<String, Payload>) -> T) -> Option<T> {
        // Every change is a single step: a panic elsewhere leaves nothing half done.
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        match sessions.get(id) {
            Some(found) if found.expires_ms > now => Some(act(&mut sessions)),
            Some(_) => {
                sessions.remove(id);
                None
            }
            None => None,
        }
    }

    /// Begins a meeting. Answers its id.
    ///
    /// # Errors
    /// `M_TOO_LARGE`; `Overloaded` when there are too many meetings.
    pub fn create(&self, rng: &Rng, now: Millis, data: Vec<u8>) -> Outcome<(String, Payload)> {
        check(&data)?;
        let payload = Payload {
            data,
            token: rng.alphanumeric(NAME_LEN),
            modified_ms: now,
            expires_ms: now + LIFETIME_MS,
        };
        let id = rng.alphanumeric(NAME_LEN);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= MAX_SESSIONS {
            sessions.retain(|_, session| session.expires_ms > now);
        }
        if sessions.len() >= MAX_SESSIONS {
            return Err(DomainError::Overloaded { retry_after_ms: 10_000 });
        }
        sessions.insert(id.clone(), payload.clone());
        Ok((id, payload))
    }

    /// What stands there; `None` when there is no such meeting.
    #[must_use]
    pub fn read(&self, now: Millis, id: &str) -> Option<Payload> {
        self.with(now, id, |sessions| sessions.get(id).cloned()).flatten()
    }

    /// Leaves another text instead of the one that the writer has seen.
    ///
    /// # Errors
    /// `M_TOO_LARGE`. Inside: why it was not left.
    pub fn write(
        &self,
        rng: &Rng,
        now: Millis,
        id: &str,
        seen: &str,
        data: Vec<u8>,
    ) -> Outcome<Result<Payload, Refused>> {
        check(&data)?;
        let token = rng.alphanumeric(NAME_LEN);
        let written = self.with(now, id, |sessions| {
            let session = sessions.get_mut(id)?;
            if session.token != seen {
                return Some(Err(Refused::Outdated(session.clone())));
            }
            session.data = data;
            session.token = token;
            session.modified_ms = now;
            Some(Ok(session.clone()))
        });
        Ok(written.flatten().unwrap_or(Err(Refused::Unknown)))
    }

    /// Ends a meeting; whether there was one.
    pub fn end(&self, now: Millis, id: &str) -> bool {
        self.with(now, id, |sessions| sessions.remove(id)).is_some()
    }
}

fn check(data: &[u8]) -> Outcome<()> {
    if data.len() > MAX_BYTES {
        return Err(DomainError::too_large(format!("{MAX_BYTES} bytes at most")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_not_seen_the_last_text_replaces_nothing() {
        let (rng, all) = (Rng::seeded(1), Rendezvous::default());
        let (id, first) = all.create(&rng, 0, b"a".to_vec()).expect("there is room");
        let second = all.write(&rng, 1, &id, &first.token, b"b".to_vec()).expect("small");
        let second = second.expect("it was seen");
        assert_ne!(first.token, second.token);
        let late = all.write(&rng, 2, &id, &first.token, b"c".to_vec()).expect("small");
        assert_eq!(late, Err(Refused::Outdated(second.clone())));
        assert_eq!(all.read(2, &id), Some(second));
        assert!(all.end(3, &id));
        assert!(!all.end(3, &id));
        assert_eq!(all.read(3, &id), None);
    }

    #[test]
    fn meetings_end_by_themselves_and_are_not_many() {
        let (rng, all) = (Rng::seeded(1), Rendezvous::default());
        let (id, _) = all.create(&rng, 0, Vec::new()).expect("there is room");
        assert!(all.read(LIFETIME_MS - 1, &id).is_some());
        assert_eq!(all.read(LIFETIME_MS, &id), None);
        for _ in 0..MAX_SESSIONS {
            all.create(&rng, 0, Vec::new()).expect("there is room");
        }
        assert!(matches!(
            all.create(&rng, 0, Vec::new()),
            Err(DomainError::Overloaded { .. })
        ));
        all.create(&rng, LIFETIME_MS, Vec::new()).expect("those are over");
        assert!(all.create(&rng, 0, vec![0; MAX_BYTES + 1]).is_err());
    }
}
