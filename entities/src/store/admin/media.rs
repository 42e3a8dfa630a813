//! Media as administrators list, quarantine and delete them.

use super::{Run, Slice, Store, params};
use crate::{error::StoreError, media, media_thumbnail, protected_media, quarantine_change};

/// What a list of a user's media is ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaOrder {
    /// The id.
    Id,
    /// The file's name.
    UploadName,
    /// When it was uploaded.
    #[default]
    Created,
    /// When it was last read.
    LastAccess,
    /// Bytes.
    Length,
    /// The media type.
    Type,
    /// Quarantined ones.
    Quarantined,
    /// Protected ones.
    Safe,
}

impl MediaOrder {
    fn column(self) -> &'static str {
        match self {
            Self::Id => "media_id",
            Self::UploadName => "COALESCE(upload_name, '')",
            Self::Created => "created_ts",
            Self::LastAccess => "last_access_ts",
            Self::Length => "size_bytes",
            Self::Type => "COALESCE(content_type, '')",
            Self::Quarantined => "COALESCE(quarantined_by, '')",
            Self::Safe => "EXISTS (SELECT 1 FROM protected_media p WHERE p.media_id = media.media_id)",
        }
    }
}

impl Store {
    /// A part of the list of a user's media, and how many the whole has.
    pub async fn media_of_user(
        &self,
        user_id: &str,
        order: MediaOrder,
        slice: Slice,
    ) -> Result<(Vec<media::Model>, i64), StoreError> {
        let count = "SELECT COUNT(*) FROM media WHERE user_id = $1 AND state = 'stored'";
        let total: Option<i64> = self.reader().scalar(count, params![user_id]).await?;
        let (column, direction) = (order.column(), slice.direction());
        let sql = format!(
            "SELECT * FROM media WHERE user_id = $1 AND state = 'stored' ORDER BY {column} {direction}, media_id \
             LIMIT $2 OFFSET $3"
        );
        let rows = self
            .reader()
            .all(&sql, params![user_id, slice.limit, slice.from])
            .await?;
        Ok((rows, total.unwrap_or(0)))
    }

    /// Local media from before a time (Unix milliseconds) that were not read since and are larger than `above` bytes; those
    /// that profiles and rooms show are left out where `keep_profiles`.
    pub async fn old_local_media(
        &self,
        server: &str,
        before: i64,
        above: i64,
        keep_profiles: bool,
        limit: i64,
    ) -> Result<Vec<media::Model>, StoreError> {
        let content = self.backend().content_text("e.json", "url");
        let sql = format!(
            "SELECT * FROM media WHERE origin = $1 AND state = 'stored' AND created_ts < $2 AND last_access_ts < $2 \
             AND size_bytes > $3 AND ($4 = 0 OR (NOT EXISTS (SELECT 1 FROM profile_field f WHERE f.name = 'avatar_url' \
             AND f.value = '\"mxc://' || $1 || '/' || media.media_id || '\"') AND NOT EXISTS (SELECT 1 FROM current_state c \
             JOIN event e ON e.nid = c.event_nid WHERE c.type = 'm.room.avatar' AND c.state_key = '' \
             AND {content} = 'mxc://' || $1 || '/' || media.media_id))) ORDER BY media_id LIMIT $5"
        );
        let values = params![server, before, above, i64::from(keep_profiles), limit];
        self.reader().all(&sql, values).await
    }

    /// Other servers' media that were not read since a time, Unix milliseconds.
    pub async fn old_remote_media(
        &self,
        server: &str,
        before: i64,
        limit: i64,
    ) -> Result<Vec<media::Model>, StoreError> {
        let sql = "SELECT * FROM media WHERE origin <> $1 AND state = 'stored' AND last_access_ts < $2 \
                   AND quarantined_by IS NULL ORDER BY origin, media_id LIMIT $3";
        self.reader().all(sql, params![server, before, limit]).await
    }

    /// Notes when media was read, Unix milliseconds.
    pub async fn touch_media(&self, origin: &str, media_id: &str, ts: i64) -> Result<(), StoreError> {
        let sql = "UPDATE media SET last_access_ts = $3 WHERE origin = $1 AND media_id = $2 AND last_access_ts < $3";
        self.writer().exec(sql, params![origin, media_id, ts]).await.map(|_| ())
    }

