//! Account data about friends: the user's list of them, whom they ignore, and which rooms are direct chats
//! (client-server API, "Direct Messaging", "Ignoring Users").

use std::collections::HashSet;
use std::sync::Arc;

use entities::friend::Model;
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use super::half::{Standing, standing};
use super::{Status, half};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::session::load::ignored_users;
use crate::session::view::UserView;

/// The list of friends, which clients can read as account data, and only the server writes.
pub const FRIENDS: &str = "org.synapse_rust.friends";
const DIRECT: &str = "m.direct";
const IGNORED: &str = "m.ignored_user_list";

/// One entry of account data that is to be written.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its type.
    pub kind: &'static str,
    /// What is there.
    pub old: Option<String>,
    /// What is to be there.
    pub content: String,
}

/// How a user treats others.
pub struct Statuses<'a> {
    /// The user.
    pub view: &'a UserView,
}

impl Statuses<'_> {
    /// The status of one of them.
    #[must_use]
    pub fn of(&self, half: &Model) -> &'static str {
        let ignored = UserId::parse(&half.friend_id).is_ok_and(|friend| self.view.ignored.contains(&friend));
        if ignored {
            return Status::Blocked.as_str();
        }
        Status::named(&half.status).map_or(half::NORMAL, Status::as_str)
    }
}

async fn stored(env: &Env, user: &UserId, kind: &str) -> Outcome<Option<String>> {
    let row = env.store.account_data_one(user.as_str(), "", kind).await?;
    Ok(row.map(|row| row.content))
}

fn object(text: Option<&str>) -> Map<String, Value> {
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// The list of friends as it ought to be with `changed`, where it is not so already.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub(super) async fn list(env: &Env, view: &UserView, changed: Option<&Model>) -> Outcome<Option<Entry>> {
    let mut halves = env.store.friends(view.user_id.as_str()).await?;
    if let Some(changed) = changed {
        halves.retain(|half| half.friend_id != changed.friend_id);
        halves.push(changed.clone());
    }
    let old = stored(env, &view.user_id, FRIENDS).await?;
    let content = content(view, &halves);
    let is_empty = content == self::content(view, &[]);
    if old.as_deref() == Some(content.as_str()) || old.is_none() && is_empty {
        return Ok(None);
    }
    Ok(Some(Entry {
        kind: FRIENDS,
        old,
        content,
    }))
}

fn content(view: &UserView, halves: &[Model]) -> String {
    let statuses = Statuses { view };
    let (mut friends, mut incoming, mut outgoing) = (Map::new(), Map::new(), Map::new());
    for half in halves {
        let status = statuses.of(half);
        match standing(half) {
            Standing::Friends => {
                let entry = json!({ "since": half.since_ts / 1_000, "status": status, "room_id": half.room_id });
                friends.insert(half.friend_id.clone(), entry);
            }
            Standing::Incoming if status != Status::Blocked.as_str() => {
                incoming.insert(half.friend_id.clone(), json!({ "timestamp": half.their_ts }));
            }
            Standing::Outgoing => {
                outgoing.insert(half.friend_id.clone(), json!({ "timestamp": half.own_ts }));
            }
            Standing::Incoming | Standing::Strangers => {}
        }
    }
    json!({ "friends": friends, "incoming": incoming, "outgoing": outgoing }).to_string()
}

/// The rooms that the user's clients know as direct chats with another user.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn direct_rooms(env: &Env, user: &UserId, friend: &UserId) -> Outcome<Vec<String>> {
    let direct = object(stored(env, user, DIRECT).await?.as_deref());
    Ok(rooms_of(&direct, friend))
}

fn rooms_of(direct: &Map<String, Value>, friend: &UserId) -> Vec<String> {
    let rooms = direct.get(friend.as_str()).and_then(Value::as_array);
    let rooms = rooms.into_iter().flatten().filter_map(Value::as_str);
    rooms.map(str::to_owned).collect()
}

pub(super) async fn mark_direct(
    env: &Env,
    view: &UserView,
    friend: &UserId,
    room_id: &str,
    listed: bool,
) -> Outcome<Option<Entry>> {
    let old = stored(env, &view.user_id, DIRECT).await?;
    let mut direct = object(old.as_deref());
    let mut rooms = rooms_of(&direct, friend);
    let is_listed = rooms.iter().any(|room| room == room_id);
    if is_listed == listed {
        return Ok(None);
    }
    if listed {
        // Clients take the first one.
        rooms.insert(0, room_id.to_owned());
    } else {
        rooms.retain(|room| room != room_id);
    }
    match rooms.is_empty() {
        true => drop(direct.remove(friend.as_str())),
        false => drop(direct.insert(friend.to_string(), rooms.into())),
    }
    Ok(Some(Entry {
        kind: DIRECT,
        old,
        content: Value::Object(direct).to_string(),
    }))
}

/// The user's list of those whom they ignore, with somebody or without.
pub(super) async fn ignore(
    env: &Env,
    view: &UserView,
    friend: &OwnedUserId,
    ignored: bool,
) -> Outcome<(Entry, Arc<HashSet<OwnedUserId>>)> {
    let old = stored(env, &view.user_id, IGNORED).await?;
    let mut list = object(old.as_deref());
    let users = list.entry("ignored_users").or_insert_with(|| json!({}));
    if !users.is_object() {
        *users = json!({});
    }
    let users = users
        .as_object_mut()
        .ok_or_else(|| DomainError::internal("the list of ignored users is no object"))?;
    match ignored {
        true => drop(users.insert(friend.to_string(), json!({}))),
        false => drop(users.remove(friend.as_str())),
    }
    let content = Value::Object(list).to_string();
    let now_ignored = Arc::new(ignored_users(&content));
    let entry = Entry {
        kind: IGNORED,
        old,
        content,
    };
    Ok((entry, now_ignored))
}
