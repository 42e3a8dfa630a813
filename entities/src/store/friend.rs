//! Friends: halves of friendships, which sessions write through the journal.

use super::{Run, Store, params};
use crate::{error::StoreError, friend};

impl Store {
    /// One user's half.
    pub async fn friend(&self, user_id: &str, friend_id: &str) -> Result<Option<friend::Model>, StoreError> {
        let sql = "SELECT * FROM friend WHERE user_id = $1 AND friend_id = $2";
        self.reader().one(sql, params![user_id, friend_id]).await
    }

    /// A user's halves that are of any consequence, by name.
    pub async fn friends(&self, user_id: &str) -> Result<Vec<friend::Model>, StoreError> {
        let sql =
            "SELECT * FROM friend WHERE user_id = $1 AND (own_wants = TRUE OR their_wants = TRUE) ORDER BY friend_id";
        self.reader().all(sql, params![user_id]).await
    }

    /// Halves of users who wait for a user of another server to accept; at most 10,000.
    pub async fn friends_asked_at(&self, server: &str) -> Result<Vec<friend::Model>, StoreError> {
        let sql = "SELECT * FROM friend WHERE own_wants = TRUE AND since_ts = 0 AND friend_id LIKE $1 \
                   ORDER BY user_id, friend_id LIMIT 10000";
        self.reader().all(sql, params![format!("%:{server}")]).await
    }

    /// Halves with something left to be done, from the one after `(user_id, friend_id)` on.
    pub async fn friends_due(&self, after: (&str, &str), limit: u32) -> Result<Vec<friend::Model>, StoreError> {
        let sql =
            "SELECT * FROM friend WHERE due AND (user_id, friend_id) > ($1, $2) ORDER BY user_id, friend_id LIMIT $3";
        self.reader()
            .all(sql, params![after.0, after.1, i64::from(limit)])
            .await
    }

    /// Halves of deactivated users who still are somebody's friend.
    pub async fn friends_of_deactivated(&self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT f.user_id FROM friend f JOIN \"user\" u ON u.user_id = f.user_id \
                   WHERE u.deactivated = TRUE AND (f.own_wants = TRUE OR f.their_wants = TRUE)";
        self.reader().column(sql, params![]).await
    }

    /// Deletes halves that nothing hangs on and that both sides have known to be so since before a time. A stance that is
    /// late by more than that would count again.
    pub async fn prune_friends(&self, before_ts: i64) -> Result<u64, StoreError> {
        let sql = "DELETE FROM friend WHERE own_wants = FALSE AND their_wants = FALSE AND room_id IS NULL \
                   AND due = FALSE AND own_ts < $1 AND their_ts < $1";
        self.writer().exec(sql, params![before_ts]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{journal::Head, rows::Rows},
        testing::each_backend,
    };

    fn half(user: &str, friend: &str) -> friend::Model {
        friend::Model {
            user_id: user.to_owned(),
            friend_id: friend.to_owned(),
            own_seq: 1,
            own_wants: true,
            own_answers: 0,
            own_voids: 0,
            own_message: Some("hello".to_owned()),
            own_ts: 5,
            told_seq: 0,
            their_seq: 0,
            their_wants: false,
            their_message: None,
            their_ts: 0,
            their_name: None,
            their_avatar: None,
            since_ts: 0,
            status: "normal".to_owned(),
            note: String::new(),
            room_id: None,
            room_own: false,
            room_used: false,
            old_room_id: None,
            due: true,
        }
    }

    async fn write(store: &Store, head: Head, friends: Vec<friend::Model>) -> Head {
        let rows = Rows {
            friends,
            ..Rows::default()
        };
        let head = Head {
            batch: head.batch + 1,
            ..head
        };
        store.commit_batch(head, &rows, None).await.expect("written");
        head
    }

    #[tokio::test]
    async fn halves_are_found_by_user_and_by_what_is_left_to_do() {
        each_backend(|db| async move {
            let store = db.store().await;
            let head = store.take_epoch().await.expect("an epoch");
            let over = friend::Model {
                own_wants: false,
                due: false,
                ..half("@a:x", "@c:y")
            };
            let all = vec![half("@a:x", "@b:x"), half("@b:x", "@a:x"), over.clone()];
            let head = write(&store, head, all).await;
            assert_eq!(store.friends("@a:x").await, Ok(vec![half("@a:x", "@b:x")]));
            assert_eq!(store.friend("@a:x", "@c:y").await, Ok(Some(over)));
            assert_eq!(store.friends_due(("", ""), 1).await, Ok(vec![half("@a:x", "@b:x")]));
            assert_eq!(
                store.friends_due(("@a:x", "@b:x"), 9).await,
                Ok(vec![half("@b:x", "@a:x")])
            );
            assert_eq!(store.friends_due(("@b:x", "@a:x"), 9).await, Ok(vec![]));

            let settled = friend::Model {
                due: false,
                note: "n".to_owned(),
                ..half("@a:x", "@b:x")
            };
            write(&store, head, vec![half("@a:x", "@b:x"), settled.clone()]).await;
            assert_eq!(
                store.friend("@a:x", "@b:x").await,
                Ok(Some(settled)),
                "the last one counts"
            );
            assert_eq!(store.prune_friends(5).await, Ok(0), "it is not old enough");
            assert_eq!(store.prune_friends(6).await, Ok(1));
            assert_eq!(store.friend("@a:x", "@c:y").await, Ok(None));
        })
        .await;
    }
}
