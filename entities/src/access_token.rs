//! An access token, by its SHA-256.

use sea_orm::entity::prelude::*;

/// A row of `access_token`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "access_token")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub token_hash: Vec<u8>,
    pub user_id: String,
    pub device_id: String,
    /// Unix milliseconds; NULL never expires.
    pub expires_ts: Option<i64>,
    /// When a password was last proved with this token's session.
    pub authed_ts: i64,
    pub refresh_hash: Option<Vec<u8>>,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
