//! The tables and the only place that speaks SQL.

pub mod access_token;
pub mod account_data;
pub mod consumer_cursor;
pub mod cross_signing_key;
pub mod current_state;
pub mod dehydrated_device;
pub mod device;
pub mod device_key;
pub mod device_list_change;
pub mod error;
pub mod event;
pub mod event_report;
pub mod fallback_key;
pub mod filter;
pub mod ids;
pub mod journal_head;
pub mod key_backup;
pub mod key_backup_session;
pub mod key_signature;
pub mod media;
pub mod media_thumbnail;
pub mod membership;
pub mod one_time_key;
pub mod presence;
pub mod profile_field;
pub mod public_room;
pub mod pusher;
pub mod receipt;
pub mod refresh_token;
pub mod registration_token;
pub mod room;
pub mod room_alias;
pub mod room_head;
pub mod short_token;
pub mod state_group;
pub mod state_key;
pub mod store;
pub mod stream_block;
pub mod stripped_state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod to_device;
pub mod to_device_txn;
pub mod user;

#[cfg(test)]
mod schema_tests;
