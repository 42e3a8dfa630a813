//! A bounded cache of immutable views whose owner publishes new versions, loaded from the database on a miss.
//!
//! The difficulty is a slow loader that would put an older version over a newer published one: every publication
//! raises the epoch of its key's stripe, and a loader whose stripe has moved loads again.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::{Cache, CacheBuilder};

use crate::error::{DomainError, Outcome};

type Builder<K, V> = CacheBuilder<K, Arc<V>, Cache<K, Arc<V>>>;

const STRIPES: usize = 1_024;
/// A sweep of a cache is done in rounds, each of which lets go of as much as the cache thinks right.
const ROUNDS: usize = 100;
/// A key that is published faster than it can be loaded this many times in a row is busy.
const MAX_LOADS: usize = 8;

struct Stripe {
    epoch: AtomicU64,
    /// Held while a version enters the cache.
    gate: Mutex<()>,
    /// Lets one loader of a stripe work at a time, so that equal loads are not done twice.
    loading: tokio::sync::Mutex<()>,
}

/// Lets a cache go of what has been there or idle too long. The answer is the weight of what is left.
pub fn sweep<K, V>(cache: &Cache<K, V>) -> u64
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let mut before = u64::MAX;
    for _ in 0..ROUNDS {
        cache.run_pending_tasks();
        let left = cache.entry_count();
        if left >= before {
            break;
        }
        before = left;
    }
    cache.weighted_size()
}

/// Views by key, weighed in bytes.
pub struct ViewCache<K, V> {
    views: Cache<K, Arc<V>>,
    stripes: Box<[Stripe]>,
    hasher: RandomState,
}

