//! Lists of rooms in any order, and blocked rooms.

use super::{Run, Slice, Store, holding, params, tristate};
use crate::store::Backend;
use crate::{blocked_room, error::StoreError};

/// Which rooms to list.
#[derive(Clone, Debug, Default)]
pub struct RoomFilter<'a> {
    /// A part of the name, the canonical alias or the room id.
    pub term: Option<&'a str>,
    /// Only rooms of the directory, or none of them.
    pub public: Option<bool>,
    /// Only rooms that no local user is joined to, or none of them.
    pub empty: Option<bool>,
}

/// What a list of rooms is ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoomOrder {
    /// Its name.
    #[default]
    Name,
    /// Its canonical alias.
    CanonicalAlias,
    /// How many are joined.
    JoinedMembers,
    /// How many local users are joined.
    JoinedLocalMembers,
    /// The room version.
    Version,
    /// Who made it.
    Creator,
    /// The algorithm of its encryption.
    Encryption,
    /// Whether other servers may join.
    Federatable,
    /// Whether the directory lists it.
    Public,
    /// Who may join.
    JoinRules,
    /// Whether guests may join.
    GuestAccess,
    /// Who sees its history.
    HistoryVisibility,
    /// How many entries its state has.
    StateEvents,
}

impl RoomOrder {
    fn expression(self, db: Backend) -> String {
        let text = |kind: &str, field: &str| format!("COALESCE({}, '')", state_text(db, kind, field));
        match self {
            Self::Name => format!("LOWER({})", text("m.room.name", "name")),
            Self::CanonicalAlias => text("m.room.canonical_alias", "alias"),
            Self::JoinedMembers => JOINED.to_owned(),
            Self::JoinedLocalMembers => LOCAL.to_owned(),
            Self::Version => "r.version".to_owned(),
            Self::Creator => "r.creator".to_owned(),
            Self::Encryption => text("m.room.encryption", "algorithm"),
            Self::Federatable => text("m.room.create", "m.federate"),
            Self::Public => PUBLIC.to_owned(),
            Self::JoinRules => text("m.room.join_rules", "join_rule"),
            Self::GuestAccess => text("m.room.guest_access", "guest_access"),
            Self::HistoryVisibility => text("m.room.history_visibility", "history_visibility"),
            Self::StateEvents => STATE.to_owned(),
        }
    }
}

/// How many are joined.
const JOINED: &str = "(SELECT COUNT(*) FROM membership m WHERE m.room_nid = r.nid AND m.membership = 'join')";
/// How many local users are joined; `$4` is the pattern of their ids.
const LOCAL: &str = "(SELECT COUNT(*) FROM membership m WHERE m.room_nid = r.nid AND m.membership = 'join' \
                     AND m.user_id LIKE $4)";
const PUBLIC: &str = "EXISTS (SELECT 1 FROM public_room p WHERE p.room_id = r.room_id)";
const STATE: &str = "(SELECT COUNT(*) FROM current_state c WHERE c.room_nid = r.nid)";

/// A text in the current state of room `r`, NULL where there is none.
fn state_text(db: Backend, kind: &str, field: &str) -> String {
    let content = db.content_text("e.json", field);
    format!(
        "(SELECT {content} FROM current_state c JOIN event e ON e.nid = c.event_nid \
         WHERE c.room_nid = r.nid AND c.type = '{kind}' AND c.state_key = '')"
    )
}

/// One room of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRoom {
    /// Its number.
    pub nid: i64,
    /// Its id.
    pub room_id: String,
    /// Its version.
    pub version: String,
    /// Who made it.
    pub creator: String,
    /// How many are joined.
    pub joined: i64,
    /// How many local users are joined.
    pub joined_local: i64,
    /// How many entries its state has.
    pub state_events: i64,
    /// Whether the directory lists it.
    pub public: bool,
}

impl Backend {
    /// A member of the content of an event's JSON, as text; NULL where it is missing or cannot be stored as one.
    pub(super) fn content_text(self, column: &str, field: &str) -> String {
        let text = match self {
            Self::Postgres => format!("({column}::json -> 'content' ->> '{field}')"),
            Self::Sqlite => format!("({column} ->> '$.content.\"{field}\"')"),
        };
        format!("(CASE WHEN {column} LIKE '%\\u0000%' ESCAPE '!' THEN NULL ELSE {text} END)")
    }
}

