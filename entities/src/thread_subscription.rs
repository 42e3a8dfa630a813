//! Threads that users want to hear of (MSC4306).

use sea_orm::entity::prelude::*;

/// A row of `thread_subscription`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "thread_subscription")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub room_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub root_id: String,
    /// Rows of those who no longer are stay, so that their devices are told.
    pub subscribed: bool,
    /// Whether a mention made it.
    pub automatic: bool,
    /// Events up to here no longer subscribe by themselves; 0 if the user has never unsubscribed.
    pub ended_pos: i64,
    /// Stream position of the last change.
    pub pos: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
