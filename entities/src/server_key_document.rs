//! The newest key document of another server, for those who ask this server as a notary.

use sea_orm::entity::prelude::*;

/// A row of `server_key_document`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "server_key_document")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub server_name: String,
    /// With the signatures it came with.
    pub json: String,
    pub valid_until_ts: i64,
    pub fetched_ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
