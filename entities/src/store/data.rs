//! Account data in sum, pushers, the events they might tell of, and presence: who sees it, what a former process left
//! behind.

use super::{Run, Store, params};
use crate::{error::StoreError, event, presence, pusher};

impl Store {
    /// How many entries of account data a user has, and their bytes, names included.
    pub async fn account_data_use(&self, user_id: &str) -> Result<(i64, i64), StoreError> {
        let sql = "SELECT COUNT(*), COALESCE(SUM(octet_length(content) + octet_length(type) + octet_length(room_id)), 0) \
                   FROM account_data WHERE user_id = $1";
        let row = self.reader().row(sql, params![user_id]).await?;
        let pair = |row: sea_orm::QueryResult| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?));
        row.map_or(Ok((0, 0)), pair)
    }

    /// Deletes what is left of a user's deleted account data. Tells how many entries.
    pub async fn forget_deleted_account_data(&self, user_id: &str) -> Result<u64, StoreError> {
        let sql = "DELETE FROM account_data WHERE user_id = $1 AND content = '{}'";
        self.writer().exec(sql, params![user_id]).await
    }

    /// A user's pushers, oldest first.
    pub async fn pushers(&self, user_id: &str) -> Result<Vec<pusher::Model>, StoreError> {
        let sql = "SELECT * FROM pusher WHERE user_id = $1 ORDER BY created_ts, app_id, pushkey";
        self.reader().all(sql, params![user_id]).await
    }

    /// Adds or replaces a pusher. Unless `append`, other users' pushers for the same app and key end.
    pub async fn set_pusher(&self, pusher: &pusher::Model, append: bool) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        if !append {
            let others = "DELETE FROM pusher WHERE app_id = $1 AND pushkey = $2 AND user_id <> $3";
            let key = params![pusher.app_id.as_str(), pusher.pushkey.as_str(), pusher.user_id.as_str()];
            tx.exec(others, key).await?;
        }
        tx.upsert::<pusher::Entity>(std::slice::from_ref(pusher)).await?;
        tx.commit().await
    }

    /// Removes a pusher; one that is not there is no error.
    pub async fn delete_pusher(&self, user_id: &str, app_id: &str, pushkey: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM pusher WHERE user_id = $1 AND app_id = $2 AND pushkey = $3";
        self.writer()
            .exec(sql, params![user_id, app_id, pushkey])
            .await
            .map(|_| ())
    }

    /// The newest events of the given rooms with `above < pos ≤ upto`, newest first.
    pub async fn newest_of_rooms(
        &self,
        room_nids: &[i64],
        above: i64,
        upto: i64,
        limit: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        // By position: whoever asks keeps the range short.
        let sql = format!(
            "SELECT * FROM event WHERE pos > $2 AND pos <= $3 AND pos IS NOT NULL AND status = 0 \
             AND +room_nid {} ORDER BY pos DESC LIMIT $4",
            db.any(1)
        );
        self.reader()
            .all(&sql, params![db.ints(room_nids), above, upto, i64::from(limit)])
            .await
    }

    /// Whether two users are joined to a room both.
    pub async fn share_room(&self, one: &str, other: &str) -> Result<bool, StoreError> {
        let sql = "SELECT a.room_nid FROM membership a JOIN membership b ON b.room_nid = a.room_nid \
                   WHERE a.user_id = $1 AND a.membership = 'join' AND b.user_id = $2 AND b.membership = 'join' LIMIT 1";
        let shared: Option<i64> = self.reader().scalar(sql, params![one, other]).await?;
        Ok(shared.is_some())
    }

    /// The presence of everybody who is not offline.
    pub async fn presence_alive(&self) -> Result<Vec<presence::Model>, StoreError> {
        let sql = "SELECT * FROM presence WHERE state <> 'offline'";
        self.reader().all(sql, params![]).await
    }
}
