//! Events that are sent later (MSC4140).

use sea_orm::entity::prelude::*;

/// A row of `delayed_event`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "delayed_event")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub delay_id: String,
    pub user_id: String,
    pub device_id: String,
    /// Of the request that scheduled it.
    pub txn_id: Option<String>,
    pub room_id: String,
    pub r#type: String,
    /// `None` for messages.
    pub state_key: Option<String>,
    /// JSON.
    pub content: String,
    /// Where the sender may choose.
    pub origin_server_ts: Option<i64>,
    pub delay_ms: i64,
    /// When it was scheduled or restarted.
    pub scheduled_ts: i64,
    /// When it is to be sent, or tried again.
    pub due_ts: i64,
    pub tries: i64,
    /// `None` while it is scheduled.
    pub finalised_ts: Option<i64>,
    /// Once it was sent.
    pub event_id: Option<String>,
    /// JSON: why it could not be sent.
    pub error: Option<String>,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
