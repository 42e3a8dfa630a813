//! What is known of the devices of a user of another server.

use sea_orm::entity::prelude::*;

/// A row of `remote_device_list`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "remote_device_list")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    /// Counts what changes about it here.
    pub stream_id: i64,
    /// A change was missed: ask again before use.
    pub stale: bool,
    pub fetched_ts: i64,
    /// The newest update, as its server counts, that is part of it.
    pub remote_id: Option<i64>,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
