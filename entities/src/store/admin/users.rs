//! Lists of local users, and what administrators decide about them.

use sea_orm::FromQueryResult;

use super::{Run, Slice, Store, holding, params, tristate};
use crate::{error::StoreError, event, user_override};

/// Which users to list.
#[derive(Clone, Debug, Default)]
pub struct UserFilter<'a> {
    /// A part of the user id.
    pub user_id: Option<&'a str>,
    /// A part of the user id or the display name.
    pub name: Option<&'a str>,
    /// Only guests, or nobody who is one.
    pub guests: Option<bool>,
    /// Only deactivated users, or nobody who is one.
    pub deactivated: Option<bool>,
    /// Only administrators, or nobody who is one.
    pub admins: Option<bool>,
    /// Only locked users, or nobody who is one.
    pub locked: Option<bool>,
}

/// What a list of users is ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserOrder {
    /// The user id.
    #[default]
    Name,
    /// The display name.
    Displayname,
    /// Guests.
    Guest,
    /// Administrators.
    Admin,
    /// The kind of user.
    UserType,
    /// Deactivated ones.
    Deactivated,
    /// Shadow-banned ones.
    ShadowBanned,
    /// The avatar's address.
    AvatarUrl,
    /// When they registered.
    Created,
    /// When they were seen last.
    LastSeen,
    /// Locked ones.
    Locked,
}

impl UserOrder {
    fn column(self) -> &'static str {
        match self {
            Self::Name => "u.user_id",
            Self::Displayname => "COALESCE(d.value, '')",
            Self::Guest => "u.is_guest",
            Self::Admin => "u.is_admin",
            Self::UserType => "COALESCE(o.user_type, '')",
            Self::Deactivated => "u.deactivated",
            Self::ShadowBanned => "COALESCE(o.shadow_banned, FALSE)",
            Self::AvatarUrl => "COALESCE(a.value, '')",
            Self::Created => "u.created_ts",
            Self::LastSeen => "COALESCE(s.last_seen_ts, 0)",
            Self::Locked => "u.locked",
        }
    }
}

/// One user of a list.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct ListedUser {
    /// The user.
    pub user_id: String,
    /// A guest.
    pub is_guest: bool,
    /// An administrator.
    pub is_admin: bool,
    /// Whether the account has ended.
    pub deactivated: bool,
    /// Whether the user wants to be forgotten.
    pub erased: bool,
    /// Whether the account is locked.
    pub locked: bool,
    /// Whether the account is suspended.
    pub suspended: bool,
    /// When it was made, Unix milliseconds.
    pub created_ts: i64,
    /// `displayname` as JSON text.
    pub displayname: Option<String>,
    /// `avatar_url` as JSON text.
    pub avatar_url: Option<String>,
    /// When a device was seen last, Unix milliseconds.
    pub last_seen_ts: Option<i64>,
    /// See [`user_override::Model`].
    pub user_type: Option<String>,
    /// See [`user_override::Model`].
    pub shadow_banned: Option<bool>,
}

const FROM: &str = "FROM \"user\" u \
    LEFT JOIN profile_field d ON d.user_id = u.user_id AND d.name = 'displayname' \
    LEFT JOIN profile_field a ON a.user_id = u.user_id AND a.name = 'avatar_url' \
    LEFT JOIN user_override o ON o.user_id = u.user_id";
const LAST_SEEN: &str = "LEFT JOIN (SELECT user_id, MAX(last_seen_ts) AS last_seen_ts FROM device GROUP BY user_id) s \
    ON s.user_id = u.user_id";
const WHERE: &str = "WHERE ($1 = '' OR LOWER(u.user_id) LIKE $1 ESCAPE '\\') \
    AND ($2 = '' OR LOWER(u.user_id) LIKE $2 ESCAPE '\\' OR LOWER(d.value) LIKE $2 ESCAPE '\\') \
    AND ($3 < 0 OR u.is_guest = ($3 = 1)) AND ($4 < 0 OR u.deactivated = ($4 = 1)) \
    AND ($5 < 0 OR u.is_admin = ($5 = 1)) AND ($6 < 0 OR u.locked = ($6 = 1))";
