//! Free positions before an event whose parents were not known when it arrived.

use sea_orm::entity::prelude::*;

/// A row of `history_hole`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "history_hole")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub room_nid: i64,
    /// The lowest free position.
    pub low: i64,
    /// One more than the highest free position.
    pub next: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
