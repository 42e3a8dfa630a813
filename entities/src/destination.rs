//! A server that this one talks to, and how that goes.

use sea_orm::entity::prelude::*;

/// A row of `destination`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "destination")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub server_name: String,
    /// The first failure since the last success; NULL while all is well.
    pub failing_since_ts: Option<i64>,
    /// 0: never.
    pub last_try_ts: i64,
    /// How long it is left alone after the last try; 0 while all is well.
    pub retry_interval_ms: i64,
    /// 0: never.
    pub last_success_ts: i64,
    /// The last failure in words.
    pub last_error: Option<String>,
    /// The newest of our events that it has answered for.
    pub last_sent_pos: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
