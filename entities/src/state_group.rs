//! An immutable state map, stored as a delta to its parent.

use sea_orm::entity::prelude::*;

/// A row of `state_group`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "state_group")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub room_nid: i64,
    pub parent: Option<i64>,
    pub hops: i64,
    /// Sum of the SHA-256 of the full map's entries: finds groups that may be equal after state resolution.
    pub hash: Vec<u8>,
    pub delta: Vec<u8>,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
