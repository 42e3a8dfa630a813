//! An address or network that is refused.

use sea_orm::entity::prelude::*;

/// A row of `ip_block`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "ip_block")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub net: String,
    pub reason: Option<String>,
    pub blocked_ts: i64,
    pub blocked_by: String,
    pub expires_ts: Option<i64>,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
