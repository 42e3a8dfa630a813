//! A piece of media, local or remote.

use sea_orm::entity::prelude::*;

/// A row of `media`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "media")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub origin: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub media_id: String,
    pub user_id: Option<String>,
    pub content_type: Option<String>,
    pub upload_name: Option<String>,
    pub size_bytes: i64,
    pub sha256: Option<Vec<u8>>,
    /// reserved (POST create, nothing uploaded yet) or stored
    pub state: String,
    pub created_ts: i64,
    pub last_access_ts: i64,
    pub quarantined_by: Option<String>,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
