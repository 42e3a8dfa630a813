//! A room whose members are still being fetched (MSC3706).

use sea_orm::entity::prelude::*;

/// A row of `partial_room`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "partial_room")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub room_nid: i64,
    /// The join whose state is incomplete.
    pub event_id: String,
    /// The server that let us in.
    pub via: String,
    /// JSON array: the servers in the room.
    pub servers: String,
    pub started_ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
