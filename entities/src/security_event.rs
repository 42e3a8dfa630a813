//! A failed log-in or the like.

use sea_orm::entity::prelude::*;

/// A row of `security_event`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "security_event")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    /// `login_failed`, `login_succeeded`, `token_refused` or `address_refused`
    pub kind: String,
    /// Whom it was about, where that is known.
    pub user_id: Option<String>,
    pub ip: String,
    pub user_agent: Option<String>,
    pub ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
