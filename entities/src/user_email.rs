//! A mail address of a local user.

use sea_orm::entity::prelude::*;

/// A row of `user_email`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "user_email")]
pub struct Model {
    /// In lower case.
    #[sea_orm(primary_key, auto_increment = false)]
    pub address: String,
    pub user_id: String,
    pub validated_ts: i64,
    pub added_ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
