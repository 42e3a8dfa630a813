//! Joins that were sent to other servers.

use super::{Run, Store, params};
use crate::{error::StoreError, remote_join};

impl Store {
    /// Notes that a join is being sent.
    pub async fn begin_remote_join(&self, row: remote_join::Model) -> Result<(), StoreError> {
        self.writer().upsert::<remote_join::Entity>(&[row]).await.map(|_| ())
    }

    /// Forgets a join that was sent to one server, or to whichever.
    pub async fn end_remote_join(&self, room_id: &str, user_id: &str, via: Option<&str>) -> Result<(), StoreError> {
        let sql = "DELETE FROM remote_join WHERE room_id = $1 AND user_id = $2 AND ($3 = '' OR via = $3)";
        let values = params![room_id, user_id, via.unwrap_or_default()];
        self.writer().exec(sql, values).await.map(|_| ())
    }

    /// Joins that were sent before a time and are not forgotten, oldest first.
    pub async fn remote_joins(&self, before_ts: i64, limit: u32) -> Result<Vec<remote_join::Model>, StoreError> {
        let sql = "SELECT * FROM remote_join WHERE started_ts < $1 ORDER BY started_ts LIMIT $2";
        self.reader().all(sql, params![before_ts, i64::from(limit)]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_backend;

    fn row(user: &str, via: &str, started_ts: i64) -> remote_join::Model {
        remote_join::Model {
            room_id: "!r:y".to_owned(),
            user_id: user.to_owned(),
            via: via.to_owned(),
            started_ts,
        }
    }

    #[tokio::test]
    async fn joins_are_noted_by_server_and_forgotten() {
        each_backend(|db| async move {
            let store = db.store().await;
            for row in [
                row("@a:x", "y", 1),
                row("@a:x", "z", 3),
                row("@b:x", "y", 2),
                row("@a:x", "y", 4),
            ] {
                store.begin_remote_join(row).await.expect("noted");
            }
            let all = store.remote_joins(9, 10).await.expect("read");
            assert_eq!(all, [row("@b:x", "y", 2), row("@a:x", "z", 3), row("@a:x", "y", 4)]);
            assert_eq!(store.remote_joins(4, 1).await.expect("read"), [row("@b:x", "y", 2)]);
            store
                .end_remote_join("!r:y", "@a:x", Some("z"))
                .await
                .expect("forgotten");
            assert_eq!(store.remote_joins(9, 10).await.expect("read").len(), 2);
            store.begin_remote_join(row("@a:x", "z", 5)).await.expect("noted");
            store.end_remote_join("!r:y", "@a:x", None).await.expect("forgotten");
            assert_eq!(store.remote_joins(9, 10).await.expect("read"), [row("@b:x", "y", 2)]);
        })
        .await;
    }
}
