//! What changes with every event of a room.

use sea_orm::entity::prelude::*;

/// A row of `room_head`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "room_head")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub room_nid: i64,
    /// JSON: [[event nid, event id, depth], ...]
    pub extremities: String,
    /// The state group after the newest event.
    pub state_group: i64,
    pub pos: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
