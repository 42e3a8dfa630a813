//! Local users: one actor each, with the user's devices.

pub mod account;
pub mod backup;
pub mod commands;
pub mod data;
pub mod devices;
pub mod keys;
pub mod lease;
pub mod sync;
pub mod to_device;
pub mod view;
