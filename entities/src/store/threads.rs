//! Threads that users want to hear of; sessions write them through the journal.

use super::{Run, Store, params};
use crate::{error::StoreError, thread_subscription};

impl Store {
    /// What a user has decided about one thread.
    pub async fn thread_subscription(
        &self,
        user_id: &str,
        room_id: &str,
        root_id: &str,
    ) -> Result<Option<thread_subscription::Model>, StoreError> {
        let sql = "SELECT * FROM thread_subscription WHERE user_id = $1 AND room_id = $2 AND root_id = $3";
        self.reader().one(sql, params![user_id, room_id, root_id]).await
    }

    /// How many threads a user has decided about.
    pub async fn count_thread_subscriptions(&self, user_id: &str) -> Result<i64, StoreError> {
        let sql = "SELECT COUNT(*) FROM thread_subscription WHERE user_id = $1";
        Ok(self.reader().scalar(sql, params![user_id]).await?.unwrap_or(0))
    }

    /// The roots of the threads of a room that a user is subscribed to.
    pub async fn subscribed_threads(&self, user_id: &str, room_id: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT root_id FROM thread_subscription WHERE user_id = $1 AND room_id = $2 AND subscribed = TRUE";
        self.reader().column(sql, params![user_id, room_id]).await
    }

    /// What changed in `(after, upto]`, the last change first. Of a thread that changed more than once only the last change
    /// is known.
    pub async fn thread_subscription_changes(
        &self,
        user_id: &str,
        after: i64,
        upto: i64,
        limit: u32,
    ) -> Result<Vec<thread_subscription::Model>, StoreError> {
        let sql = "SELECT * FROM thread_subscription WHERE user_id = $1 AND pos > $2 AND pos <= $3 \
                   ORDER BY pos DESC LIMIT $4";
        let values = params![user_id, after, upto, i64::from(limit)];
        self.reader().all(sql, values).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::rows::Rows, testing::each_backend};

    #[tokio::test]
    async fn the_last_change_of_each_thread_is_told() {
        each_backend(|db| async move {
            let store = db.store().await;
            let mut head = store.take_epoch().await.expect("an epoch");
            let row = |root: &str, subscribed, pos| thread_subscription::Model {
                user_id: "@a:x".to_owned(),
                room_id: "!r:x".to_owned(),
                root_id: root.to_owned(),
                subscribed,
                automatic: false,
                ended_pos: 0,
                pos,
            };
            for change in [row("$1", true, 5), row("$2", true, 6), row("$1", false, 8)] {
                let rows = Rows {
                    thread_subscriptions: vec![change],
                    ..Rows::default()
                };
                head.batch += 1;
                store.commit_batch(head, &rows, None).await.expect("written");
            }
            let changes = store.thread_subscription_changes("@a:x", 0, 9, 9).await;
            assert_eq!(changes, Ok(vec![row("$1", false, 8), row("$2", true, 6)]));
            let changes = store.thread_subscription_changes("@a:x", 6, 9, 9).await;
            assert_eq!(changes, Ok(vec![row("$1", false, 8)]));
            let changes = store.thread_subscription_changes("@a:x", 0, 7, 9).await;
            assert_eq!(changes, Ok(vec![row("$2", true, 6)]));
            assert_eq!(
                store.subscribed_threads("@a:x", "!r:x").await,
                Ok(vec!["$2".to_owned()])
            );
            assert_eq!(store.count_thread_subscriptions("@a:x").await, Ok(2));
            let one = store.thread_subscription("@a:x", "!r:x", "$1").await;
            assert_eq!(one, Ok(Some(row("$1", false, 8))));
        })
        .await;
    }
}
