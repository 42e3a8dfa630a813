//! Media and thumbnails: what is stored about the files, not the files.

use super::{Run, Store, params};
use crate::error::StoreError;
use crate::{media, media_thumbnail};

impl Store {
    /// One piece of media.
    pub async fn media(&self, origin: &str, media_id: &str) -> Result<Option<media::Model>, StoreError> {
        let sql = "SELECT * FROM media WHERE origin = $1 AND media_id = $2";
        self.reader().one(sql, params![origin, media_id]).await
    }

    /// Adds a piece of media, reserved or stored.
    pub async fn insert_media(&self, row: &media::Model) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        tx.insert::<media::Entity>(std::slice::from_ref(row)).await?;
        tx.commit().await
    }

    /// Turns a reservation into stored media. False when there is none of this user that is still empty.
    pub async fn fill_media(&self, row: &media::Model) -> Result<bool, StoreError> {
        let sql = "UPDATE media SET content_type = $3, upload_name = $4, size_bytes = $5, sha256 = $6, state = 'stored' \
                   WHERE origin = $1 AND media_id = $2 AND user_id = $7 AND state = 'reserved'";
        let values = params![
            row.origin.as_str(),
            row.media_id.as_str(),
            row.content_type.clone(),
            row.upload_name.clone(),
            row.size_bytes,
            row.sha256.clone(),
            row.user_id.clone()
        ];
        Ok(self.writer().exec(sql, values).await? == 1)
    }

    /// How many addresses a user has reserved since `since` (Unix milliseconds) and not used.
    pub async fn pending_media(&self, user_id: &str, since: i64) -> Result<i64, StoreError> {
        let sql = "SELECT COUNT(*) FROM media WHERE user_id = $1 AND state = 'reserved' AND created_ts > $2";
        let count: Option<i64> = self.reader().scalar(sql, params![user_id, since]).await?;
        Ok(count.unwrap_or(0))
    }

    /// Forgets addresses that were reserved before `ts` (Unix milliseconds) and never used. Tells how many.
    pub async fn prune_reservations(&self, ts: i64) -> Result<u64, StoreError> {
        let sql = "DELETE FROM media WHERE state = 'reserved' AND created_ts < $1";
        self.writer().exec(sql, params![ts]).await
    }

    /// The thumbnails of a piece of media.
    pub async fn thumbnails(&self, origin: &str, media_id: &str) -> Result<Vec<media_thumbnail::Model>, StoreError> {
        let sql = "SELECT * FROM media_thumbnail WHERE origin = $1 AND media_id = $2";
        self.reader().all(sql, params![origin, media_id]).await
    }

    /// Adds or replaces a thumbnail.
    pub async fn put_thumbnail(&self, row: &media_thumbnail::Model) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        tx.upsert::<media_thumbnail::Entity>(std::slice::from_ref(row)).await?;
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_backend;

    #[tokio::test]
    async fn only_old_addresses_without_media_are_forgotten() {
        each_backend(|db| async move {
            let store = &db.store().await;
            for (id, state, created_ts) in [("old", "reserved", 5), ("new", "reserved", 9), ("full", "stored", 5)] {
                let row = media::Model {
                    origin: "hs".to_owned(),
                    media_id: id.to_owned(),
                    user_id: Some("@a:hs".to_owned()),
                    content_type: None,
                    upload_name: None,
                    size_bytes: 0,
                    sha256: None,
                    state: state.to_owned(),
                    created_ts,
                    last_access_ts: created_ts,
                    quarantined_by: None,
                };
                store.insert_media(&row).await.expect("inserted");
            }
            assert_eq!(store.prune_reservations(9).await, Ok(1));
            assert_eq!(store.media("hs", "old").await, Ok(None));
            for id in ["new", "full"] {
                assert!(store.media("hs", id).await.expect("read").is_some(), "{id}");
            }
        })
        .await;
    }
}
