//! A cross-signing public key of a user.

use sea_orm::entity::prelude::*;

/// A row of `cross_signing_key`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "cross_signing_key")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    /// master, self_signing or user_signing
    #[sea_orm(primary_key, auto_increment = false)]
    pub usage: String,
    pub json: String,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
