//! A cross-signing key of a user of another server.

use sea_orm::entity::prelude::*;

/// A row of `remote_cross_signing_key`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "remote_cross_signing_key")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    /// master or self_signing
    #[sea_orm(primary_key, auto_increment = false)]
    pub usage: String,
    pub json: String,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