const COLUMNS: &str = "u.user_id, u.is_guest, u.is_admin, u.deactivated, u.erased, u.locked, u.suspended, u.created_ts, \
    d.value AS displayname, a.value AS avatar_url, s.last_seen_ts, o.user_type, o.shadow_banned";

fn values(filter: &UserFilter<'_>) -> Vec<sea_orm::Value> {
    params![
        holding(filter.user_id),
        holding(filter.name),
        tristate(filter.guests),
        tristate(filter.deactivated),
        tristate(filter.admins),
        tristate(filter.locked)
    ]
}

impl Store {
    /// A part of the list of local users, and how many the whole has.
    pub async fn list_users(
        &self,
        filter: &UserFilter<'_>,
        order: UserOrder,
        slice: Slice,
    ) -> Result<(Vec<ListedUser>, i64), StoreError> {
        let count = format!("SELECT COUNT(*) {FROM} {WHERE}");
        let total: Option<i64> = self.reader().scalar(&count, values(filter)).await?;
        let (column, direction) = (order.column(), slice.direction());
        let sql = format!(
            "SELECT {COLUMNS} {FROM} {LAST_SEEN} {WHERE} ORDER BY {column} {direction}, u.user_id LIMIT $7 OFFSET $8"
        );
        let mut values = values(filter);
        values.extend(params![slice.limit, slice.from]);
        Ok((self.reader().all(&sql, values).await?, total.unwrap_or(0)))
    }

    /// One local user as a list shows it.
    pub async fn listed_user(&self, user_id: &str) -> Result<Option<ListedUser>, StoreError> {
        let sql = format!("SELECT {COLUMNS} {FROM} {LAST_SEEN} WHERE u.user_id = $1");
        self.reader().one(&sql, params![user_id]).await
    }

    /// What administrators have decided about a user.
    pub async fn user_override(&self, user_id: &str) -> Result<Option<user_override::Model>, StoreError> {
        let sql = "SELECT * FROM user_override WHERE user_id = $1";
        self.reader().one(sql, params![user_id]).await
    }

    /// What administrators have decided about anybody.
    pub async fn user_overrides(&self) -> Result<Vec<user_override::Model>, StoreError> {
        self.reader().all("SELECT * FROM user_override", params![]).await
    }

    /// Keeps a decision about a user.
    pub async fn set_user_override(&self, row: &user_override::Model) -> Result<(), StoreError> {
        self.writer()
            .upsert::<user_override::Entity>(std::slice::from_ref(row))
            .await
            .map(|_| ())
    }

    /// How often a user was seen to change to `membership` since a time (Unix milliseconds), each room once where
    /// `each_room_once`. `sent`: changes that the user made to others.
    pub async fn count_membership_changes(
        &self,
        user_id: &str,
        membership: &str,
        since: i64,
        sent: bool,
    ) -> Result<i64, StoreError> {
        let content = self.backend().content_text("json", "membership");
        let (who, what) = match sent {
            true => ("sender", "*"),
            false => ("state_key", "DISTINCT room_nid"),
        };
        let sql = format!(
            "SELECT COUNT({what}) FROM event WHERE {who} = $1 AND type = 'm.room.member' AND pos IS NOT NULL \
             AND origin_server_ts >= $2 AND {content} = $3"
        );
        let count: Option<i64> = self.reader().scalar(&sql, params![user_id, since, membership]).await?;
        Ok(count.unwrap_or(0))
    }

    /// What a user has sent into a room and was not redacted yet, newest first: messages of any kind, and its own memberships.
    pub async fn redactable_events(
        &self,
        room_nid: i64,
        user_id: &str,
        below: i64,
        limit: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let sql = "SELECT * FROM event WHERE room_nid = $1 AND sender = $2 AND pos < $3 AND redacted_by IS NULL \
                   AND status = 0 AND type <> 'm.room.redaction' AND (state_key IS NULL OR type = 'm.room.member') \
                   ORDER BY pos DESC LIMIT $4";
        self.reader()
            .events(sql, params![room_nid, user_id, below, i64::from(limit)])
            .await
    }
}
