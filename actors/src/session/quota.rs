//! How much a user keeps on the server, held against `Settings::user_limits`. The user's session is the only writer of what
//! is counted here and does one thing after the other, so a figure once read from the database can be carried along.

use entities::account_data;
use moka::sync::Cache;
use ruma::{OwnedUserId, UserId};

use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Users whose figures are remembered.
const REMEMBERED: u64 = 20_000;
/// What deleted account data leaves behind.
pub const DELETED: &str = "{}";

/// Figures of users.
pub struct Quota {
    account_data: Cache<OwnedUserId, Tally>,
    backup: Cache<OwnedUserId, i64>,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            account_data: Cache::new(REMEMBERED),
            backup: Cache::new(REMEMBERED),
        }
    }
}

impl Quota {
    /// What the user's account data comes to after a write; `None` when that has to be counted again.
    pub fn note_account_data(&self, user: &UserId, tally: Option<Tally>) {
        note(&self.account_data, user, tally);
    }

    /// The same for the bytes of the user's key backup.
    pub fn note_backup(&self, user: &UserId, bytes: Option<i64>) {
        note(&self.backup, user, bytes);
    }
}

fn note<V: Clone + Send + Sync + 'static>(known: &Cache<OwnedUserId, V>, user: &UserId, value: Option<V>) {
    match value {
        Some(value) => known.insert(user.to_owned(), value),
        None => known.invalidate(user),
    }
}

/// All of a user's account data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub entries: i64,
    /// How much, with the names.
    pub bytes: i64,
}

impl Tally {
    fn with(self, before: Option<i64>, after: i64) -> Self {
        Self {
            entries: self.entries + i64::from(before.is_none()),
            bytes: self.bytes - before.unwrap_or(0) + after,
        }
    }

    fn fits(self, env: &Env) -> bool {
        let limits = &env.settings.user_limits;
        self.entries <= i64::from(limits.account_data_entries) && self.bytes <= clamped(limits.account_data_bytes)
    }
}

fn clamped(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Bytes of an entry of account data.
fn size(row: &account_data::Model, content: &str) -> i64 {
    let bytes = row.room_id.len() + row.r#type.len() + content.len();
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whether `row` may be written over `old`, the content that is there; the answer is what account data then comes to.
/// What gets no larger is always let through.
///
/// # Errors
/// `M_TOO_LARGE`; `Unavailable` when the database does not answer.
pub async fn admit_account_data(env: &Env, row: &account_data::Model, old: Option<&str>) -> Outcome<Tally> {
    let user = <&UserId>::try_from(row.user_id.as_str());
    let user = user.map_err(|error| DomainError::internal(format!("user of account data: {error}")))?;
    let (before, after) = (old.map(|old| size(row, old)), size(row, &row.content));
    let next = account_data(env, user).await?.with(before, after);
    if next.fits(env) || before.is_some_and(|before| after <= before) {
        return Ok(next);
    }
    // Deleted entries stay so that other devices learn of the deletion; they need not stay at any price.
    if env.store.forget_deleted_account_data(user.as_str()).await? > 0 {
        env.quota.note_account_data(user, None);
        let before = before.filter(|_| old != Some(DELETED));
        let next = account_data(env, user).await?.with(before, after);
        if next.fits(env) {
            return Ok(next);
        }
    }
    metrics::counter!("user_limits_reached_total", "what" => "account_data").increment(1);
    Err(DomainError::too_large("the account has too much account data"))
}

async fn account_data(env: &Env, user: &UserId) -> Outcome<Tally> {
    if let Some(known) = env.quota.account_data.get(user) {
        return Ok(known);
    }
    let (entries, bytes) = env.store.account_data_use(user.as_str()).await?;
    let tally = Tally { entries, bytes };
    env.quota.note_account_data(user, Some(tally));
    Ok(tally)
}

/// Bytes of the user's key backup.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn backup(env: &Env, user: &UserId) -> Outcome<i64> {
    if let Some(known) = env.quota.backup.get(user) {
        return Ok(known);
    }
    let bytes = env.store.backup_use(user.as_str()).await?;
    env.quota.note_backup(user, Some(bytes));
    Ok(bytes)
}

/// By how much a key backup of `used` bytes may still grow.
#[must_use]
pub fn backup_room(env: &Env, used: i64) -> i64 {
    clamped(env.settings.user_limits.key_backup_bytes)
        .saturating_sub(used)
        .max(0)
}

/// The refusal of what the backup has no room for.
#[must_use]
pub fn backup_full() -> DomainError {
    metrics::counter!("user_limits_reached_total", "what" => "key_backup").increment(1);
    DomainError::too_large("the key backup is full: delete former versions of it")
}
