//! A device without a session (MSC3814).

use sea_orm::entity::prelude::*;

/// A row of `dehydrated_device`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "dehydrated_device")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    pub device_id: String,
    /// Encrypted by the client; JSON.
    pub device_data: String,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
