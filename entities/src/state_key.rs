//! An interned pair of event type and state key.

use sea_orm::entity::prelude::*;

/// A row of `state_key`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "state_key")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub nid: i64,
    pub r#type: String,
    pub state_key: String,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
