//! What administrators do: deleting rooms and history, redacting users, giving power away.

pub mod delete_room;
pub mod power;
pub mod purge_history;
pub mod redact_user;
pub mod tasks;
