//! Security events and refused addresses.

use sea_orm::FromQueryResult;

use super::{Run, Slice, Store, params};
use crate::{error::StoreError, ip_block, security_event};

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct AddressRecord {
    /// Log-ins that were tried.
    pub login_attempts: i64,
    /// Those with wrong credentials.
    pub failed_logins: i64,
    /// Requests with tokens that are none.
    pub refused_tokens: i64,
    /// Requests while it was blocked.
    pub refused_requests: i64,
    /// The newest of all that, Unix milliseconds.
    pub last_seen: Option<i64>,
}

impl Store {
    /// Keeps security events, and forgets the oldest of more than `keep`.
    pub async fn note_security_events(&self, rows: &[security_event::Model], keep: i64) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        tx.insert::<security_event::Entity>(rows).await?;
        let sql = "DELETE FROM security_event WHERE id <= \
                   (SELECT id FROM security_event ORDER BY id DESC LIMIT 1 OFFSET $1)";
        tx.exec(sql, params![keep]).await?;
        tx.commit().await
    }

    /// A part of the list of security events, newest first, and how many the whole has; empty texts for any.
    pub async fn security_events(
        &self,
        kind: &str,
        ip: &str,
        user_id: &str,
        slice: Slice,
    ) -> Result<(Vec<security_event::Model>, i64), StoreError> {
        let condition = "FROM security_event WHERE ($1 = '' OR kind = $1) AND ($2 = '' OR ip = $2) \
                         AND ($3 = '' OR user_id = $3)";
        let count = format!("SELECT COUNT(*) {condition}");
        let total: Option<i64> = self.reader().scalar(&count, params![kind, ip, user_id]).await?;
        let sql = format!("SELECT * {condition} ORDER BY id DESC LIMIT $4 OFFSET $5");
        let values = params![kind, ip, user_id, slice.limit, slice.from];
        Ok((self.reader().all(&sql, values).await?, total.unwrap_or(0)))
    }

    /// What has come from an address since a time, Unix milliseconds.
    pub async fn address_record(&self, ip: &str, since: i64) -> Result<AddressRecord, StoreError> {
        let count = |kinds: &str| format!("COALESCE(SUM(CASE WHEN kind IN ({kinds}) THEN 1 ELSE 0 END), 0)");
        let sql = format!(
            "SELECT CAST({} AS BIGINT) AS login_attempts, CAST({} AS BIGINT) AS failed_logins, \
             CAST({} AS BIGINT) AS refused_tokens, CAST({} AS BIGINT) AS refused_requests, MAX(ts) AS last_seen \
             FROM security_event WHERE ip = $1 AND ts >= $2",
            count("'login_failed', 'login_succeeded'"),
            count("'login_failed'"),
            count("'token_refused'"),
            count("'address_refused'")
        );
        let found = self.reader().one(&sql, params![ip, since]).await?;
        Ok(found.unwrap_or(AddressRecord {
            login_attempts: 0,
            failed_logins: 0,
            refused_tokens: 0,
            refused_requests: 0,
            last_seen: None,
        }))
    }

    /// When a device was last seen at an address, Unix milliseconds.
    pub async fn address_last_seen(&self, ip: &str) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT MAX(last_seen_ts) FROM device WHERE last_seen_ip = $1";
        let found: Option<Option<i64>> = self.reader().scalar(sql, params![ip]).await?;
        Ok(found.flatten())
    }

    /// Every address and network that is refused.
    pub async fn ip_blocks(&self) -> Result<Vec<ip_block::Model>, StoreError> {
        let sql = "SELECT * FROM ip_block ORDER BY blocked_ts DESC, net";
        self.reader().all(sql, params![]).await
    }

    /// Refuses an address or network from now on.
    pub async fn set_ip_block(&self, row: &ip_block::Model) -> Result<(), StoreError> {
        self.writer()
            .upsert::<ip_block::Entity>(std::slice::from_ref(row))
            .await
            .map(|_| ())
    }

    /// Refuses it no longer; false if it was not refused.
    pub async fn delete_ip_block(&self, net: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM ip_block WHERE net = $1";
        Ok(self.writer().exec(sql, params![net]).await? > 0)
    }

    /// Forgets blocks that have ended.
    pub async fn prune_ip_blocks(&self, now: i64) -> Result<u64, StoreError> {
        let sql = "DELETE FROM ip_block WHERE expires_ts IS NOT NULL AND expires_ts <= $1";
        self.writer().exec(sql, params![now]).await
    }
}
