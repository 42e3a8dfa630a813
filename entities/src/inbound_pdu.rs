//! An event from elsewhere that was acknowledged and is not yet in its room. Hashes and signatures were checked.

use sea_orm::entity::prelude::*;

/// A row of `inbound_pdu`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "inbound_pdu")]
pub struct Model {
    /// In order of arrival.
    #[sea_orm(primary_key, auto_increment = false)]
    pub nid: i64,
    /// The server that sent it.
    pub origin: String,
    pub room_id: String,
    pub event_id: String,
    /// Redacted if its content hash did not hold.
    pub json: String,
    pub received_ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
