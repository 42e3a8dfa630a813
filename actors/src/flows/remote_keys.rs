//! What other servers tell of the devices and keys of their users (server-server API, "Device Management", "End-to-End
//! Encryption").

use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::rows::Rows;
use entities::{device_list_change, remote_device};
use ruma::{OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::flows::remote_devices::device_keys;
use crate::hub::Hub;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

#[derive(Deserialize)]
struct Whose {
    user_id: OwnedUserId,
}

/// What an `m.device_list_update` tells.
#[derive(Deserialize)]
struct Update {
    device_id: String,
    device_display_name: Option<String>,
    stream_id: i64,
    #[serde(default)]
    prev_id: Vec<i64>,
    #[serde(default)]
    deleted: bool,
    keys: Option<Box<RawValue>>,
}

impl Update {
    /// Whether it is the next one after `known`.
    fn follows(&self, known: i64) -> bool {
        self.stream_id > known && !self.prev_id.is_empty() && self.prev_id.iter().all(|id| *id == known)
    }

    /// The device as it is kept, `None` when it is gone.
    ///
    /// # Errors
    /// For keys of another device.
    fn device(&self, user: &UserId) -> Result<Option<remote_device::Model>, ()> {
        if self.deleted {
            return Ok(None);
        }
        let keys = match &self.keys {
            Some(keys) => Some(device_keys(keys.get(), user, &self.device_id).ok_or(())?),
            None => None,
        };
        Ok(Some(remote_device::Model {
            user_id: user.to_string(),
            device_id: self.device_id.clone(),
            json: keys.map(|keys| keys.to_string()),
            display_name: self.device_display_name.clone(),
        }))
    }
}

/// A device of a user of `origin` changed: `m.device_list_update`.
///
/// # Errors
/// `M_BAD_JSON`; `M_FORBIDDEN` for users of other servers; `Unavailable` when nothing was written.
pub async fn device_list_update(hub: &Hub, origin: &ServerName, content: &RawValue) -> Outcome<()> {
    let update = serde_json::from_str::<Update>(content.get()).ok();
    changed(hub.env(), &whose(origin, content)?, update).await
}

/// Cross-signing keys of a user of `origin` changed: `m.signing_key_update`.
///
/// # Errors
/// As [`device_list_update`].
pub async fn signing_key_update(hub: &Hub, origin: &ServerName, content: &RawValue) -> Outcome<()> {
    changed(hub.env(), &whose(origin, content)?, None).await
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

/// An update that follows what is known is put in its place; otherwise what is known is not to be used any more. Either way those
/// who see the user have to ask again.
async fn changed(env: &Arc<Env>, user: &UserId, update: Option<Update>) -> Outcome<()> {
    let sharing = env.store.local_users_sharing_rooms(user.as_str()).await?;
    if sharing.is_empty() {
        return Ok(());
    }
    let is_placed = match &update {
        Some(update) => place(env, user, update).await?,
        None => false,
    };
    if !is_placed {
        env.store.mark_remote_lists_stale(&[user.to_string()]).await?;
    }
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

/// Whether the update is part of what is known of the user's devices now.
async fn place(env: &Env, user: &UserId, update: &Update) -> Outcome<bool> {
    let list = env.store.remote_device_lists(&[user.as_str()]).await?.pop();
    let Some(known) = list.filter(|list| !list.stale).and_then(|list| list.remote_id) else {
        return Ok(false);
    };
    if update.stream_id == known {
        // It has come again.
        return Ok(true);
    }
    let Some(device) = update.device(user).ok().filter(|_| update.follows(known)) else {
        return Ok(false);
    };
    let (of, between) = ((user.as_str(), update.device_id.as_str()), (known, update.stream_id));
    Ok(env.store.update_remote_device(of, between, device.as_ref()).await?)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    fn update(content: serde_json::Value) -> Update {
        serde_json::from_value(content).expect("an update")
    }

    #[test]
    fn only_the_next_update_follows() {
        let follows = |stream_id: i64, prev_id: serde_json::Value| {
            update(json!({ "device_id": "D", "stream_id": stream_id, "prev_id": prev_id })).follows(7)
        };
        assert!(follows(8, json!([7])) && follows(20, json!([7])));
        assert!(!follows(9, json!([8])), "one is missing");
        assert!(!follows(9, json!([6])), "what lies between is not known");
        assert!(!follows(9, json!([7, 8])));
        assert!(!follows(8, json!([])), "a new sequence");
        assert!(!follows(7, json!([7])) && !follows(6, json!([7])));
    }

    #[test]
    fn a_device_is_taken_from_its_own_update() {
        let user = user_id!("@a:far");
        let keys = json!({ "user_id": user, "device_id": "D", "algorithms": [], "keys": {} });
        let base = json!({ "device_id": "D", "stream_id": 1, "device_display_name": "phone" });
        let with = |key: &str, value: serde_json::Value| {
            let mut content = base.clone();
            content[key] = value;
            update(content).device(user)
        };
        let kept = with("keys", keys.clone()).expect("its own").expect("it is there");
        assert_eq!(kept.json, Some(keys.to_string()));
        assert_eq!(kept.display_name.as_deref(), Some("phone"));
        assert_eq!(with("deleted", json!(true)), Ok(None));
        let mut others = keys;
        others["device_id"] = json!("E");
        assert!(with("keys", others).is_err());
    }
}
