//! What other servers tell of the devices and keys of their users (server-server API, "Device Management", "End-to-End
//! Encryption").

use std::sync::Arc;

use entities::device_list_change;
use entities::ids::StreamPos;
use entities::store::rows::Rows;
use ruma::{OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

#[derive(Deserialize)]
struct Whose {
    user_id: OwnedUserId,
}

/// A device of a user of `origin` changed: `m.device_list_update`.
///
/// # Errors
/// `M_BAD_JSON`; `M_FORBIDDEN` for users of other servers; `Unavailable` when nothing was written.
pub async fn device_list_update(hub: &Hub, origin: &ServerName, content: &RawValue) -> Outcome<()> {
    changed(hub.env(), &whose(origin, content)?).await
}

/// Cross-signing keys of a user of `origin` changed: `m.signing_key_update`.
///
/// # Errors
/// As [`device_list_update`].
pub async fn signing_key_update(hub: &Hub, origin: &ServerName, content: &RawValue) -> Outcome<()> {
    changed(hub.env(), &whose(origin, content)?).await
}

fn whose(origin: &ServerName, content: &RawValue) -> Outcome<OwnedUserId> {
    let whose: Whose = serde_json::from_str(content.get()).map_err(|error| DomainError::bad_json(error.to_string()))?;
    match whose.user_id.server_name() == origin {
        true => Ok(whose.user_id),
        false => Err(DomainError::forbidden(format!(
            "{} is not a user of {origin}",
            whose.user_id
        ))),
    }
}

/// What is known of the user's devices is not to be used any more, and those who see the user have to ask again.
async fn changed(env: &Arc<Env>, user: &UserId) -> Outcome<()> {
    let sharing = env.store.local_users_sharing_rooms(user.as_str()).await?;
    if sharing.is_empty() {
        return Ok(());
    }
    env.store.mark_remote_lists_stale(&[user.to_string()]).await?;
    let rows = Rows {
        device_list_changes: vec![device_list_change::Model {
            pos: 0,
            user_id: user.to_string(),
        }],
        ..Rows::default()
    };
    let users: Arc<[OwnedUserId]> = sharing
        .into_iter()
        .filter_map(|user| UserId::parse(user).ok())
        .collect();
    let kind = FactKind::DeviceList { user: user.to_owned() };
    let submission = Submission {
        rows,
        positions: 1,
        publish: Box::new(move |pos: StreamPos| vec![Fact { pos, users, kind }]),
    };
    env.journal.submit(submission).await.map(|_| ())
}
