//! What a user keeps on the server: account data, tags, push rules, filters, profile, pushers.

mod account_data;
pub mod filters;
mod profile;
mod push_rules;
mod threads;

use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::rows::Rows;
use entities::{account_data as row, pusher};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use serde_json::Value;
use serde_json::value::RawValue;

pub use self::profile::{MAX_KEY, MAX_PROFILE, is_shown};
pub use self::push_rules::{PushRuleChange, ruleset_content};
pub use self::threads::Interest;
use super::quota;
use super::view::UserView;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// Bytes of one entry of account data: of all push rules, of all tags of a room.
const MAX_CONTENT: usize = 1024 * 1024;
/// Pushers of one user.
const MAX_PUSHERS: usize = 100;
/// Bytes of a pusher's JSON.
const MAX_PUSHER: usize = 16 * 1024;

/// What can be asked.
#[derive(Clone, Debug)]
pub enum DataCommand {
    /// Sets account data of the user's own choosing; an empty object counts as deletion (MSC3391).
    SetAccountData {
        /// `None` for global.
        room_id: Option<OwnedRoomId>,
        /// The type.
        kind: String,
        /// A JSON object.
        content: Box<RawValue>,
    },
    /// Sets or removes one tag of a room (client-server API, "Room Tagging").
    SetTag {
        /// The room.
        room_id: OwnedRoomId,
        /// The tag.
        tag: String,
        /// A JSON object; `None` removes the tag.
        info: Option<Box<RawValue>>,
    },
    /// Moves the marker of what was fully read; never backwards (client-server API, "Fully read markers").
    MoveFullyRead {
        /// The room, which the user must be in.
        room_id: OwnedRoomId,
        /// An event of it.
        event_id: OwnedEventId,
    },
    /// Subscribes to a thread or no longer (MSC4306); the user can see it.
    Thread {
        /// The room.
        room_id: OwnedRoomId,
        /// The thread.
        root: OwnedEventId,
        /// What is wanted.
        wanted: Interest,
    },
    /// Changes the push rules.
    PushRule(Box<PushRuleChange>),
    /// Stores a filter.
    CreateFilter {
        /// A JSON object.
        json: String,
    },
    /// Sets or removes a profile field.
    SetProfileField {
        /// Its name.
        name: String,
        /// `None` removes it.
        value: Option<Value>,
    },
    /// Adds or replaces a pusher.
    SetPusher {
        /// The row; its user is the session's.
        pusher: pusher::Model,
        /// Whether other users keep a pusher for the same app and key.
        append: bool,
    },
    /// Removes a pusher.
    DeletePusher {
        /// The app.
        app_id: String,
        /// The key.
        pushkey: String,
    },
}

/// The answers.
#[derive(Clone, Debug)]
pub enum DataReply {
    /// To everything without a result.
    Done,
    /// To [`DataCommand::CreateFilter`]: the filter's number.
    Filter(i64),
}

/// Does one command; the view comes back where it changed.
///
/// # Errors
/// See the commands; `Unavailable` when nothing could be written.
pub async fn run(env: &Env, view: &UserView, command: DataCommand) -> Outcome<(DataReply, Option<UserView>)> {
    let user = view.user_id.as_str();
    let changed = match command {
        DataCommand::SetAccountData { room_id, kind, content } => {
            account_data::set(env, view, room_id.as_deref(), &kind, &content).await?
        }
        DataCommand::SetTag { room_id, tag, info } => {
            account_data::set_tag(env, view, &room_id, tag, info.as_deref()).await?;
            None
        }
        DataCommand::MoveFullyRead { room_id, event_id } => {
            account_data::move_fully_read(env, view, &room_id, &event_id).await?;
            None
        }
        DataCommand::Thread { room_id, root, wanted } => {
            threads::set(env, view, &room_id, &root, wanted).await?;
            None
        }
        DataCommand::PushRule(change) => push_rules::apply(env, view, *change).await?,
        DataCommand::CreateFilter { json } => {
            let id = create_filter(env, view, &json).await?;
            return Ok((DataReply::Filter(id), None));
        }
        DataCommand::SetProfileField { name, value } => profile::set(env, view, name, value).await?,
        DataCommand::SetPusher { pusher, append } => {
            let pusher = pusher::Model {
                user_id: user.to_owned(),
                ..pusher
            };
            set_pusher(env, &pusher, append).await?;
            None
        }
        DataCommand::DeletePusher { app_id, pushkey } => {
            env.store.delete_pusher(user, &app_id, &pushkey).await?;
            None
        }
    };
    Ok((DataReply::Done, changed))
}

async fn set_pusher(env: &Env, pusher: &pusher::Model, append: bool) -> Outcome<()> {
    let others = env.store.pushers(&pusher.user_id).await?;
    let known = |other: &pusher::Model| other.app_id == pusher.app_id && other.pushkey == pusher.pushkey;
    if pusher.json.len() > MAX_PUSHER || others.len() >= MAX_PUSHERS && !others.iter().any(known) {
        return Err(DomainError::too_large("the pusher is too large, or there are too many"));
    }
    Ok(env.store.set_pusher(pusher, append).await?)
}

async fn create_filter(env: &Env, view: &UserView, json: &str) -> Outcome<i64> {
    let keep = env.settings.user_limits.filters;
    let (id, gone) = env.store.create_filter(view.user_id.as_str(), json, keep).await?;
    for old in gone {
        env.filters.forget(&view.user_id, old);
    }
    Ok(id)
}

/// Writes one entry of account data over `old`, the content that is there; `changed` is published with it.
async fn commit(
    env: &Env,
    view: &UserView,
    (room_id, kind): (Option<&RoomId>, &str),
    old: Option<&str>,
    content: String,
    changed: Option<&UserView>,
) -> Outcome<()> {
    if content.len() > MAX_CONTENT {
        return Err(DomainError::too_large("account data has at most 1 MiB an entry"));
    }
    let user = view.user_id.clone();
    let entry = row::Model {
        user_id: user.to_string(),
        room_id: room_id.map(ToString::to_string).unwrap_or_default(),
        r#type: kind.to_owned(),
        content,
        pos: 0,
    };
    let tally = quota::admit_account_data(env, &entry, old).await?;
    let rows = Rows {
        account_data: vec![entry],
        ..Rows::default()
    };
    let kind = FactKind::AccountData {
        room_id: room_id.map(ToOwned::to_owned),
        kind: kind.to_owned(),
    };
    let (users, changed) = (env.users.clone(), changed.cloned().map(Arc::new));
    let publish = move |pos: StreamPos| {
        if let Some(view) = changed {
            users.publish(user.clone(), view);
        }
        vec![Fact {
            pos,
            users: Arc::from([user]),
            kind,
        }]
    };
    let submission = Submission {
        rows,
        positions: 1,
        publish: Box::new(publish),
    };
    // Until the outcome is known nobody knows the figures.
    env.quota.note_account_data(&view.user_id, None);
    env.journal.submit(submission).await?;
    env.quota.note_account_data(&view.user_id, Some(tally));
    Ok(())
}

#[cfg(test)]
mod tests;
