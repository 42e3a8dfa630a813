//! Reads of what else travels on the stream: receipts, account data, presence, to-device messages, device lists; and the
//! cursors of its consumers. Ranges are `since < pos ≤ upto` throughout.

use super::{Run, Store, params};
use crate::{account_data, consumer_cursor, device_list_change, error::StoreError, presence, receipt, to_device};

impl Store {
    /// The receipts of a room that changed, of all users and types.
    pub async fn receipts_in_room(
        &self,
        room_nid: i64,
        since: i64,
        upto: i64,
    ) -> Result<Vec<receipt::Model>, StoreError> {
        let sql = "SELECT * FROM receipt WHERE room_nid = $1 AND pos > $2 AND pos <= $3 ORDER BY pos";
        self.reader().all(sql, params![room_nid, since, upto]).await
    }

    /// The receipts of several rooms that changed, of all users and types.
    pub async fn receipts_of_rooms(
        &self,
        room_nids: &[i64],
        since: i64,
        upto: i64,
    ) -> Result<Vec<receipt::Model>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT * FROM receipt WHERE room_nid {} AND pos > $2 AND pos <= $3 ORDER BY pos",
            db.any(1)
        );
        self.reader().all(&sql, params![db.ints(room_nids), since, upto]).await
    }

    /// All receipts of a user in the given rooms.
    pub async fn receipts_of_user(&self, user_id: &str, room_nids: &[i64]) -> Result<Vec<receipt::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM receipt WHERE room_nid {} AND user_id = $2", db.any(1));
        self.reader().all(&sql, params![db.ints(room_nids), user_id]).await
    }

    /// The user's account data that changed, global and of rooms.
    pub async fn account_data_since(
        &self,
        user_id: &str,
        since: i64,
        upto: i64,
    ) -> Result<Vec<account_data::Model>, StoreError> {
        let sql = "SELECT * FROM account_data WHERE user_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos";
        self.reader().all(sql, params![user_id, since, upto]).await
    }

    /// One entry of account data; `room_id` is empty for global account data.
    pub async fn account_data_one(
        &self,
        user_id: &str,
        room_id: &str,
        event_type: &str,
    ) -> Result<Option<account_data::Model>, StoreError> {
        let sql = "SELECT * FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3";
        self.reader().one(sql, params![user_id, room_id, event_type]).await
    }

    /// All account data of a user, global and of rooms.
    pub async fn account_data_all(&self, user_id: &str) -> Result<Vec<account_data::Model>, StoreError> {
        self.reader()
            .all(
                "SELECT * FROM account_data WHERE user_id = $1 ORDER BY pos",
                params![user_id],
            )
            .await
    }

    /// The presence that changed of the user and of everybody joined to a room that the user is joined to.
    pub async fn presence_in_sight(
        &self,
        user_id: &str,
        since: i64,
        upto: i64,
    ) -> Result<Vec<presence::Model>, StoreError> {
        let sql = "SELECT p.* FROM presence p WHERE p.pos > $2 AND p.pos <= $3 AND (p.user_id = $1 OR p.user_id IN ( \
                   SELECT o.user_id FROM membership m JOIN membership o ON o.room_nid = m.room_nid \
                   WHERE m.user_id = $1 AND m.membership = 'join' AND o.membership = 'join')) ORDER BY p.pos";
        self.reader().all(sql, params![user_id, since, upto]).await
    }

    /// The presence of the given users; those without any are left out.
    pub async fn presence_of<S: AsRef<str> + Sync>(&self, users: &[S]) -> Result<Vec<presence::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM presence WHERE user_id {}", db.any(1));
        self.reader().all(&sql, params![db.texts(users)]).await
    }

    /// The oldest messages that wait for a device with `after < pos ≤ upto`.
    pub async fn to_device_page(
        &self,
        user_id: &str,
        device_id: &str,
        after: i64,
        upto: i64,
        limit: u32,
    ) -> Result<Vec<to_device::Model>, StoreError> {
        let sql = "SELECT * FROM to_device WHERE user_id = $1 AND device_id = $2 AND pos > $3 AND pos <= $4 \
                   ORDER BY pos LIMIT $5";
        self.reader()
            .all(sql, params![user_id, device_id, after, upto, i64::from(limit)])
            .await
    }

    /// Deletes what a device has received: all its messages at or below `upto`. Tells how many.
    pub async fn to_device_ack(&self, user_id: &str, device_id: &str, upto: i64) -> Result<u64, StoreError> {
        let sql = "DELETE FROM to_device WHERE user_id = $1 AND device_id = $2 AND pos <= $3";
        self.writer().exec(sql, params![user_id, device_id, upto]).await
    }

    /// The position of the user's newest change.
    pub async fn newest_device_list_change(&self, user: &str) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT MAX(pos) FROM device_list_change WHERE user_id = $1";
        Ok(self.reader().scalar::<Option<i64>>(sql, params![user]).await?.flatten())
    }

    /// Which of the given users changed their device list, each once with the newest position in the range.
    pub async fn device_list_changes<S: AsRef<str> + Sync>(
        &self,
        users: &[S],
        since: i64,
        upto: i64,
    ) -> Result<Vec<device_list_change::Model>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT MAX(pos) AS pos, user_id FROM device_list_change WHERE user_id {} AND pos > $2 AND pos <= $3 \
             GROUP BY user_id ORDER BY 1",
            db.any(1)
        );
        self.reader().all(&sql, params![db.texts(users), since, upto]).await
    }

    /// How far a consumer of the stream has come; `None` if it never ran.
    pub async fn consumer_cursor(&self, name: &str) -> Result<Option<i64>, StoreError> {
        self.reader()
            .scalar("SELECT pos FROM consumer_cursor WHERE name = $1", params![name])
            .await
    }

    /// Moves a consumer's cursor.
    pub async fn set_consumer_cursor(&self, name: &str, pos: i64) -> Result<(), StoreError> {
        let cursor = consumer_cursor::Model {
            name: name.to_owned(),
            pos,
        };
        self.writer()
            .upsert::<consumer_cursor::Entity>(&[cursor])
            .await
            .map(|_| ())
    }
}
