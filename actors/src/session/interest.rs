//! Whom a user's devices concern.

use std::sync::Arc;

use ruma::{OwnedUserId, UserId};

use crate::env::Env;
use crate::error::Outcome;

/// The local users that share a joined room with `user`, and `user`.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn interested_users(env: &Env, user: &UserId) -> Outcome<Arc<[OwnedUserId]>> {
    let sharing = env.store.local_users_sharing_rooms(user.as_str()).await?;
    let others = sharing
        .iter()
        .filter_map(|id| UserId::parse(id).ok())
        .filter(|id| id != user);
    Ok(others.chain([user.to_owned()]).collect())
}