impl Store {
    /// A part of the list of rooms that this server has a state of, and how many the whole has.
    pub async fn list_rooms(
        &self,
        server: &str,
        filter: &RoomFilter<'_>,
        order: RoomOrder,
        slice: Slice,
    ) -> Result<(Vec<ListedRoom>, i64), StoreError> {
        let db = self.backend();
        let name = state_text(db, "m.room.name", "name");
        let alias = state_text(db, "m.room.canonical_alias", "alias");
        let condition = format!(
            "FROM room r JOIN room_head h ON h.room_nid = r.nid \
             WHERE ($1 = '' OR LOWER(r.room_id) LIKE $1 ESCAPE '\\' OR LOWER({name}) LIKE $1 ESCAPE '\\' \
             OR LOWER({alias}) LIKE $1 ESCAPE '\\') \
             AND ($2 < 0 OR {PUBLIC} = ($2 = 1)) AND ($3 < 0 OR ({LOCAL} = 0) = ($3 = 1))"
        );
        let values = || {
            params![
                holding(filter.term),
                tristate(filter.public),
                tristate(filter.empty),
                format!("%:{server}")
            ]
        };
        let total: Option<i64> = self
            .reader()
            .scalar(&format!("SELECT COUNT(*) {condition}"), values())
            .await?;
        let (expression, direction) = (order.expression(db), slice.direction());
        let sql = format!(
            "SELECT r.nid, r.room_id, r.version, r.creator, {JOINED}, {LOCAL}, {STATE}, {PUBLIC} {condition} \
             ORDER BY {expression} {direction}, r.nid LIMIT $5 OFFSET $6"
        );
        let mut all = values();
        all.extend(params![slice.limit, slice.from]);
        let rows = self.reader().rows(&sql, all).await?;
        let one = |row: &sea_orm::QueryResult| {
            Ok(ListedRoom {
                nid: row.try_get_by_index(0)?,
                room_id: row.try_get_by_index(1)?,
                version: row.try_get_by_index(2)?,
                creator: row.try_get_by_index(3)?,
                joined: row.try_get_by_index(4)?,
                joined_local: row.try_get_by_index(5)?,
                state_events: row.try_get_by_index(6)?,
                public: row.try_get_by_index(7)?,
            })
        };
        let rooms: Result<Vec<_>, StoreError> = rows.iter().map(one).collect();
        Ok((rooms?, total.unwrap_or(0)))
    }

    /// Whether every local user who ever was in a room has forgotten it.
    pub async fn is_forgotten_by_all(&self, room_nid: i64, server: &str) -> Result<bool, StoreError> {
        let sql =
            "SELECT user_id FROM membership WHERE room_nid = $1 AND user_id LIKE $2 AND forgotten = FALSE LIMIT 1";
        let found: Option<String> = self
            .reader()
            .scalar(sql, params![room_nid, format!("%:{server}")])
            .await?;
        Ok(found.is_none())
    }

    /// How many devices some users have.
    pub async fn count_devices<S: AsRef<str> + Sync>(&self, users: &[S]) -> Result<i64, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT COUNT(*) FROM device WHERE user_id {}", db.any(1));
        let count: Option<i64> = self.reader().scalar(&sql, params![db.texts(users)]).await?;
        Ok(count.unwrap_or(0))
    }

    /// Why and by whom a room is blocked.
    pub async fn blocked_room(&self, room_id: &str) -> Result<Option<blocked_room::Model>, StoreError> {
        let sql = "SELECT * FROM blocked_room WHERE room_id = $1";
        self.reader().one(sql, params![room_id]).await
    }

    /// Keeps local users out of a room; who blocked it first stays.
    pub async fn block_room(&self, row: &blocked_room::Model) -> Result<(), StoreError> {
        self.writer()
            .insert_new::<blocked_room::Entity>(std::slice::from_ref(row))
            .await
            .map(|_| ())
    }

    /// Lets local users into a room again.
    pub async fn unblock_room(&self, room_id: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM blocked_room WHERE room_id = $1";
        self.writer().exec(sql, params![room_id]).await.map(|_| ())
    }
}
