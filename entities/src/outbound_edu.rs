//! An ephemeral event that must reach a server: written with its cause, deleted once the server has answered.

use sea_orm::entity::prelude::*;

/// A row of `outbound_edu`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outbound_edu")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub pos: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub server_name: String,
    pub edu_type: String,
    /// What its content is made of.
    pub json: String,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
