//! The newest receipt of a user in a room, by type and thread.

use sea_orm::entity::prelude::*;

/// A row of `receipt`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "receipt")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub room_nid: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub receipt_type: String,
    /// '' for unthreaded.
    #[sea_orm(primary_key, auto_increment = false)]
    pub thread_id: String,
    pub event_id: String,
    /// The position of the event the receipt points at, 0 where unknown.
    pub event_pos: i64,
    pub ts: i64,
    pub pos: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
