//! Rate limits: a token bucket for each class and caller, in bounded memory.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use actors::error::{DomainError, Outcome};
use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};
use lru::LruCache;
use ruma::{OwnedUserId, UserId};

use crate::config::{RateLimit, RateLimits};

/// What a request counts as; `[rate_limits]` says how many of each are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Whatever the specification calls rate-limited.
    Default,
    /// Logging in.
    Login,
    /// Registering, and asking whether a name is free.
    Registration,
    /// Sending events.
    Message,
    /// Joining rooms.
    Join,
    /// Inviting.
    Invite,
    /// Reading and writing media.
    Media,
    /// Requests of other servers.
    Federation,
    /// Claiming one-time keys.
    KeyClaim,
    /// Credentials for calls.
    Voip,
}

/// Users with limits of their own whose buckets are kept, by class.
const OWN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(10_000);
/// Callers of one class that are told apart; beyond that they share buckets.
const MAX_CALLERS: usize = 100_000;
/// Shared buckets of a full class.
const SHARED: u64 = 1_024;
/// Full buckets are forgotten once in so many checks.
const CLEAN_EVERY: u64 = 16_384;

type Bucket = RateLimiter<NotKeyed, InMemoryState, DefaultClock>;
/// A user's own limit, and the bucket that was made for it.
type Own = ((i64, i64), Arc<Bucket>);
type Limiter = RateLimiter<u64, DashMapStateStore<u64>, DefaultClock>;

/// All buckets.
pub struct Limits {
    classes: RwLock<Option<Arc<Classes>>>,
    /// Buckets of users with limits of their own, with those limits.
    own: Mutex<LruCache<(Class, OwnedUserId), Own>>,
    /// Keyed, so that nobody can choose whose bucket they share.
    hasher: RandomState,
    checks: AtomicU64,
}

struct Classes(Vec<Limiter>);

impl Classes {
    fn new(config: &RateLimits) -> Option<Arc<Self>> {
        // In the order of `Class`.
        let limits = [
            config.default,
            config.login,
            config.registration,
            config.message,
            config.join,
            config.invite,
            config.media,
            config.federation,
            config.key_claim,
            config.voip,
        ];
        config
            .enabled
            .then(|| Arc::new(Self(limits.into_iter().map(limiter).collect())))
    }
}

fn limiter(limit: RateLimit) -> Limiter {
    let period = Duration::try_from_secs_f64(1.0 / limit.per_second).unwrap_or(Duration::MAX);
    let quota = Quota::with_period(period.max(Duration::from_nanos(1)));
    let burst = NonZeroU32::new(limit.burst).unwrap_or(NonZeroU32::MIN);
    // Only a period of zero is refused.
    RateLimiter::dashmap(quota.unwrap_or(Quota::per_second(burst)).allow_burst(burst))
}

impl Limits {
    /// Empty buckets.
    #[must_use]
    pub fn new(config: &RateLimits) -> Self {
        Self {
            classes: RwLock::new(Classes::new(config)),
            own: Mutex::new(LruCache::new(OWN)),
            hasher: RandomState::new(),
            checks: AtomicU64::new(0),
        }
    }

    /// Other limits from now on; everybody starts afresh.
    pub fn reload(&self, config: &RateLimits) {
        *self.classes.write().unwrap_or_else(PoisonError::into_inner) = Classes::new(config);
    }

    /// Counts a request of a caller (a user, an address, a server).
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED` with the time to wait.
    pub fn check(&self, class: Class, caller: &impl Hash) -> Outcome<()> {
        let classes = self.classes.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(classes) = classes else { return Ok(()) };
        if self.checks.fetch_add(1, Ordering::Relaxed) % CLEAN_EVERY == CLEAN_EVERY - 1 {
            classes.0.iter().for_each(RateLimiter::retain_recent);
        }
        let limiter = &classes.0[class as usize];
        let hash = self.hasher.hash_one(caller);
        let key = if limiter.len() < MAX_CALLERS {
            hash
        } else {
            hash % SHARED
        };
        limiter.check_key(&key).map_err(|until| refusal(class, &until))
    }
}

impl Limits {
    /// The same for a user with a limit of its own: requests a second, and at once; 0 a second for none.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_own(&self, class: Class, user: &UserId, own: (i64, i64)) -> Outcome<()> {
        let enabled = self.classes.read().unwrap_or_else(PoisonError::into_inner).is_some();
        let (Some(per_second), true) = (positive(own.0), enabled) else {
            return Ok(());
        };
        let quota = Quota::per_second(per_second).allow_burst(positive(own.1).unwrap_or(NonZeroU32::MIN));
        let bucket = {
            // Every change is a single step: a panic elsewhere leaves nothing half done.
            let mut all = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (class, user.to_owned());
            match all.get(&key) {
                Some((same, bucket)) if *same == own => bucket.clone(),
                _ => {
                    let bucket = Arc::new(RateLimiter::direct(quota));
                    all.put(key, (own, bucket.clone()));
                    bucket
                }
            }
        };
        bucket.check().map_err(|until| refusal(class, &until))
    }
}

fn positive(number: i64) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

fn refusal(class: Class, until: &NotUntil<<DefaultClock as governor::clock::Clock>::Instant>) -> DomainError {
    let wait = until.wait_time_from(DefaultClock::default().now());
    metrics::counter!("http_rate_limited_total", "class" => format!("{class:?}")).increment(1);
    DomainError::Overloaded {
        retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RateLimits {
        RateLimits {
            login: RateLimit {
                per_second: 0.01,
                burst: 2,
            },
            ..RateLimits::default()
        }
    }

    #[test]
    fn each_caller_and_class_has_its_own_bucket() {
        let limits = Limits::new(&config());
        assert!(limits.check(Class::Login, &"a").is_ok());
        assert!(limits.check(Class::Login, &"a").is_ok());
        let Err(DomainError::Overloaded { retry_after_ms }) = limits.check(Class::Login, &"a") else {
            panic!("the third request in a row is too many");
        };
        assert!((90_000..=100_000).contains(&retry_after_ms), "{retry_after_ms}");
        assert!(limits.check(Class::Login, &"b").is_ok());
        assert!(limits.check(Class::Join, &"a").is_ok());
    }

    #[test]
    fn limits_can_be_changed_and_switched_off() {
        let limits = Limits::new(&config());
        for _ in 0..2 {
            assert!(limits.check(Class::Login, &1).is_ok());
        }
        limits.reload(&RateLimits {
            enabled: false,
            ..config()
        });
        for _ in 0..9 {
            assert!(limits.check(Class::Login, &1).is_ok());
        }
    }

    #[test]
    fn memory_is_bounded() {
        let limits = Limits::new(&RateLimits {
            login: RateLimit {
                per_second: 0.01,
                burst: 9,
            },
            ..config()
        });
        for caller in 0..MAX_CALLERS + 5_000 {
            // Shared buckets may run out; only the memory matters here.
            let _outcome = limits.check(Class::Login, &caller);
        }
        let classes = limits
            .classes
            .read()
            .expect("no panic before")
            .clone()
            .expect("limits are on");
        assert!(classes.0[Class::Login as usize].len() <= MAX_CALLERS + usize::try_from(SHARED).expect("small"));
    }
}
