//! Stored filters (client-server API, "Filtering"). A filter never changes once it has its number.

use std::sync::Arc;

use moka::sync::Cache;
use ruma::api::client::filter::FilterDefinition;
use ruma::api::client::sync::sync_events::v3::Filter;
use ruma::{OwnedUserId, UserId};

use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Filters kept in memory.
const REMEMBERED: u64 = 20_000;

/// Parsed filters.
pub struct FilterCache {
    known: Cache<(OwnedUserId, i64), Arc<FilterDefinition>>,
    everything: Arc<FilterDefinition>,
}

impl Default for FilterCache {
    fn default() -> Self {
        Self {
            known: Cache::new(REMEMBERED),
            everything: Arc::default(),
        }
    }
}

impl FilterCache {
    /// The filter was deleted.
    pub fn forget(&self, user: &UserId, number: i64) {
        self.known.invalidate(&(user.to_owned(), number));
    }
}

/// The filter that a request names, or holds itself; none lets everything through.
///
/// # Errors
/// `M_INVALID_PARAM` for numbers that the user has no filter under.
pub async fn resolve(env: &Env, user: &UserId, filter: Option<Filter>) -> Outcome<Arc<FilterDefinition>> {
    let id = match filter {
        None => return Ok(env.filters.everything.clone()),
        Some(Filter::FilterDefinition(filter)) => return Ok(Arc::new(filter)),
        Some(Filter::FilterId(id)) => id,
        Some(_) => return Err(DomainError::invalid_param("unknown kind of filter")),
    };
    let missing = || DomainError::invalid_param(format!("no filter {id:?}"));
    let number: i64 = id.parse().map_err(|_| missing())?;
    let key = (user.to_owned(), number);
    if let Some(known) = env.filters.known.get(&key) {
        return Ok(known);
    }
    let text = env.store.filter(user.as_str(), number).await?.ok_or_else(missing)?;
    let filter: FilterDefinition = serde_json::from_str(&text)
        .map_err(|error| DomainError::invalid_param(format!("the stored filter {number} is not valid: {error}")))?;
    let filter = Arc::new(filter);
    env.filters.known.insert(key, filter.clone());
    Ok(filter)
}
