//! Whom not to ask again for a while. In bounded memory: those that were not asked about for the longest time are forgotten.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::clock::Millis;
use lru::LruCache;

struct Wait {
    since: Millis,
    until: Millis,
    failures: u32,
}

/// Waits by key: the first failure is followed by `first` milliseconds, each further one by twice as many, up to `longest`.
pub(super) struct Waits<K: Hash + Eq> {
    entries: Mutex<LruCache<K, Wait>>,
    first: Millis,
    longest: Millis,
}

impl<K: Hash + Eq> Waits<K> {
    pub fn new(capacity: NonZeroUsize, first: Millis, longest: Millis) -> Self {
        Self {
            entries: Mutex::new(LruCache::new(capacity)),
            first,
            longest,
        }
    }

    fn entries(&self) -> MutexGuard<'_, LruCache<K, Wait>> {
        // Each change is one call, so a panic elsewhere cannot have left half of one.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_waiting(&self, key: &K, now: Millis) -> bool {
        self.entries().get(key).is_some_and(|wait| now < wait.until)
    }

    /// The same for the impatient: the first wait is the longest.
    pub fn has_just_failed(&self, key: &K, now: Millis) -> bool {
        let limit = |wait: &Wait| wait.until.min(wait.since + self.first);
        self.entries().get(key).is_some_and(|wait| now < limit(wait))
    }

    pub fn failed(&self, key: K, now: Millis) {
        let mut entries = self.entries();
        let failures = entries.get(&key).map_or(0, |wait| wait.failures);
        let wait = (self.first << failures.min(16)).min(self.longest);
        let failures = failures.saturating_add(1);
        let wait = Wait {
            since: now,
            until: now + wait,
            failures,
        };
        entries.put(key, wait);
    }

    pub fn succeeded(&self, key: &K) {
        self.entries().pop(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_end_with_a_success() {
        let waits = Waits::new(NonZeroUsize::MIN, 10, 35);
        let mut now = 0;
        for expected in [10, 20, 35, 35] {
            waits.failed("a", now);
            assert!(waits.is_waiting(&"a", now + expected - 1));
            assert!(waits.has_just_failed(&"a", now + 9) && !waits.has_just_failed(&"a", now + 10));
            assert!(!waits.is_waiting(&"a", now + expected));
            now += expected;
        }
        waits.succeeded(&"a");
        waits.failed("a", now);
        assert!(!waits.is_waiting(&"a", now + 10));
        waits.failed("b", now);
        assert!(!waits.is_waiting(&"a", now), "only one has room here");
    }
}
