//! Events of ours that a server still has to get: those of one room in a range of positions.

use sea_orm::entity::prelude::*;

/// A row of `destination_room`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "destination_room")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub server_name: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub room_nid: i64,
    pub first_pos: i64,
    pub last_pos: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
