//! An event that is followed in a room's timeline and not known: where history can be fetched from.

use sea_orm::entity::prelude::*;

/// A row of `backward_extremity`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "backward_extremity")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub room_nid: i64,
    /// The missing event.
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_id: String,
    /// That of an event that follows it.
    pub depth: i64,
    /// The free positions that it belongs in (`history_hole.id`); `None`: the history before everything that is known.
    pub hole: Option<i64>,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
