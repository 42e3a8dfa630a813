//! What is known of the devices of other servers' users: a copy that is dropped wherever it may be old.

use super::{Run, Store, params};
use crate::error::StoreError;
use crate::{remote_cross_signing_key, remote_device, remote_device_list};

/// A user's devices and keys as their server told them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteList {
    /// The devices.
    pub devices: Vec<remote_device::Model>,
    /// Master and self-signing key.
    pub keys: Vec<remote_cross_signing_key::Model>,
}

impl Store {
    /// The lists of the given users that are known, old ones too.
    pub async fn remote_device_lists<S: AsRef<str> + Sync>(
        &self,
        users: &[S],
    ) -> Result<Vec<remote_device_list::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM remote_device_list WHERE user_id {}", db.any(1));
        self.reader().all(&sql, params![db.texts(users)]).await
    }

    /// The devices and cross-signing keys of the given users.
    pub async fn remote_devices<S: AsRef<str> + Sync>(&self, users: &[S]) -> Result<RemoteList, StoreError> {
        let db = self.backend();
        let devices = format!("SELECT * FROM remote_device WHERE user_id {}", db.any(1));
        let keys = format!("SELECT * FROM remote_cross_signing_key WHERE user_id {}", db.any(1));
        Ok(RemoteList {
            devices: self.reader().all(&devices, params![db.texts(users)]).await?,
            keys: self.reader().all(&keys, params![db.texts(users)]).await?,
        })
    }

    /// Keeps a list that was asked for when the list's number was `asked_at` (0 where there was none). It counts as old at
    /// once if a change was told of meanwhile. `remote_id`: what its server counts it as.
    pub async fn keep_remote_list(
        &self,
        user_id: &str,
        asked_at: i64,
        fetched_ts: i64,
        remote_id: i64,
        list: &RemoteList,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let sql = "INSERT INTO remote_device_list (user_id, stream_id, stale, fetched_ts, remote_id) \
                   VALUES ($1, $2, FALSE, $3, $4) ON CONFLICT (user_id) DO UPDATE SET \
                   stale = (remote_device_list.stream_id <> $2), fetched_ts = $3, remote_id = $4";
        tx.exec(sql, params![user_id, asked_at, fetched_ts, remote_id]).await?;
        for table in ["remote_device", "remote_cross_signing_key"] {
            let sql = format!("DELETE FROM {table} WHERE user_id = $1");
            tx.exec(&sql, params![user_id]).await?;
        }
        tx.insert::<remote_device::Entity>(&list.devices).await?;
        tx.insert::<remote_cross_signing_key::Entity>(&list.keys).await?;
        tx.commit().await
    }

    /// Puts one device in its place, or takes it out where there is no `device`, if the user's list is good up to the update
    /// `known` and no further; it is then good up to `update`. Tells whether it was.
    pub async fn update_remote_device(
        &self,
        (user_id, device_id): (&str, &str),
        (known, update): (i64, i64),
        device: Option<&remote_device::Model>,
    ) -> Result<bool, StoreError> {
        let tx = self.begin().await?;
        // Its number changes, so that an answer under way does not pass for newer.
        let sql = "UPDATE remote_device_list SET remote_id = $3, stream_id = stream_id + 1 \
                   WHERE user_id = $1 AND stale = FALSE AND remote_id = $2";
        if tx.exec(sql, params![user_id, known, update]).await? == 0 {
            return Ok(false);
        }
        let sql = "DELETE FROM remote_device WHERE user_id = $1 AND device_id = $2";
        tx.exec(sql, params![user_id, device_id]).await?;
        if let Some(device) = device {
            tx.insert::<remote_device::Entity>(std::slice::from_ref(device)).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// The users' lists are old from now on, also those that are being asked for.
    pub async fn mark_remote_lists_stale(&self, users: &[String]) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let sql = "INSERT INTO remote_device_list (user_id, stream_id, stale, fetched_ts) VALUES ($1, 1, TRUE, 0) \
                   ON CONFLICT (user_id) DO UPDATE SET stale = TRUE, stream_id = remote_device_list.stream_id + 1";
        for user in users {
            tx.exec(sql, params![user.as_str()]).await?;
        }
        tx.commit().await
    }

    /// The same for everybody who ever was in a room.
    pub async fn mark_remote_lists_stale_in(&self, room_nid: i64) -> Result<(), StoreError> {
        let sql = "UPDATE remote_device_list SET stale = TRUE, stream_id = stream_id + 1 \
                   WHERE user_id IN (SELECT user_id FROM membership WHERE room_nid = $1)";
        self.writer().exec(sql, params![room_nid]).await.map(|_| ())
    }

    /// The same for everybody: what happened while this server was away is not known.
    pub async fn mark_all_remote_lists_stale(&self) -> Result<(), StoreError> {
        let sql = "UPDATE remote_device_list SET stale = TRUE, stream_id = stream_id + 1 WHERE stale = FALSE";
        self.writer().exec(sql, params![]).await.map(|_| ())
    }

    /// Those of the given users who are joined to a room together with a user of this server.
    pub async fn remote_users_in_sight<S: AsRef<str> + Sync>(&self, users: &[S]) -> Result<Vec<String>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT DISTINCT o.user_id FROM membership o WHERE o.user_id {} AND o.membership = 'join' AND EXISTS \
             (SELECT 1 FROM membership m JOIN \"user\" u ON u.user_id = m.user_id \
              WHERE m.room_nid = o.room_nid AND m.membership = 'join')",
            db.any(1)
        );
        self.reader().column(&sql, params![db.texts(users)]).await
    }
}

#[cfg(test)]
#[path = "remote_devices_tests.rs"]
mod tests;
