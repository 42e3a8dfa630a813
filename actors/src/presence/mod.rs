//! Presence (client-server API, "Presence"): timers of local users in memory, the newest state in the database.
//!
//! A user's state follows from who polls, when the user last did something and what it asked for ([`state::Entry`]). It
//! is written when it changes, and once a minute while the time of the last action moves on.

pub mod remote;
mod state;

use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use entities::ids::StreamPos;
use entities::presence as row;
use entities::store::rows::Rows;
use futures_util::{StreamExt as _, stream};
use ruma::presence::PresenceState;
use ruma::{OwnedUserId, UserId};
use tokio::sync::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use self::state::{Entry, Poll, Shown};
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::session::interest::interested_users;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// How often timers are looked at.
const TICK: Duration = Duration::from_secs(5);
/// Users whose change is written at the same time.
const AT_ONCE: usize = 16;
/// Bytes of a status message.
const MAX_STATUS: usize = 2_000;

#[derive(Default)]
struct Slot {
    entry: Entry,
    /// Held while a change is written, so that changes of one user are written in order.
    writing: Arc<Mutex<()>>,
}

/// The presence of local users who are or were online since the start, and who of other servers' users is there.
#[derive(Default)]
pub struct Presence {
    users: DashMap<OwnedUserId, Slot>,
    /// Users of other servers who are not offline, and when they were last heard of.
    remote: DashMap<OwnedUserId, Millis>,
}

/// What others see of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `online`, `unavailable` or `offline`.
    pub state: &'static str,
    /// What the user says about it.
    pub message: Option<String>,
    /// When the user last did something, Unix milliseconds.
    pub last_active: Millis,
}

/// A poll that holds its user's presence up. Dropped when the poll is answered.
pub struct Polling {
    env: Arc<Env>,
    user: OwnedUserId,
    poll: Poll,
}

impl Drop for Polling {
    fn drop(&mut self) {
        let now = self.env.clock.now_ms();
        if let Some(mut slot) = self.env.presence.users.get_mut(&self.user) {
            slot.entry.end_poll(self.poll, now);
        }
    }
}

impl Presence {
    /// What is known of a user in memory.
    fn status(&self, user: &UserId, now: Millis) -> Option<Status> {
        self.users.get(user).map(|slot| slot.entry.status(now))
    }

    /// Changes a user's entry; tells whether something must be written.
    fn change(&self, user: &UserId, now: Millis, change: impl FnOnce(&mut Entry)) -> bool {
        if let Some(mut slot) = self.users.get_mut(user) {
            change(&mut slot.entry);
            return slot.entry.due(now);
        }
        let mut slot = self.users.entry(user.to_owned()).or_default();
        change(&mut slot.entry);
        slot.entry.due(now)
    }
}

/// A device begins to poll with this `set_presence`. Cheap; a change is written behind the caller's back.
#[must_use]
pub fn poll(env: &Arc<Env>, user: &UserId, wanted: &PresenceState) -> Option<Polling> {
    let poll = match wanted {
        _ if !env.settings.presence_enabled => return None,
        PresenceState::Online => Poll::Online,
        PresenceState::Unavailable => Poll::Unavailable,
        _ => return None,
    };
    let now = env.clock.now_ms();
    if env.presence.change(user, now, |entry| entry.begin_poll(poll, now)) {
        write_soon(env, user);
    }
    let (env, user) = (env.clone(), user.to_owned());
    Some(Polling { env, user, poll })
}

/// The user did something that others see.
pub fn active(env: &Arc<Env>, user: &UserId) {
    if !env.settings.presence_enabled {
        return;
    }
    let now = env.clock.now_ms();
    // Who does not poll is not brought online by what it does: bridges and scripts send, too.
    let known = env.presence.users.contains_key(user);
    if known && env.presence.change(user, now, |entry| entry.act(now)) {
        write_soon(env, user);
    }
}

/// The user sets its presence; committed when this returns.
///
/// # Errors
/// `M_INVALID_PARAM` for unknown states and long messages; `Unavailable` when nothing was written.
pub async fn set(env: &Arc<Env>, user: &UserId, state: &PresenceState, message: Option<String>) -> Outcome<()> {
    let state = match state {
        PresenceState::Online => Shown::Online,
        PresenceState::Unavailable => Shown::Unavailable,
        PresenceState::Offline => Shown::Offline,
        _ => {
            return Err(DomainError::invalid_param(
                "presence must be online, unavailable or offline",
            ));
        }
    };
    if message.as_ref().is_some_and(|message| message.len() > MAX_STATUS) {
        return Err(DomainError::invalid_param("status_msg has at most 2000 bytes"));
    }
    if !env.settings.presence_enabled {
        return Ok(());
    }
    let now = env.clock.now_ms();
    env.presence.change(user, now, |entry| entry.set(state, message, now));
    write(env, user).await
}

