//! An event (PDU) and where it stands.

use sea_orm::entity::prelude::*;

/// A row of `event`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "event")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub nid: i64,
    pub room_nid: i64,
    pub event_id: String,
    /// Stream position; negative for history fetched later; NULL where no reader may see it (outlier, rejected).
    pub pos: Option<i64>,
    pub depth: i64,
    pub r#type: String,
    pub state_key: Option<String>,
    pub sender: String,
    pub origin_server_ts: i64,
    /// The state group before the event; NULL for outliers.
    pub state_group: Option<i64>,
    /// 0 accepted, 1 soft-failed, 2 rejected, 3 outlier.
    pub status: i16,
    pub redacted_by: Option<String>,
    pub device_id: Option<String>,
    pub txn_id: Option<String>,
    pub relates_to: Option<String>,
    pub rel_type: Option<String>,
    /// What readers get under `unsigned` besides age and transaction id: JSON object with prev_content,
    /// prev_sender, replaces_state; NULL where there is nothing.
    pub unsigned: Option<String>,
    /// The PDU as text, pruned once redacted.
    pub json: String,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