impl<K, V> ViewCache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// `weigh` answers bytes.
    pub fn new(max_bytes: u64, weigh: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        Self::build(max_bytes, weigh, |views| views)
    }

    /// Views are loaded again once they have been in memory for `lifetime`.
    pub fn with_lifetime(
        max_bytes: u64,
        lifetime: Duration,
        weigh: impl Fn(&V) -> usize + Send + Sync + 'static,
    ) -> Self {
        Self::build(max_bytes, weigh, |views| views.time_to_live(lifetime))
    }

    /// Views that nobody has asked for in `idle` leave memory; see [`Self::sweep`].
    pub fn with_idle(max_bytes: u64, idle: Duration, weigh: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        Self::build(max_bytes, weigh, |views| views.time_to_idle(idle))
    }

    fn build(
        max_bytes: u64,
        weigh: impl Fn(&V) -> usize + Send + Sync + 'static,
        more: impl FnOnce(Builder<K, V>) -> Builder<K, V>,
    ) -> Self {
        let stripe = |_| Stripe {
            epoch: AtomicU64::new(0),
            gate: Mutex::new(()),
            loading: tokio::sync::Mutex::new(()),
        };
        let views = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(move |_: &K, view: &Arc<V>| u32::try_from(weigh(view)).unwrap_or(u32::MAX));
        Self {
            views: more(views).build(),
            stripes: (0..STRIPES).map(stripe).collect(),
            hasher: RandomState::new(),
        }
    }

    fn stripe(&self, key: &K) -> &Stripe {
        let stripe = self.hasher.hash_one(key) % STRIPES as u64;
        &self.stripes[usize::try_from(stripe).unwrap_or(0)]
    }

    /// The view, if it is in memory.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        self.views.get(key)
    }

    /// The view from memory or from `load`; `None` where `load` finds nothing.
    ///
    /// # Errors
    /// Whatever `load` answers.
    pub async fn get_or_load<F>(&self, key: &K, load: impl Fn() -> F) -> Outcome<Option<Arc<V>>>
    where
        F: Future<Output = Outcome<Option<V>>>,
    {
        if let Some(view) = self.views.get(key) {
            return Ok(Some(view));
        }
        let stripe = self.stripe(key);
        let _loading = stripe.loading.lock().await;
        for _ in 0..MAX_LOADS {
            if let Some(view) = self.views.get(key) {
                return Ok(Some(view));
            }
            let before = stripe.epoch.load(Ordering::Acquire);
            let Some(view) = load().await? else { return Ok(None) };
            let view = Arc::new(view);
            let _gate = stripe.gate.lock().unwrap_or_else(PoisonError::into_inner);
            if stripe.epoch.load(Ordering::Acquire) == before {
                self.views.insert(key.clone(), view.clone());
                return Ok(Some(view));
            }
        }
        Err(DomainError::unavailable("a view changes faster than it can be loaded"))
    }

    /// Several views, from memory or, all that are missing at once, from `load`; a view that changes meanwhile is left
    /// out, as is what `load` does not find.
    ///
    /// # Errors
    /// Whatever `load` answers.
    pub async fn get_or_load_many<F>(&self, keys: &[K], load: impl FnOnce(Vec<K>) -> F) -> Outcome<HashMap<K, Arc<V>>>
    where
        F: Future<Output = Outcome<HashMap<K, V>>>,
    {
        let mut found = HashMap::with_capacity(keys.len());
        let mut missing = Vec::new();
        for key in keys {
            match self.views.get(key) {
                Some(view) => drop(found.insert(key.clone(), view)),
                None => missing.push(key.clone()),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let epoch = |key: &K| self.stripe(key).epoch.load(Ordering::Acquire);
        let before: HashMap<K, u64> = missing.iter().map(|key| (key.clone(), epoch(key))).collect();
        for (key, view) in load(missing).await? {
            let view = Arc::new(view);
            let _gate = self.stripe(&key).gate.lock().unwrap_or_else(PoisonError::into_inner);
            if before.get(&key) == Some(&epoch(&key)) {
                self.views.insert(key.clone(), view.clone());
                found.insert(key, view);
            }
        }
        Ok(found)
    }

    /// The owner's newest version.
    pub fn publish(&self, key: K, view: Arc<V>) {
        let stripe = self.stripe(&key);
        let _gate = stripe.gate.lock().unwrap_or_else(PoisonError::into_inner);
        stripe.epoch.fetch_add(1, Ordering::AcqRel);
        self.views.insert(key, view);
    }

    /// Forgets a view: the next reader loads it. Also stops loads under way from entering an older version.
    pub fn invalidate(&self, key: &K) {
        let stripe = self.stripe(key);
        let _gate = stripe.gate.lock().unwrap_or_else(PoisonError::into_inner);
        stripe.epoch.fetch_add(1, Ordering::AcqRel);
        self.views.invalidate(key);
    }

    /// Lets go of what has been there or idle too long; by itself a cache does so only while it is used. Takes its time
    /// where there is much: not for async threads. The answer is what is left, bytes.
    pub fn sweep(&self) -> u64 {
        sweep(&self.views)
    }

    /// How many views are in memory, roughly.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.views.entry_count()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_loader_does_not_put_an_old_version_over_a_new_one() {
        let cache = Arc::new(ViewCache::<u8, u32>::new(1_000, |_| 1));
        let stored = Arc::new(AtomicU64::new(1));
        let (started, start) = tokio::sync::oneshot::channel();
        let started = Arc::new(Mutex::new(Some(started)));
        let loader = {
            let (cache, stored) = (cache.clone(), stored.clone());
            tokio::spawn(async move {
                cache
                    .get_or_load(&1, || {
                        let (started, stored) = (started.clone(), stored.clone());
                        async move {
                            let read = stored.load(Ordering::SeqCst);
                            let first = started.lock().expect("test lock").take();
                            if let Some(started) = first {
                                started.send(()).expect("somebody waits");
                                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                            }
                            Ok(Some(u32::try_from(read).expect("small")))
                        }
                    })
                    .await
            })
        };
        start.await.expect("the loader starts");
        stored.store(2, Ordering::SeqCst);
        cache.publish(1, Arc::new(2));
        cache.views.invalidate(&1);
        let loaded = loader.await.expect("no panic").expect("no error");
        assert_eq!(loaded.as_deref(), Some(&2));
    }

    #[test]
    fn what_nobody_asks_for_leaves_memory() {
        let cache = ViewCache::<u32, u32>::with_idle(1_000_000, Duration::from_millis(300), |_| 10);
        for key in 0..5_000 {
            cache.publish(key, Arc::new(key));
        }
        assert_eq!(cache.sweep(), 50_000);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        // One of them is asked for all the time.
        while cache.sweep() > 10 {
            assert!(std::time::Instant::now() < deadline, "{} bytes are left", cache.sweep());
            assert_eq!(cache.get(&7).as_deref(), Some(&7));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(cache.get(&7).as_deref(), Some(&7));
        assert_eq!(cache.get(&8), None);
    }

    #[tokio::test]
    async fn many_are_loaded_at_once_but_for_those_that_change_meanwhile() {
        let cache = ViewCache::<u8, u32>::new(1_000, |_| 1);
        cache.publish(1, Arc::new(10));
        let load = |missing: Vec<u8>| {
            assert_eq!(missing, [2, 3, 4]);
            cache.publish(3, Arc::new(33));
            async { Ok(HashMap::from([(2, 20), (3, 30)])) }
        };
        let found = cache.get_or_load_many(&[1, 2, 3, 4], load).await.expect("no error");
        let found: std::collections::BTreeMap<_, _> = found.into_iter().map(|(key, view)| (key, *view)).collect();
        assert_eq!(found, [(1, 10), (2, 20)].into());
        assert_eq!(
            (cache.get(&2).as_deref(), cache.get(&3).as_deref()),
            (Some(&20), Some(&33))
        );
    }
}
