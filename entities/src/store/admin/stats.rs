//! Figures about the whole server, counted when they are asked for.

use sea_orm::FromQueryResult;

use super::{Run, Slice, Store, holding, params};
use crate::{error::StoreError, store::Backend};

/// How much there is.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct ServerFigures {
    /// Local users that were not deactivated.
    pub users: i64,
    /// All accounts, those that ended too.
    pub accounts: i64,
    /// Rooms that this server has a state of.
    pub rooms: i64,
    /// Messages, encrypted ones too.
    pub messages: i64,
}

/// Media of one user.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct MediaUse {
    /// Whose.
    pub user_id: String,
    /// `displayname` as JSON text.
    pub displayname: Option<String>,
    /// How many.
    pub media_count: i64,
    /// Bytes.
    pub media_length: i64,
}

/// What a list of [`MediaUse`] is ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaUseOrder {
    /// The user id.
    #[default]
    User,
    /// The display name.
    Displayname,
    /// How many.
    Count,
    /// Bytes.
    Length,
}

impl Store {
    /// How much there is.
    pub async fn server_figures(&self) -> Result<ServerFigures, StoreError> {
        let sql = "SELECT (SELECT COUNT(*) FROM \"user\" WHERE deactivated = FALSE) AS users, \
                   (SELECT COUNT(*) FROM \"user\") AS accounts, (SELECT COUNT(*) FROM room_head) AS rooms, \
                   (SELECT COUNT(*) FROM event WHERE pos IS NOT NULL AND type IN ('m.room.message', 'm.room.encrypted')) \
                   AS messages";
        let found = self.reader().one(sql, params![]).await?;
        Ok(found.unwrap_or(ServerFigures {
            users: 0,
            accounts: 0,
            rooms: 0,
            messages: 0,
        }))
    }

    /// How many users have a device that was seen since a time, Unix milliseconds.
    pub async fn users_seen_since(&self, ts: i64) -> Result<i64, StoreError> {
        let sql = "SELECT COUNT(DISTINCT user_id) FROM device WHERE last_seen_ts >= $1";
        Ok(self.reader().scalar(sql, params![ts]).await?.unwrap_or(0))
    }

    /// How many users registered since a time, Unix milliseconds.
    pub async fn users_made_since(&self, ts: i64) -> Result<i64, StoreError> {
        let sql = "SELECT COUNT(*) FROM \"user\" WHERE created_ts >= $1";
        Ok(self.reader().scalar(sql, params![ts]).await?.unwrap_or(0))
    }

    /// How many pieces of media there are and how many bytes they have: local and remote ones.
    pub async fn media_figures(&self, server: &str) -> Result<[(i64, i64); 2], StoreError> {
        let sql = "SELECT COUNT(*), CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM media \
                   WHERE state = 'stored' AND (origin = $1) = ($2 = 1)";
        let mut figures = [(0, 0); 2];
        for (figure, local) in figures.iter_mut().zip([1_i64, 0]) {
            if let Some(row) = self.reader().row(sql, params![server, local]).await? {
                *figure = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            }
        }
        Ok(figures)
    }

    /// A part of the list of users with media, and how many users the whole has.
    pub async fn media_use(
        &self,
        term: Option<&str>,
        span: (i64, i64),
        order: MediaUseOrder,
        slice: Slice,
    ) -> Result<(Vec<MediaUse>, i64), StoreError> {
        let condition = "FROM media m LEFT JOIN profile_field d ON d.user_id = m.user_id AND d.name = 'displayname' \
                         WHERE m.user_id IS NOT NULL AND m.state = 'stored' AND m.created_ts >= $2 AND m.created_ts <= $3 \
                         AND ($1 = '' OR LOWER(m.user_id) LIKE $1 ESCAPE '\\' OR LOWER(d.value) LIKE $1 ESCAPE '\\')";
        let values = || params![holding(term), span.0, span.1];
        let count = format!("SELECT COUNT(DISTINCT m.user_id) {condition}");
        let total: Option<i64> = self.reader().scalar(&count, values()).await?;
        let column = match order {
            MediaUseOrder::User => "m.user_id",
            MediaUseOrder::Displayname => "COALESCE(d.value, '')",
            MediaUseOrder::Count => "COUNT(*)",
            MediaUseOrder::Length => "SUM(m.size_bytes)",
        };
        let sql = format!(
            "SELECT m.user_id, d.value AS displayname, COUNT(*) AS media_count, \
             CAST(SUM(m.size_bytes) AS BIGINT) AS media_length {condition} GROUP BY m.user_id, d.value \
             ORDER BY {column} {}, m.user_id LIMIT $4 OFFSET $5",
            slice.direction()
        );
        let mut all = values();
        all.extend(params![slice.limit, slice.from]);
        Ok((self.reader().all(&sql, all).await?, total.unwrap_or(0)))
    }

    /// The rooms whose events take the most bytes: `(room id, bytes)`.
    pub async fn largest_rooms(&self, limit: i64) -> Result<Vec<(String, i64)>, StoreError> {
        let length = match self.backend() {
            Backend::Postgres => "octet_length",
            Backend::Sqlite => "LENGTH",
        };
        let sql = format!(
            "SELECT r.room_id, CAST(SUM({length}(e.json)) AS BIGINT) AS size FROM event e JOIN room r ON r.nid = e.room_nid \
             GROUP BY r.room_id ORDER BY size DESC, r.room_id LIMIT $1"
        );
        let rows = self.reader().rows(&sql, params![limit]).await?;
        rows.iter()
            .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
            .collect()
    }
}
