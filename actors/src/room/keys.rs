//! Interned state keys: one number for each pair of event type and state key, for the whole server.
//!
//! Numbers are given out in memory and written with the first state group that uses them. Until a commit has confirmed a
//! number, everybody who uses it writes it too, so it does not matter whose commit comes first or fails.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use entities::ids::StateKeyNid;
use entities::store::Store;
use lru::LruCache;

use super::snapshot::StateKey;
use crate::error::Outcome;
use crate::stream::ids::Ids;

/// Stored pairs kept in memory.
const KNOWN: NonZeroUsize = NonZeroUsize::new(200_000).expect("not zero");

/// Numbers that were given out and not used yet: more than can be on their way at a time. Those of events that were
/// refused are forgotten first.
const PENDING: NonZeroUsize = NonZeroUsize::new(50_000).expect("not zero");

struct Numbers {
    stored: LruCache<StateKey, StateKeyNid>,
    /// Given out and not yet known to be stored.
    pending: LruCache<StateKey, StateKeyNid>,
}

impl Numbers {
    fn get(&mut self, key: &StateKey) -> Option<(StateKeyNid, bool)> {
        let stored = self.stored.get(key).map(|nid| (*nid, true));
        stored.or_else(|| self.pending.get(key).map(|nid| (*nid, false)))
    }
}

/// The interner.
pub(super) struct StateKeys {
    store: Store,
    ids: Ids,
    numbers: Mutex<Numbers>,
}

impl StateKeys {
    pub(super) fn new(store: Store, ids: Ids) -> Self {
        let numbers = Numbers {
            stored: LruCache::new(KNOWN),
            pending: LruCache::new(PENDING),
        };
        Self {
            store,
            ids,
            numbers: Mutex::new(numbers),
        }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // Every change is complete before its guard is dropped.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of those keys that have one.
    pub(super) async fn known(&self, keys: &[StateKey]) -> Outcome<HashMap<StateKey, StateKeyNid>> {
        let found = self.look_up(keys).await?;
        Ok(found.into_iter().map(|(key, (nid, _))| (key, nid)).collect())
    }

    /// The numbers of all keys, new ones where there were none; `true` where the number is stored.
    pub(super) async fn intern(&self, keys: &[StateKey]) -> Outcome<HashMap<StateKey, (StateKeyNid, bool)>> {
        let mut found = self.look_up(keys).await?;
        let missing: Vec<&StateKey> = keys.iter().filter(|key| !found.contains_key(*key)).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let first = self.ids.take(missing.len()).await?;
        let mut numbers = self.numbers();
        for (key, fresh) in missing.into_iter().zip(first..) {
            // Somebody else may have been quicker.
            let given = numbers.get(key).unwrap_or((StateKeyNid(fresh), false));
            if !given.1 {
                numbers.pending.put(key.clone(), given.0);
            }
            found.insert(key.clone(), given);
        }
        Ok(found)
    }

    /// These numbers are stored.
    pub(super) fn confirm(&self, keys: &[StateKey]) {
        let mut numbers = self.numbers();
        for key in keys {
            if let Some(nid) = numbers.pending.pop(key) {
                numbers.stored.put(key.clone(), nid);
            }
        }
    }

    async fn look_up(&self, keys: &[StateKey]) -> Outcome<HashMap<StateKey, (StateKeyNid, bool)>> {
        let mut found = HashMap::with_capacity(keys.len());
        let mut unknown = Vec::new();
        {
            let mut numbers = self.numbers();
            for key in keys {
                match numbers.get(key) {
                    Some(number) => drop(found.insert(key.clone(), number)),
                    None => unknown.push((key.0.to_string(), key.1.to_string())),
                }
            }
        }
        if !unknown.is_empty() {
            let rows = self.store.state_key_nids(&unknown).await?;
            let mut numbers = self.numbers();
            for row in rows {
                let key: StateKey = (row.r#type.into(), row.state_key.into());
                numbers.pending.pop(&key);
                numbers.stored.put(key.clone(), StateKeyNid(row.nid));
                found.insert(key, (StateKeyNid(row.nid), true));
            }
        }
        Ok(found)
    }
}
