//! Somebody who says that a mail address is theirs, and has perhaps proved it.

use sea_orm::entity::prelude::*;

/// A row of `email_session`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "email_session")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub sid: String,
    pub client_secret: String,
    /// In lower case.
    pub address: String,
    /// SHA-256 of the token in the newest mail.
    pub token_hash: Vec<u8>,
    pub send_attempt: i64,
    /// Where the browser goes on afterwards.
    pub next_link: Option<String>,
    pub created_ts: i64,
    /// When the token came back.
    pub validated_ts: Option<i64>,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
