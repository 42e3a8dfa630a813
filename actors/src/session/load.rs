//! A user's view, built from the database.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use entities::account_data;
use entities::store::session::UserRows;
use ruma::push::Ruleset;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::view::{DeviceView, UserView};
use crate::cache::ViewCache;
use crate::env::Env;
use crate::error::Outcome;

/// Views of local users.
pub type UserCache = ViewCache<OwnedUserId, UserView>;

const PUSH_RULES: &str = "m.push_rules";
const IGNORED: &str = "m.ignored_user_list";

/// A local user, from memory or else from the database; `None` for users this server does not have. Starts no actor.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn view(env: &Env, user: &UserId) -> Outcome<Option<Arc<UserView>>> {
    if !env.is_local(user) {
        return Ok(None);
    }
    env.users.get_or_load(&user.to_owned(), || from_store(env, user)).await
}

/// The same, always from the database.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn from_store(env: &Env, user: &UserId) -> Outcome<Option<UserView>> {
    let rows = env.store.user_rows(user.as_str(), &[PUSH_RULES, IGNORED]).await?;
    Ok(rows.map(|rows| build(user.to_owned(), rows)))
}

/// What a user starts with.
#[must_use]
pub fn fresh(user_id: OwnedUserId) -> UserView {
    UserView {
        push_rules: Arc::new(Ruleset::server_default(&user_id)),
        user_id,
        is_guest: false,
        is_admin: false,
        deactivated: false,
        locked: false,
        suspended: false,
        profile: Arc::default(),
        ignored: Arc::default(),
        devices: Arc::default(),
    }
}

fn build(user_id: OwnedUserId, rows: UserRows) -> UserView {
    let mut devices: BTreeMap<OwnedDeviceId, DeviceView> = BTreeMap::new();
    for row in rows.devices {
        let view = devices.entry(row.device_id.into()).or_default();
        view.display_name = row.display_name;
    }
    for row in rows.one_time_keys {
        if let Some(device) = devices.get_mut(row.device_id.as_str()) {
            let count = u64::try_from(row.count).unwrap_or(0);
            device.one_time_key_counts.insert(row.algorithm, count);
        }
    }
    for (device, algorithm) in rows.unused_fallback_keys {
        if let Some(device) = devices.get_mut(device.as_str()) {
            device.unused_fallback_key_types.push(algorithm);
        }
    }
    let data = |kind: &str| rows.account_data.iter().find(|row| row.r#type == kind);
    UserView {
        push_rules: Arc::new(push_rules(&user_id, data(PUSH_RULES).map(|row| row.content.as_str()))),
        ignored: Arc::new(data(IGNORED).map(ignored_of).unwrap_or_default()),
        user_id,
        is_guest: rows.user.is_guest,
        is_admin: rows.user.is_admin,
        deactivated: rows.user.deactivated,
        locked: rows.user.locked,
        suspended: rows.user.suspended,
        profile: Arc::new(
            rows.profile
                .into_iter()
                .map(|field| (field.name, field.value))
                .collect(),
        ),
        devices: Arc::new(devices),
    }
}

/// The user's rules from the content of `m.push_rules`, with the server's defaults where they say nothing.
#[must_use]
pub fn push_rules(user: &UserId, content: Option<&str>) -> Ruleset {
    #[derive(Deserialize)]
    struct Content {
        global: Ruleset,
    }
    let defaults = Ruleset::server_default(user);
    match content.map(serde_json::from_str::<Content>) {
        None => defaults,
        Some(Ok(Content { mut global })) => {
            global.update_with_server_default(defaults);
            global
        }
        Some(Err(error)) => {
            tracing::warn!(%user, %error, "stored push rules cannot be read, the defaults apply");
            defaults
        }
    }
}

fn ignored_of(row: &account_data::Model) -> HashSet<OwnedUserId> {
    ignored_users(&row.content)
}

/// The users named by the content of `m.ignored_user_list`. What is no user id is left out.
#[must_use]
pub fn ignored_users(content: &str) -> HashSet<OwnedUserId> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(default)]
        ignored_users: BTreeMap<String, IgnoredAny>,
    }
    let content = serde_json::from_str::<Content>(content);
    let users = content.map(|content| content.ignored_users).unwrap_or_default();
    users.into_keys().filter_map(|user| UserId::parse(user).ok()).collect()
}
