//! A one-time key that nobody has claimed yet.

use sea_orm::entity::prelude::*;

/// A row of `one_time_key`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "one_time_key")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub device_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub algorithm: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub key_id: String,
    pub json: String,
    /// Order of upload: keys are issued oldest first (MSC4225).
    pub seq: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
