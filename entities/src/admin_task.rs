//! Work that an administrator asked for and that goes on by itself.

use sea_orm::entity::prelude::*;

/// A row of `admin_task`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "admin_task")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// `delete_room`, `purge_history` or `redact_user`
    pub kind: String,
    /// The room or the user.
    pub subject: String,
    /// `active`, `complete` or `failed`
    pub status: String,
    /// JSON: what was asked for and how far it has come.
    pub params: String,
    /// JSON: what has come of it.
    pub result: String,
    /// Why it failed.
    pub error: Option<String>,
    pub created_ts: i64,
    pub updated_ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
