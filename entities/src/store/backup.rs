//! The room key backup (client-server API, "Server-side key backups").

use super::{Run, Store, Tx, params};
use crate::{error::StoreError, key_backup, key_backup_session};

/// Which of a version's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupScope<'a> {
    /// All of them.
    All,
    /// Those of a room.
    Room(&'a str),
    /// One.
    Session(&'a str, &'a str),
}

/// How much a version holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupState {
    /// Sessions.
    pub count: i64,
    /// Raised by every change.
    pub etag: i64,
}

/// What became of keys that were to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupPut {
    /// Those that are better are stored.
    Stored {
        /// What the version holds now.
        state: BackupState,
        /// By how many bytes it has grown.
        growth: i64,
    },
    /// It would have grown by more than allowed; nothing is stored.
    NoRoom,
}

impl Store {
    /// Bytes of all versions of a user's backup, names included.
    pub async fn backup_use(&self, user_id: &str) -> Result<i64, StoreError> {
        let keys = "SELECT COALESCE(SUM(octet_length(session_data) + octet_length(room_id) + octet_length(session_id)), 0) \
                    FROM key_backup_session WHERE user_id = $1";
        let keys: Option<i64> = self.reader().scalar(keys, params![user_id]).await?;
        let heads = "SELECT COALESCE(SUM(octet_length(auth_data) + octet_length(algorithm)), 0) FROM key_backup \
                     WHERE user_id = $1";
        let heads: Option<i64> = self.reader().scalar(heads, params![user_id]).await?;
        Ok(keys.unwrap_or(0) + heads.unwrap_or(0))
    }

    /// A user's newest versions that were not deleted, oldest first.
    pub async fn backups(&self, user_id: &str, limit: u32) -> Result<Vec<key_backup::Model>, StoreError> {
        let sql = "SELECT * FROM key_backup WHERE user_id = $1 AND deleted = FALSE ORDER BY version DESC LIMIT $2";
        let mut newest: Vec<key_backup::Model> = self.reader().all(sql, params![user_id, i64::from(limit)]).await?;
        newest.reverse();
        Ok(newest)
    }

    /// One version, deleted or not.
    pub async fn backup(&self, user_id: &str, version: i64) -> Result<Option<key_backup::Model>, StoreError> {
        let sql = "SELECT * FROM key_backup WHERE user_id = $1 AND version = $2";
        self.reader().one(sql, params![user_id, version]).await
    }

    /// How many sessions each of a user's versions holds.
    pub async fn backup_counts(&self, user_id: &str) -> Result<Vec<(i64, i64)>, StoreError> {
        let sql = "SELECT version, COUNT(*) FROM key_backup_session WHERE user_id = $1 GROUP BY version";
        let rows = self.reader().rows(sql, params![user_id]).await?;
        let pair = |row: &sea_orm::QueryResult| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?));
        rows.iter().map(pair).collect()
    }

    /// Makes a version and answers its number, one above all that the user ever had.
    pub async fn create_backup(&self, user_id: &str, algorithm: &str, auth_data: &str) -> Result<i64, StoreError> {
        let tx = self.begin().await?;
        let last = "SELECT MAX(version) FROM key_backup WHERE user_id = $1";
        let last: Option<Option<i64>> = tx.scalar(last, params![user_id]).await?;
        let version = last.flatten().unwrap_or(0) + 1;
        let row = key_backup::Model {
            user_id: user_id.to_owned(),
            version,
            algorithm: algorithm.to_owned(),
            auth_data: auth_data.to_owned(),
            etag: 0,
            deleted: false,
        };
        tx.insert::<key_backup::Entity>(&[row]).await?;
        tx.commit().await?;
        Ok(version)
    }

    /// Replaces a version's `auth_data`.
    pub async fn update_backup(&self, user_id: &str, version: i64, auth_data: &str) -> Result<(), StoreError> {
        let sql = "UPDATE key_backup SET auth_data = $3 WHERE user_id = $1 AND version = $2 AND deleted = FALSE";
        self.writer()
            .exec(sql, params![user_id, version, auth_data])
            .await
            .map(|_| ())
    }

    /// Deletes a version with its sessions; its number is not used again.
    pub async fn delete_backup(&self, user_id: &str, version: i64) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let mark = "UPDATE key_backup SET deleted = TRUE, auth_data = '{}' WHERE user_id = $1 AND version = $2";
        tx.exec(mark, params![user_id, version]).await?;
        let sessions = "DELETE FROM key_backup_session WHERE user_id = $1 AND version = $2";
        tx.exec(sessions, params![user_id, version]).await?;
        tx.commit().await
    }

    /// A version's sessions.
    pub async fn backup_sessions(
        &self,
        user_id: &str,
        version: i64,
        scope: BackupScope<'_>,
    ) -> Result<Vec<key_backup_session::Model>, StoreError> {
        let (condition, values) = narrowed(user_id, version, scope);
        let sql = format!("SELECT * FROM key_backup_session WHERE {condition}");
        self.reader().all(&sql, values).await
    }

    /// Stores those of `sessions` that `replaces(stored, new)` prefers to what is stored, or that are new, unless the version
    /// grows by more than `room` bytes. All belong to the user and version.
    pub async fn put_backup_sessions(
        &self,
        user_id: &str,
        version: i64,
        sessions: &[key_backup_session::Model],
        room: i64,
        replaces: impl Fn(&key_backup_session::Model, &key_backup_session::Model) -> bool + Send + Sync,
    ) -> Result<BackupPut, StoreError> {
        let tx = self.begin().await?;
        let mut better = Vec::with_capacity(sessions.len());
        let mut growth = 0;
        for (stored, new) in stored_sessions(&tx, user_id, version, sessions)
            .await?
            .iter()
            .zip(sessions)
        {
            if stored.as_ref().is_none_or(|stored| replaces(stored, new)) {
                growth += size(new) - stored.as_ref().map_or(0, size);
                better.push(new.clone());
            }
        }
        if growth > room.max(0) {
            tx.rollback().await?;
            return Ok(BackupPut::NoRoom);
        }
        tx.upsert::<key_backup_session::Entity>(&better).await?;
        let state = settle(&tx, user_id, version, !better.is_empty()).await?;
        tx.commit().await?;
        Ok(BackupPut::Stored { state, growth })
    }

    /// Deletes sessions of a version.
    pub async fn delete_backup_sessions(
        &self,
        user_id: &str,
        version: i64,
        scope: BackupScope<'_>,
    ) -> Result<BackupState, StoreError> {
        let tx = self.begin().await?;
        let (condition, values) = narrowed(user_id, version, scope);
        let sql = format!("DELETE FROM key_backup_session WHERE {condition}");
        let changed = tx.exec(&sql, values).await? > 0;
        let state = settle(&tx, user_id, version, changed).await?;
        tx.commit().await?;
        Ok(state)
    }
}

