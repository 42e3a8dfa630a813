//! Media that was taken into quarantine or out of it.

use sea_orm::entity::prelude::*;

/// A row of `quarantine_change`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "quarantine_change")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub origin: String,
    pub media_id: String,
    pub quarantined: bool,
    pub changed_by: String,
    pub ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
