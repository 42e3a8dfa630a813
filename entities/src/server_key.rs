//! A signing key of another server, as it last told (server-server API, "Retrieving server keys").

use sea_orm::entity::prelude::*;

/// A row of `server_key`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "server_key")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub server_name: String,
    /// `ed25519:…`
    #[sea_orm(primary_key, auto_increment = false)]
    pub key_id: String,
    /// 32 bytes.
    pub public_key: Vec<u8>,
    /// Until when signatures by it can be trusted: the document's, or for an old key when it expired.
    pub valid_until_ts: i64,
    /// Listed among the old keys.
    pub expired: bool,
    pub fetched_ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
