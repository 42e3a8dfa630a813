//! Access, refresh, short-lived and registration tokens. Except for registration tokens only their SHA-256 is known here.

use super::{Run, Store, Tx, params};
use crate::{access_token, error::StoreError, refresh_token, registration_token, short_token};

impl Store {
    /// An access token by its hash.
    pub async fn access_token(&self, hash: &[u8]) -> Result<Option<access_token::Model>, StoreError> {
        let sql = "SELECT * FROM access_token WHERE token_hash = $1";
        self.reader().one(sql, params![hash.to_vec()]).await
    }

    /// The hashes of all access tokens of a user's devices; of all devices where none is named.
    pub async fn access_token_hashes(
        &self,
        user_id: &str,
        devices: Option<&[String]>,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let Some(devices) = devices else {
            let sql = "SELECT token_hash FROM access_token WHERE user_id = $1";
            return self.reader().column(sql, params![user_id]).await;
        };
        let db = self.backend();
        let sql = format!(
            "SELECT token_hash FROM access_token WHERE user_id = $1 AND device_id {}",
            db.any(2)
        );
        self.reader().column(&sql, params![user_id, db.texts(devices)]).await
    }

    /// Gives a device new tokens; the answer is the hashes of its former access tokens, which are gone.
    pub async fn replace_tokens(
        &self,
        access: &access_token::Model,
        refresh: Option<&refresh_token::Model>,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let tx = self.begin().await?;
        let (user, device) = (access.user_id.as_str(), access.device_id.as_str());
        let sql = "DELETE FROM access_token WHERE user_id = $1 AND device_id = $2 RETURNING token_hash";
        let gone = tx.column(sql, params![user, device]).await?;
        let sql = "DELETE FROM refresh_token WHERE user_id = $1 AND device_id = $2";
        tx.exec(sql, params![user, device]).await?;
        insert_tokens(&tx, access, refresh).await?;
        tx.commit().await?;
        Ok(gone)
    }

    /// When the user proved their password with this access token.
    pub async fn set_token_authed(&self, hash: &[u8], ts: i64) -> Result<(), StoreError> {
        let sql = "UPDATE access_token SET authed_ts = $2 WHERE token_hash = $1";
        self.writer().exec(sql, params![hash.to_vec(), ts]).await.map(|_| ())
    }

    /// A refresh token by its hash.
    pub async fn refresh_token(&self, hash: &[u8]) -> Result<Option<refresh_token::Model>, StoreError> {
        let sql = "SELECT * FROM refresh_token WHERE token_hash = $1";
        self.reader().one(sql, params![hash.to_vec()]).await
    }

    /// The access token that was given out together with a refresh token of this device.
    pub async fn access_token_of_refresh(
        &self,
        user_id: &str,
        device_id: &str,
        refresh_hash: &[u8],
    ) -> Result<Option<access_token::Model>, StoreError> {
        let sql = "SELECT * FROM access_token WHERE user_id = $1 AND device_id = $2 AND refresh_hash = $3";
        self.reader()
            .one(sql, params![user_id, device_id, refresh_hash.to_vec()])
            .await
    }

    /// Whether the pair of tokens with this refresh token replaces one that is still stored.
    pub async fn has_refresh_predecessor(
        &self,
        user_id: &str,
        device_id: &str,
        refresh_hash: &[u8],
    ) -> Result<bool, StoreError> {
        let sql = "SELECT user_id FROM refresh_token WHERE user_id = $1 AND device_id = $2 AND next_hash = $3";
        let values = params![user_id, device_id, refresh_hash.to_vec()];
        let found: Option<String> = self.reader().scalar(sql, values).await?;
        Ok(found.is_some())
    }

    /// The pair of tokens with this refresh token was used: what it replaces is deleted. The answer is the hashes of the
    /// access tokens that are gone.
    pub async fn confirm_refresh(
        &self,
        user_id: &str,
        device_id: &str,
        refresh_hash: &[u8],
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let tx = self.begin().await?;
        let gone = delete_predecessors(&tx, user_id, device_id, refresh_hash).await?;
        tx.commit().await?;
        Ok(gone)
    }

