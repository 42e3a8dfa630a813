//! Whose keys changed.

use std::collections::HashSet;

use entities::ids::StreamPos;
use ruma::{OwnedUserId, UserId};

use crate::env::Env;
use crate::error::Outcome;

/// The answer of `/keys/changes`, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those in sight whose keys changed, and those who came into sight.
    pub changed: Vec<OwnedUserId>,
    /// Those out of sight.
    pub left: Vec<OwnedUserId>,
}

/// Whose keys changed for `user` with `from < pos ≤ to`.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn changes(env: &Env, user: &UserId, from: StreamPos, to: StreamPos) -> Outcome<Changes> {
    let to = to.min(env.visible());
    if from >= to {
        return Ok(Changes::default());
    }
    let mut sharing: HashSet<String> = env
        .store
        .users_sharing_rooms(user.as_str())
        .await?
        .into_iter()
        .collect();
    sharing.insert(user.to_string());
    let watched: Vec<&String> = sharing.iter().collect();
    let rows = env.store.device_list_changes(&watched, from.0, to.0).await?;
    let sight = env.store.sight_changes(user.as_str(), from.0, to.0).await?;
    let changed: HashSet<String> = rows
        .into_iter()
        .map(|row| row.user_id)
        .chain(sight.arrived.into_iter().filter(|user| sharing.contains(user)))
        .collect();
    let left = sight.gone.into_iter().filter(|user| !sharing.contains(user));
    Ok(Changes {
        changed: sorted(changed),
        left: sorted(left),
    })
}

fn sorted(users: impl IntoIterator<Item = String>) -> Vec<OwnedUserId> {
    let parse = |user: String| OwnedUserId::try_from(user).ok();
    let mut users: Vec<OwnedUserId> = users.into_iter().filter_map(parse).collect();
    users.sort_unstable();
    users
}