/// As [`Store::backup_use`] counts it.
fn size(session: &key_backup_session::Model) -> i64 {
    let bytes = session.session_data.len() + session.room_id.len() + session.session_id.len();
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn narrowed(user_id: &str, version: i64, scope: BackupScope<'_>) -> (&'static str, Vec<sea_orm::Value>) {
    match scope {
        BackupScope::All => ("user_id = $1 AND version = $2", params![user_id, version]),
        BackupScope::Room(room) => (
            "user_id = $1 AND version = $2 AND room_id = $3",
            params![user_id, version, room],
        ),
        BackupScope::Session(room, session) => (
            "user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4",
            params![user_id, version, room, session],
        ),
    }
}

/// For each of `sessions` the stored one of the same name.
async fn stored_sessions(
    tx: &Tx,
    user_id: &str,
    version: i64,
    sessions: &[key_backup_session::Model],
) -> Result<Vec<Option<key_backup_session::Model>>, StoreError> {
    let db = tx.backend();
    let rooms: std::collections::BTreeSet<&str> = sessions.iter().map(|session| session.room_id.as_str()).collect();
    let rooms: Vec<&str> = rooms.into_iter().collect();
    let names: Vec<&str> = sessions.iter().map(|session| session.session_id.as_str()).collect();
    let sql = format!(
        "SELECT * FROM key_backup_session WHERE user_id = $1 AND version = $2 AND room_id {} AND session_id {}",
        db.any(3),
        db.any(4)
    );
    let values = params![user_id, version, db.texts(&rooms), db.texts(&names)];
    let stored: Vec<key_backup_session::Model> = tx.all(&sql, values).await?;
    let mut by_name: std::collections::HashMap<(String, String), key_backup_session::Model> = stored
        .into_iter()
        .map(|session| ((session.room_id.clone(), session.session_id.clone()), session))
        .collect();
    let find = |new: &key_backup_session::Model| by_name.remove(&(new.room_id.clone(), new.session_id.clone()));
    Ok(sessions.iter().map(find).collect())
}

async fn settle(tx: &Tx, user_id: &str, version: i64, changed: bool) -> Result<BackupState, StoreError> {
    let raise = i64::from(changed);
    let etag = "UPDATE key_backup SET etag = etag + $3 WHERE user_id = $1 AND version = $2 RETURNING etag";
    let etag: Option<i64> = tx.scalar(etag, params![user_id, version, raise]).await?;
    let count = "SELECT COUNT(*) FROM key_backup_session WHERE user_id = $1 AND version = $2";
    let count: Option<i64> = tx.scalar(count, params![user_id, version]).await?;
    Ok(BackupState {
        count: count.unwrap_or(0),
        etag: etag.unwrap_or(0),
    })
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
