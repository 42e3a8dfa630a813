//! A voice message.

use sea_orm::entity::prelude::*;

/// A row of `voice_message`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "voice_message")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub message_id: String,
    pub user_id: String,
    pub media_id: String,
    pub room_id: Option<String>,
    pub event_id: Option<String>,
    pub session_id: Option<String>,
    /// The message that this one was made from.
    pub source_id: Option<String>,
    pub content_type: String,
    pub size_bytes: i64,
    pub duration_ms: i64,
    pub sample_rate: i64,
    pub channels: i64,
    /// JSON, integers from 0 to 1024
    pub waveform: String,
    pub created_ts: i64,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
