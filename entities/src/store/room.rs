//! Reads of rooms, their newest state and their members.

use sea_orm::{EntityTrait, FromQueryResult, IdenStatic, Iterable};

use super::{Run, Store, params};
use crate::{error::StoreError, event, membership, room, room_head, stripped_state};

impl Store {
    /// A room by its Matrix id.
    pub async fn room_by_id(&self, room_id: &str) -> Result<Option<room::Model>, StoreError> {
        self.reader()
            .one("SELECT * FROM room WHERE room_id = $1", params![room_id])
            .await
    }

    /// Rooms by their Matrix ids, in no order; unknown ones are left out.
    pub async fn rooms_by_id<S: AsRef<str> + Sync>(&self, room_ids: &[S]) -> Result<Vec<room::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM room WHERE room_id {}", db.any(1));
        self.reader().all(&sql, params![db.texts(room_ids)]).await
    }

    /// Rooms by number, in no order; unknown ones are left out.
    pub async fn rooms_by_nid(&self, nids: &[i64]) -> Result<Vec<room::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM room WHERE nid {}", db.any(1));
        self.reader().all(&sql, params![db.ints(nids)]).await
    }

    /// A page of all rooms in the order of their numbers: those above `after`.
    pub async fn rooms_page(&self, after: i64, limit: u32) -> Result<Vec<room::Model>, StoreError> {
        let sql = "SELECT * FROM room WHERE nid > $1 ORDER BY nid LIMIT $2";
        self.reader().all(sql, params![after, i64::from(limit)]).await
    }

    /// The room's forward extremities, newest state group and position.
    pub async fn room_head(&self, room_nid: i64) -> Result<Option<room_head::Model>, StoreError> {
        self.reader()
            .one("SELECT * FROM room_head WHERE room_nid = $1", params![room_nid])
            .await
    }

    /// The heads of several rooms, in no order.
    pub async fn room_heads(&self, room_nids: &[i64]) -> Result<Vec<room_head::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM room_head WHERE room_nid {}", db.any(1));
        self.reader().all(&sql, params![db.ints(room_nids)]).await
    }

    /// The events of the room's newest state, in no order.
    pub async fn current_state_events(&self, room_nid: i64) -> Result<Vec<event::Model>, StoreError> {
        let sql = "SELECT e.* FROM current_state c JOIN event e ON e.nid = c.event_nid WHERE c.room_nid = $1";
        self.reader().all(sql, params![room_nid]).await
    }

    /// The events of the newest state of several rooms with one of the given types and an empty state key, in no order:
    /// names, topics, avatars, join rules … for lists of rooms.
    pub async fn current_state_of_types<S: AsRef<str> + Sync>(
        &self,
        room_nids: &[i64],
        types: &[S],
    ) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT e.* FROM current_state c JOIN event e ON e.nid = c.event_nid \
             WHERE c.room_nid {} AND c.type {} AND c.state_key = ''",
            db.any(1),
            db.any(2)
        );
        self.reader()
            .all(&sql, params![db.ints(room_nids), db.texts(types)])
            .await
    }

    /// All memberships of a room, also of those who left.
    pub async fn memberships_of_room(&self, room_nid: i64) -> Result<Vec<membership::Model>, StoreError> {
        self.reader()
            .all("SELECT * FROM membership WHERE room_nid = $1", params![room_nid])
            .await
    }

    /// One membership.
    pub async fn membership(&self, room_nid: i64, user_id: &str) -> Result<Option<membership::Model>, StoreError> {
        let sql = "SELECT * FROM membership WHERE room_nid = $1 AND user_id = $2";
        self.reader().one(sql, params![room_nid, user_id]).await
    }

    /// The user's memberships (all, or those of the given kinds) with their rooms, in no order. Forgotten rooms are among
    /// them.
    pub async fn memberships_of_user(
        &self,
        user_id: &str,
        memberships: Option<&[&str]>,
    ) -> Result<Vec<(membership::Model, room::Model)>, StoreError> {
        let db = self.backend();
        let (m, r) = (columns::<membership::Entity>("m"), columns::<room::Entity>("r"));
        let mut sql =
            format!("SELECT {m}, {r} FROM membership m JOIN room r ON r.nid = m.room_nid WHERE m.user_id = $1");
        let mut values = params![user_id];
        if let Some(kinds) = memberships {
            sql.push_str(" AND m.membership ");
            sql.push_str(&db.any(2));
            values.push(db.texts(kinds));
        }
        let rows = self.reader().rows(&sql, values).await?;
        let pair = |row| {
            Ok((
                FromQueryResult::from_query_result(row, "m_")?,
                FromQueryResult::from_query_result(row, "r_")?,
            ))
        };
        rows.iter().map(pair).collect()
    }

    /// A user's membership of a room that this server may not be in.
    pub async fn membership_in(&self, room_id: &str, user_id: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT m.membership FROM membership m JOIN room r ON r.nid = m.room_nid \
                   WHERE r.room_id = $1 AND m.user_id = $2";
        self.reader().scalar(sql, params![room_id, user_id]).await
    }

    /// Everybody (local or remote) who is joined to a room the user is joined to, the user included, in no order.
    pub async fn users_sharing_rooms(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT o.user_id FROM membership m JOIN membership o ON o.room_nid = m.room_nid \
                   WHERE m.user_id = $1 AND m.membership = 'join' AND o.membership = 'join'";
        self.reader().column(sql, params![user_id]).await
    }

    /// How many are joined to each of the rooms; a room without any is left out.
    pub async fn joined_counts(&self, room_nids: &[i64]) -> Result<Vec<(i64, i64)>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT room_nid, COUNT(*) FROM membership WHERE room_nid {} AND membership = 'join' GROUP BY room_nid",
            db.any(1)
        );
        let rows = self.reader().rows(&sql, params![db.ints(room_nids)]).await?;
        rows.iter()
            .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
            .collect()
    }

    /// The stripped state that came with the user's invite or knock.
    pub async fn stripped_state(
        &self,
        room_nid: i64,
        user_id: &str,
    ) -> Result<Option<stripped_state::Model>, StoreError> {
        let sql = "SELECT * FROM stripped_state WHERE room_nid = $1 AND user_id = $2";
        self.reader().one(sql, params![room_nid, user_id]).await
    }
}

/// The columns of a table known as `alias` in the statement, named `alias_column`, for joins.
pub(super) fn columns<E: EntityTrait>(alias: &str) -> String {
    let columns: Vec<String> = E::Column::iter()
        .map(|column| {
            let name = column.as_str();
            format!("{alias}.\"{name}\" AS {alias}_{name}")
        })
        .collect();
    columns.join(", ")
}
