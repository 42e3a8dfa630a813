//! A join that was sent to another server and has not brought the room here yet.

use sea_orm::entity::prelude::*;

/// A row of `remote_join`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "remote_join")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub room_id: String,
    /// The local user.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    /// The server that it was sent to.
    #[sea_orm(primary_key, auto_increment = false)]
    pub via: String,
    pub started_ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
