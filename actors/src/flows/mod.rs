//! Operations over several rooms, tables or servers. Plain async functions over the [`Hub`](crate::hub::Hub): they hold no
//! state, and each step can be repeated.

pub mod account_status;
pub mod admin;
pub mod alias;
pub mod backfill;
pub mod by_time;
pub mod claims;
pub mod create_room;
pub mod deactivate;
pub mod delayed;
pub mod directory;
pub mod friends;
pub mod guard;
pub mod hosting;
pub mod ingest;
pub mod invite_filter;
pub mod membership;
pub mod profile;
pub mod remote;
pub mod remote_devices;
pub mod remote_keys;
pub mod remote_profile;
pub mod search;
pub mod spaces;
pub mod transaction;
pub mod turns;
pub mod upgrade;

use std::collections::HashMap;

use ruma::{OwnedUserId, UserId};

use crate::env::Env;
use crate::error::Outcome;
use crate::room::membership::Profile;

/// What member events of these local users show. Users without a profile are left out.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn profiles(env: &Env, users: &[OwnedUserId]) -> Outcome<HashMap<OwnedUserId, Profile>> {
    let mut profiles: HashMap<OwnedUserId, Profile> = HashMap::new();
    for row in env.store.member_profiles(users).await? {
        let Ok(user) = UserId::parse(row.user_id) else { continue };
        let value = serde_json::from_str::<String>(&row.value).ok();
        let profile = profiles.entry(user).or_default();
        match row.name.as_str() {
            "displayname" => profile.displayname = value,
            _ => profile.avatar_url = value,
        }
    }
    Ok(profiles)
}

#[cfg(test)]
mod tests;
