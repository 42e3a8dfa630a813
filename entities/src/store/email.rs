//! Mail addresses: whose they are, and who is proving that one is theirs.

use super::{Run, Store, params};
use crate::{email_session, error::StoreError, user_email};

impl Store {
    /// Begins a session, or gives the one of the same secret and address another token where `send_attempt` is higher than
    /// before. The answer is the session as it is now.
    pub async fn begin_email_session(&self, new: &email_session::Model) -> Result<email_session::Model, StoreError> {
        let tx = self.begin().await?;
        let sql = "INSERT INTO email_session (sid, client_secret, address, token_hash, send_attempt, next_link, created_ts) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (client_secret, address) DO UPDATE \
                   SET token_hash = excluded.token_hash, send_attempt = excluded.send_attempt, \
                   next_link = excluded.next_link, created_ts = excluded.created_ts \
                   WHERE email_session.send_attempt < excluded.send_attempt AND email_session.validated_ts IS NULL";
        let values = params![
            new.sid.as_str(),
            new.client_secret.as_str(),
            new.address.as_str(),
            new.token_hash.clone(),
            new.send_attempt,
            new.next_link.clone(),
            new.created_ts,
        ];
        tx.exec(sql, values).await?;
        let sql = "SELECT * FROM email_session WHERE client_secret = $1 AND address = $2";
        let secret = params![new.client_secret.as_str(), new.address.as_str()];
        let found = tx.one::<email_session::Model>(sql, secret).await?;
        tx.commit().await?;
        found.ok_or(StoreError::RowsAffected {
            table: "email_session",
            expected: 1,
            actual: 0,
        })
    }

    /// A session by its id.
    pub async fn email_session(&self, sid: &str) -> Result<Option<email_session::Model>, StoreError> {
        let sql = "SELECT * FROM email_session WHERE sid = $1";
        self.reader().one(sql, params![sid]).await
    }

    /// The address is proved to be that of whoever has begun the session.
    pub async fn validate_email(&self, sid: &str, ts: i64) -> Result<(), StoreError> {
        let sql = "UPDATE email_session SET validated_ts = $2 WHERE sid = $1 AND validated_ts IS NULL";
        self.writer().exec(sql, params![sid, ts]).await.map(|_| ())
    }

    /// Forgets a session that has served, or whose mail could not be sent.
    pub async fn end_email_session(&self, sid: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM email_session WHERE sid = $1";
        self.writer().exec(sql, params![sid]).await.map(|_| ())
    }

    /// Forgets sessions begun before `ts`; the answer is how many.
    pub async fn prune_email_sessions(&self, ts: i64) -> Result<u64, StoreError> {
        let sql = "DELETE FROM email_session WHERE created_ts < $1";
        self.writer().exec(sql, params![ts]).await
    }

    /// Whose address it is.
    pub async fn email_owner(&self, address: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT user_id FROM user_email WHERE address = $1";
        self.reader().scalar(sql, params![address]).await
    }

    /// The addresses of a user, oldest first.
    pub async fn emails_of(&self, user_id: &str) -> Result<Vec<user_email::Model>, StoreError> {
        let sql = "SELECT * FROM user_email WHERE user_id = $1 ORDER BY added_ts, address";
        self.reader().all(sql, params![user_id]).await
    }

    /// Gives a user an address; `false` where it is another's. One that is theirs already stays as it is.
    pub async fn add_email(&self, email: &user_email::Model) -> Result<bool, StoreError> {
        let tx = self.begin().await?;
        let sql = "INSERT INTO user_email (address, user_id, validated_ts, added_ts) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (address) DO NOTHING";
        let values = params![
            email.address.as_str(),
            email.user_id.as_str(),
            email.validated_ts,
            email.added_ts
        ];
        tx.exec(sql, values).await?;
        let sql = "SELECT user_id FROM user_email WHERE address = $1";
        let owner = tx.scalar::<String>(sql, params![email.address.as_str()]).await?;
        tx.commit().await?;
        Ok(owner.as_ref() == Some(&email.user_id))
    }

    /// Takes an address from a user; whether they had it.
    pub async fn remove_email(&self, user_id: &str, address: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM user_email WHERE user_id = $1 AND address = $2";
        Ok(self.writer().exec(sql, params![user_id, address]).await? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_backend;

    fn session(sid: &str, attempt: i64, token: u8) -> email_session::Model {
        email_session::Model {
            sid: sid.to_owned(),
            client_secret: "secret".to_owned(),
            address: "a@b.example".to_owned(),
            token_hash: vec![token],
            send_attempt: attempt,
            next_link: None,
            created_ts: 1_000,
            validated_ts: None,
        }
    }

    #[tokio::test]
    async fn a_session_is_begun_once_and_sends_again_on_a_higher_attempt() {
        each_backend(|db| async move {
            let store = db.store().await;
            let first = store.begin_email_session(&session("one", 1, 1)).await.expect("a write");
            assert_eq!((first.sid.as_str(), first.token_hash.as_slice()), ("one", &[1][..]));
            let same = store.begin_email_session(&session("two", 1, 2)).await.expect("a write");
            assert_eq!((same.sid.as_str(), same.token_hash.as_slice()), ("one", &[1][..]));
            let again = store
                .begin_email_session(&session("three", 2, 3))
                .await
                .expect("a write");
            assert_eq!((again.sid.as_str(), again.token_hash.as_slice()), ("one", &[3][..]));
            store.validate_email("one", 2_000).await.expect("a write");
            let proved = store
                .begin_email_session(&session("four", 3, 4))
                .await
                .expect("a write");
            assert_eq!(
                (proved.validated_ts, proved.token_hash.as_slice()),
                (Some(2_000), &[3][..])
            );
            assert_eq!(store.prune_email_sessions(1_000).await, Ok(0));
            assert_eq!(store.prune_email_sessions(1_001).await, Ok(1));
            assert_eq!(store.email_session("one").await, Ok(None));
        })
        .await;
    }

    #[tokio::test]
    async fn an_address_is_one_users() {
        each_backend(|db| async move {
            let store = db.store().await;
            let email = |user: &str| user_email::Model {
                address: "a@b.example".to_owned(),
                user_id: user.to_owned(),
                validated_ts: 1,
                added_ts: 2,
            };
            assert_eq!(store.add_email(&email("@a:x")).await, Ok(true));
            assert_eq!(store.add_email(&email("@a:x")).await, Ok(true));
            assert_eq!(store.add_email(&email("@b:x")).await, Ok(false));
            assert_eq!(store.email_owner("a@b.example").await, Ok(Some("@a:x".to_owned())));
            assert_eq!(store.emails_of("@a:x").await.map(|all| all.len()), Ok(1));
            assert_eq!(store.remove_email("@b:x", "a@b.example").await, Ok(false));
            assert_eq!(store.remove_email("@a:x", "a@b.example").await, Ok(true));
            assert_eq!(store.add_email(&email("@b:x")).await, Ok(true));
        })
        .await;
    }
}
