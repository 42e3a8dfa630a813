//! A bounded cache of immutable views whose owner publishes new versions, loaded from the database on a miss.
//!
//! The difficulty is a slow loader that would put an older version over a newer published one: every publication
//! raises the epoch of its key's stripe, and a loader whose stripe has moved loads again.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use crate::error::{DomainError, Outcome};

const STRIPES: usize = 1_024;
/// A key that is published faster than it can be loaded this many times in a row is busy.
const MAX_LOADS: usize = 8;

struct Stripe {
    epoch: AtomicU64,
    /// Held while a version enters the cache.
    gate: Mutex<()>,
    /// Lets one loader of a stripe work at a time, so that equal loads are not done twice.
    loading: tokio::sync::Mutex<()>,
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
        Self::with_lifetime(max_bytes, Duration::MAX, weigh)
    }

    /// Views are loaded again once they have been in memory for `lifetime`.
    pub fn with_lifetime(
        max_bytes: u64,
        lifetime: Duration,
        weigh: impl Fn(&V) -> usize + Send + Sync + 'static,
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
            views: match lifetime {
                Duration::MAX => views.build(),
                lifetime => views.time_to_live(lifetime).build(),
            },
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