    /// Deletes what is stored about a piece of media; the answer is its thumbnails.
    pub async fn delete_media(&self, origin: &str, media_id: &str) -> Result<Vec<media_thumbnail::Model>, StoreError> {
        let tx = self.begin().await?;
        let sql = "DELETE FROM media_thumbnail WHERE origin = $1 AND media_id = $2 RETURNING *";
        let thumbnails = tx.all(sql, params![origin, media_id]).await?;
        let sql = "DELETE FROM media WHERE origin = $1 AND media_id = $2";
        tx.exec(sql, params![origin, media_id]).await?;
        tx.commit().await?;
        Ok(thumbnails)
    }

    /// Takes media into quarantine (`by` an administrator) or out of it (`None`), and notes each change; `id` numbers the
    /// first of them. Protected media stay. Answers how many changed.
    pub async fn quarantine(
        &self,
        media: &[(String, String)],
        by: Option<&str>,
        admin: &str,
        id: i64,
        now: i64,
    ) -> Result<u64, StoreError> {
        let tx = self.begin().await?;
        let sql = "UPDATE media SET quarantined_by = $3 WHERE origin = $1 AND media_id = $2 \
                   AND (quarantined_by IS NULL) = ($4 = 1) \
                   AND ($4 = 0 OR NOT EXISTS (SELECT 1 FROM protected_media p WHERE p.media_id = media.media_id))";
        let mut changes = Vec::new();
        for (number, (origin, media_id)) in media.iter().enumerate() {
            let values = params![
                origin.as_str(),
                media_id.as_str(),
                by.map(str::to_owned),
                i64::from(by.is_some())
            ];
            if tx.exec(sql, values).await? == 1 {
                changes.push(quarantine_change::Model {
                    id: id + i64::try_from(number).unwrap_or(0),
                    origin: origin.clone(),
                    media_id: media_id.clone(),
                    quarantined: by.is_some(),
                    changed_by: admin.to_owned(),
                    ts: now,
                });
            }
        }
        tx.insert::<quarantine_change::Entity>(&changes).await?;
        tx.commit().await?;
        Ok(changes.len() as u64)
    }

    /// Changes of quarantine behind one with number `after`, oldest first.
    pub async fn quarantine_changes(
        &self,
        after: i64,
        limit: i64,
    ) -> Result<Vec<quarantine_change::Model>, StoreError> {
        let sql = "SELECT * FROM quarantine_change WHERE id > $1 ORDER BY id LIMIT $2";
        self.reader().all(sql, params![after, limit]).await
    }

    /// The ids of all media of a user.
    pub async fn media_ids_of_user(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT media_id FROM media WHERE user_id = $1 AND state = 'stored' ORDER BY media_id";
        self.reader().column(sql, params![user_id]).await
    }

    /// Whether no quarantine takes it.
    pub async fn is_protected(&self, media_id: &str) -> Result<bool, StoreError> {
        let sql = "SELECT media_id FROM protected_media WHERE media_id = $1";
        let found: Option<String> = self.reader().scalar(sql, params![media_id]).await?;
        Ok(found.is_some())
    }

    /// Whether no quarantine is to take it.
    pub async fn protect_media(&self, media_id: &str, protected: bool) -> Result<(), StoreError> {
        if protected {
            let row = protected_media::Model {
                media_id: media_id.to_owned(),
            };
            self.writer().insert_new::<protected_media::Entity>(&[row]).await?;
        } else {
            let sql = "DELETE FROM protected_media WHERE media_id = $1";
            self.writer().exec(sql, params![media_id]).await?;
        }
        Ok(())
    }

    /// A part of a room's events that mention media: `(position, JSON text)`, newest first.
    pub async fn texts_with_media(
        &self,
        room_nid: i64,
        below: i64,
        limit: i64,
    ) -> Result<Vec<(i64, String)>, StoreError> {
        let sql = "SELECT pos, json FROM event WHERE room_nid = $1 AND pos < $2 AND json LIKE '%mxc://%' \
                   ORDER BY pos DESC LIMIT $3";
        let rows = self.reader().rows(sql, params![room_nid, below, limit]).await?;
        rows.iter()
            .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
            .collect()
    }
}
