//! An event of another server's user that this server let into a room, and passes on like its own.

use sea_orm::entity::prelude::*;

/// A row of `relayed_event`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "relayed_event")]
pub struct Model {
    /// The event's.
    #[sea_orm(primary_key, auto_increment = false)]
    pub pos: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