    /// Exchanges a refresh token for a new pair. What it replaced itself is deleted, and so is a former exchange of it that
    /// nobody has used. The answer is the hashes of the access tokens that are gone; `None` if the refresh token is.
    pub async fn exchange_refresh(
        &self,
        old_hash: &[u8],
        access: &access_token::Model,
        refresh: &refresh_token::Model,
    ) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
        let tx = self.begin().await?;
        let old = "SELECT * FROM refresh_token WHERE token_hash = $1";
        let Some(old) = tx.one::<refresh_token::Model>(old, params![old_hash.to_vec()]).await? else {
            tx.rollback().await?;
            return Ok(None);
        };
        let mut gone = delete_predecessors(&tx, &old.user_id, &old.device_id, old_hash).await?;
        if let Some(unused) = &old.next_hash {
            gone.extend(delete_pair(&tx, &old.user_id, &old.device_id, unused).await?);
        }
        let sql = "UPDATE refresh_token SET next_hash = $2 WHERE token_hash = $1";
        let next = refresh.token_hash.clone();
        if tx.exec(sql, params![old_hash.to_vec(), next]).await? == 0 {
            tx.rollback().await?;
            return Ok(None);
        }
        insert_tokens(&tx, access, Some(refresh)).await?;
        tx.commit().await?;
        Ok(Some(gone))
    }

    /// Stores a short-lived token and forgets those that have expired.
    pub async fn create_short_token(&self, token: &short_token::Model, now: i64) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        tx.exec("DELETE FROM short_token WHERE expires_ts < $1", params![now])
            .await?;
        tx.insert::<short_token::Entity>(std::slice::from_ref(token)).await?;
        tx.commit().await
    }

    /// A short-lived token of this kind, expired or not.
    pub async fn short_token(&self, hash: &[u8], kind: &str) -> Result<Option<short_token::Model>, StoreError> {
        let sql = "SELECT * FROM short_token WHERE token_hash = $1 AND kind = $2";
        self.reader().one(sql, params![hash.to_vec(), kind]).await
    }

    /// The same, and deletes it: it serves once.
    pub async fn take_short_token(&self, hash: &[u8], kind: &str) -> Result<Option<short_token::Model>, StoreError> {
        let sql = "DELETE FROM short_token WHERE token_hash = $1 AND kind = $2 RETURNING *";
        self.writer().one(sql, params![hash.to_vec(), kind]).await
    }

    /// A registration token.
    pub async fn registration_token(&self, token: &str) -> Result<Option<registration_token::Model>, StoreError> {
        let sql = "SELECT * FROM registration_token WHERE token = $1";
        self.reader().one(sql, params![token]).await
    }

    /// All registration tokens.
    pub async fn registration_tokens(&self) -> Result<Vec<registration_token::Model>, StoreError> {
        let sql = "SELECT * FROM registration_token ORDER BY token";
        self.reader().all(sql, params![]).await
    }

    /// Adds a registration token; [`StoreError::Duplicate`] if it is there.
    pub async fn create_registration_token(&self, token: &registration_token::Model) -> Result<(), StoreError> {
        self.writer()
            .insert::<registration_token::Entity>(std::slice::from_ref(token))
            .await
            .map(|_| ())
    }

    /// Changes how often and until when a registration token serves; false if there is none.
    pub async fn update_registration_token(
        &self,
        token: &str,
        uses_allowed: Option<i64>,
        expires_ts: Option<i64>,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE registration_token SET uses_allowed = $2, expires_ts = $3 WHERE token = $1";
        let values = params![token, uses_allowed, expires_ts];
        Ok(self.writer().exec(sql, values).await? == 1)
    }

    /// Deletes a registration token; false if there is none.
    pub async fn delete_registration_token(&self, token: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM registration_token WHERE token = $1";
        Ok(self.writer().exec(sql, params![token]).await? == 1)
    }

    /// Counts one registration against a token; false if it does not serve (any more).
    pub async fn use_registration_token(&self, token: &str, now: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE registration_token SET completed = completed + 1 WHERE token = $1 \
                   AND (uses_allowed IS NULL OR completed < uses_allowed) AND (expires_ts IS NULL OR expires_ts > $2)";
        Ok(self.writer().exec(sql, params![token, now]).await? == 1)
    }

    /// Takes back what [`Store::use_registration_token`] counted, when the registration failed after it.
    pub async fn release_registration_token(&self, token: &str) -> Result<(), StoreError> {
        let sql = "UPDATE registration_token SET completed = completed - 1 WHERE token = $1 AND completed > 0";
        self.writer().exec(sql, params![token]).await.map(|_| ())
    }
}

async fn insert_tokens(
    tx: &Tx,
    access: &access_token::Model,
    refresh: Option<&refresh_token::Model>,
) -> Result<(), StoreError> {
    tx.insert::<access_token::Entity>(std::slice::from_ref(access)).await?;
    if let Some(refresh) = refresh {
        tx.insert::<refresh_token::Entity>(std::slice::from_ref(refresh))
            .await?;
    }
    Ok(())
}

/// Deletes the refresh tokens that were exchanged for this one, with their access tokens.
async fn delete_predecessors(tx: &Tx, user: &str, device: &str, hash: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
    let sql = "SELECT token_hash FROM refresh_token WHERE user_id = $1 AND device_id = $2 AND next_hash = $3";
    let former: Vec<Vec<u8>> = tx.column(sql, params![user, device, hash.to_vec()]).await?;
    let mut gone = Vec::new();
    for former in former {
        gone.extend(delete_pair(tx, user, device, &former).await?);
    }
    Ok(gone)
}

/// Deletes a refresh token and the access tokens that came with it.
async fn delete_pair(tx: &Tx, user: &str, device: &str, hash: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
    let sql = "DELETE FROM refresh_token WHERE token_hash = $1";
    tx.exec(sql, params![hash.to_vec()]).await?;
    let sql = "DELETE FROM access_token WHERE user_id = $1 AND device_id = $2 AND refresh_hash = $3 \
               RETURNING token_hash";
    tx.column(sql, params![user, device, hash.to_vec()]).await
}
