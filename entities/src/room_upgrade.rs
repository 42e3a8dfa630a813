//! The upgrade of a room that is under way.

use sea_orm::entity::prelude::*;

/// A row of `room_upgrade`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "room_upgrade")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub old_room_id: String,
    pub new_room_id: String,
    pub user_id: String,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
