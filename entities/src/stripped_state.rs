//! The stripped state that came with an invite or knock to a room this server is not in.

use sea_orm::entity::prelude::*;

/// A row of `stripped_state`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "stripped_state")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub room_nid: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    pub events: String,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
