//! A redaction whose target has not arrived.

use sea_orm::entity::prelude::*;

/// A row of `early_redaction`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "early_redaction")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub room_nid: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub target_event_id: String,
    /// The redaction's event.
    #[sea_orm(primary_key, auto_increment = false)]
    pub redaction_nid: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
