//! A signature one key put on another.

use sea_orm::entity::prelude::*;

/// A row of `key_signature`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "key_signature")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub target_user: String,
    /// A device id or a cross-signing public key.
    #[sea_orm(primary_key, auto_increment = false)]
    pub target_key: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub signer_user: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub signer_key: String,
    pub signature: String,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