/// What others see of a local user; `None` if it never was online.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn status(env: &Env, user: &UserId) -> Outcome<Option<Status>> {
    if !env.settings.presence_enabled {
        return Ok(None);
    }
    if let Some(status) = env.presence.status(user, env.clock.now_ms()) {
        return Ok(Some(status));
    }
    let rows = env.store.presence_of(&[user.as_str()]).await?;
    Ok(rows.into_iter().next().map(|row| Status {
        state: Shown::named(&row.state).as_str(),
        message: row.status_msg,
        last_active: row.last_active_ts,
    }))
}

fn write_soon(env: &Arc<Env>, user: &UserId) {
    let (env, user) = (env.clone(), user.to_owned());
    env.io.clone().spawn(async move { write_or_warn(&env, &user).await });
}

async fn write_or_warn(env: &Arc<Env>, user: &UserId) {
    if let Err(error) = write(env, user).await {
        // The next tick finds it unwritten still.
        tracing::warn!(%user, %error, "a change of presence is not written yet");
    }
}

/// Writes what is due, if anything.
async fn write(env: &Arc<Env>, user: &UserId) -> Outcome<()> {
    let Some(writing) = env.presence.users.get(user).map(|slot| slot.writing.clone()) else {
        return Ok(());
    };
    let _writing = writing.lock().await;
    let now = env.clock.now_ms();
    let Some(status) = env
        .presence
        .users
        .get(user)
        .filter(|slot| slot.entry.due(now))
        .map(|slot| slot.entry.status(now))
    else {
        return Ok(());
    };
    let rows = Rows {
        presence: vec![row::Model {
            user_id: user.to_string(),
            state: status.state.to_owned(),
            status_msg: status.message.clone(),
            last_active_ts: status.last_active,
            pos: 0,
        }],
        ..Rows::default()
    };
    let users = interested_users(env, user).await?;
    let kind = FactKind::Presence { user: user.to_owned() };
    let submission = Submission {
        rows,
        positions: 1,
        publish: Box::new(move |pos: StreamPos| vec![Fact { pos, users, kind }]),
    };
    env.journal.submit(submission).await?;
    if let Some(mut slot) = env.presence.users.get_mut(user) {
        slot.entry.written(status, now);
    }
    Ok(())
}

/// Starts the timers and the look-out for what users do; they end with the environment.
pub fn start(env: &Arc<Env>) {
    if env.settings.presence_enabled {
        env.io.spawn(timers(Arc::downgrade(env)));
        env.io.spawn(watch_events(Arc::downgrade(env), env.journal.subscribe()));
    }
}

async fn timers(weak: Weak<Env>) {
    if let Some(env) = weak.upgrade() {
        match env.store.presence_alive().await {
            Ok(rows) => adopt(&env, rows),
            Err(error) => tracing::warn!(%error, "the presence of before the start is not known"),
        }
    }
    loop {
        tokio::time::sleep(TICK).await;
        let Some(env) = weak.upgrade() else { return };
        let now = env.clock.now_ms();
        env.presence.users.retain(|_, slot| !slot.entry.is_over(now));
        let due: Vec<OwnedUserId> = env
            .presence
            .users
            .iter()
            .filter(|slot| slot.entry.due(now))
            .map(|slot| slot.key().clone())
            .collect();
        let write = |user: OwnedUserId| {
            let env = env.clone();
            async move { write_or_warn(&env, &user).await }
        };
        stream::iter(due).for_each_concurrent(AT_ONCE, write).await;
        if let Err(error) = remote::expire(&env, now).await {
            tracing::warn!(%error, "users of silent servers are still shown as online");
        }
    }
}

/// Users who were online when the last process ended go offline unless they come back in time.
fn adopt(env: &Arc<Env>, rows: Vec<row::Model>) {
    let now = env.clock.now_ms();
    for row in rows {
        let Ok(user) = UserId::parse(&row.user_id) else {
            continue;
        };
        if env.is_local(&user) {
            let slot = || Slot {
                entry: Entry::adopted(&row, now),
                ..Slot::default()
            };
            env.presence.users.entry(user).or_insert_with(slot);
        } else {
            remote::adopt(env, &row, now);
        }
    }
}

async fn watch_events(weak: Weak<Env>, mut facts: Receiver<Arc<[Fact]>>) {
    loop {
        match facts.recv().await {
            Ok(batch) => {
                let Some(env) = weak.upgrade() else { return };
                for fact in batch.iter() {
                    if let FactKind::Event { event, .. } = &fact.kind
                        && env.is_local(&event.pdu.sender)
                    {
                        active(&env, &event.pdu.sender);
                    }
                }
            }
            // Missed actions make nobody offline.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
