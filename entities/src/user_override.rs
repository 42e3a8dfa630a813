//! What administrators decide about a local user.

use sea_orm::entity::prelude::*;

/// A row of `user_override`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "user_override")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    /// Instead of the server's rate limits; 0 for none at all.
    pub messages_per_second: Option<i64>,
    pub burst_count: Option<i64>,
    /// What the user sends is acknowledged and dropped.
    pub shadow_banned: bool,
    /// Until when cross-signing keys may be replaced without a password; Unix milliseconds.
    pub cross_signing_until: i64,
    /// `bot`, `support` or any other; `None` for people.
    pub user_type: Option<String>,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
