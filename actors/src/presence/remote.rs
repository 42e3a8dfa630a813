//! Presence of other servers' users, as their servers tell it (server-server API, "Presence"). Of those who share no room with
//! a local user nothing is kept. A server that falls silent takes its users offline.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use entities::ids::StreamPos;
use entities::presence as row;
use entities::store::rows::Rows;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ruma::presence::PresenceState;
use ruma::{OwnedUserId, UserId};

use super::state::Shown;
use super::{AT_ONCE, MAX_STATUS};
use crate::clock::Millis;
use crate::env::Env;
use crate::error::Outcome;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// Servers repeat what does not change at least this often; who is not heard of for longer is offline.
const SILENT_AFTER: Millis = 30 * 60 * 1_000;
/// A time of the last action that moved on by less is not written.
const REFRESH: Millis = 60_000;
/// Users taken offline at once.
const MAX_EXPIRED: usize = 500;

/// What a server says of one of its users.
#[derive(Clone, Debug)]
pub struct Update {
    /// Whose presence. That it is one of that server's users has been checked.
    pub user: OwnedUserId,
    /// The state.
    pub state: PresenceState,
    /// What the user says about it.
    pub message: Option<String>,
    /// When the user last did something, Unix milliseconds.
    pub last_active: Millis,
}

/// Takes updates over, the last of each user; committed when this returns.
///
/// # Errors
/// `Unavailable` when the database does not answer or nothing was written.
pub async fn take(env: &Arc<Env>, updates: Vec<Update>) -> Outcome<()> {
    if !env.settings.presence_enabled || updates.is_empty() {
        return Ok(());
    }
    let told = updates
        .into_iter()
        .map(|update| (update.user.to_string(), row_of(update)));
    write(env, told.collect(), env.clock.now_ms()).await
}

fn row_of(update: Update) -> row::Model {
    let message = update
        .message
        .filter(|text| text.len() <= MAX_STATUS && !text.contains('\0'));
    row::Model {
        user_id: update.user.to_string(),
        state: Shown::named(update.state.as_str()).as_str().to_owned(),
        status_msg: message,
        last_active_ts: update.last_active,
        pos: 0,
    }
}

/// Writes what differs from what is stored.
async fn write(env: &Arc<Env>, told: BTreeMap<String, row::Model>, heard: Millis) -> Outcome<()> {
    let users: Vec<&str> = told.keys().map(String::as_str).collect();
    let stored = env.store.presence_of(&users).await?;
    let stored: HashMap<&str, &row::Model> = stored.iter().map(|row| (row.user_id.as_str(), row)).collect();
    let (same, changed): (Vec<_>, Vec<_>) = told
        .into_values()
        .partition(|row| stored.get(row.user_id.as_str()).is_some_and(|old| is_same(old, row)));
    for row in same {
        note(env, &row, heard);
    }
    let look = |row: row::Model| async move {
        let users = env.store.local_users_sharing_rooms(&row.user_id).await?;
        Outcome::Ok((row, users))
    };
    let seen: Vec<(row::Model, Vec<String>)> = stream::iter(changed).map(look).buffered(AT_ONCE).try_collect().await?;
    let (mut rows, mut facts) = (Rows::default(), Vec::new());
    for (mut row, users) in seen {
        let Ok(user) = UserId::parse(row.user_id.as_str()) else {
            continue;
        };
        if users.is_empty() {
            continue;
        }
        note(env, &row, heard);
        row.pos = i64::try_from(facts.len()).unwrap_or(i64::MAX);
        facts.push(Fact {
            pos: StreamPos(row.pos),
            users: users.into_iter().filter_map(|user| UserId::parse(user).ok()).collect(),
            kind: FactKind::Presence { user },
        });
        rows.presence.push(row);
    }
    if facts.is_empty() {
        return Ok(());
    }
    let positions = i64::try_from(facts.len()).unwrap_or(i64::MAX);
    let submission = Submission::telling(rows, positions, facts);
    env.journal.submit(submission).await.map(|_| ())
}

fn is_same(old: &row::Model, new: &row::Model) -> bool {
    let moved_on = new.last_active_ts.saturating_sub(old.last_active_ts);
    old.state == new.state && old.status_msg == new.status_msg && moved_on < REFRESH
}

/// The user was heard of.
fn note(env: &Env, row: &row::Model, heard: Millis) {
    let Ok(user) = UserId::parse(row.user_id.as_str()) else {
        return;
    };
    match Shown::named(&row.state) {
        Shown::Offline => drop(env.presence.remote.remove(&user)),
        _ => drop(env.presence.remote.insert(user, heard)),
    }
}

/// A user who was there when the last process ended: gets the time to be heard of again.
pub(super) fn adopt(env: &Env, row: &row::Model, now: Millis) {
    note(env, row, now);
}

/// Takes those offline whose server fell silent.
///
/// # Errors
/// `Unavailable` when the database does not answer or nothing was written.
pub(super) async fn expire(env: &Arc<Env>, now: Millis) -> Outcome<()> {
    let silent: Vec<OwnedUserId> = env
        .presence
        .remote
        .iter()
        .filter(|entry| now.saturating_sub(*entry.value()) >= SILENT_AFTER)
        .map(|entry| entry.key().clone())
        .take(MAX_EXPIRED)
        .collect();
    if silent.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = silent.iter().map(|user| user.as_str()).collect();
    let stored = env.store.presence_of(&names).await?;
    let offline = stored.into_iter().map(|row| {
        let state = Shown::Offline.as_str().to_owned();
        (row.user_id.clone(), row::Model { state, pos: 0, ..row })
    });
    write(env, offline.collect(), now).await?;
    // Those whom nobody sees any more have no row to write.
    for user in &silent {
        env.presence
            .remote
            .remove_if(user, |_, heard| now.saturating_sub(*heard) >= SILENT_AFTER);
    }
    Ok(())
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
