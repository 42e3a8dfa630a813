//! Local users: one actor each, with the user's devices.

pub mod account;
pub mod auth;
pub mod backup;
pub mod commands;
pub mod data;
pub mod devices;
pub mod e2ee;
pub mod email;
pub mod friends;
pub mod handle;
pub mod identity;
pub mod inbox;
pub mod interest;
pub mod keys;
pub mod kind;
pub mod lease;
pub mod load;
pub mod localpart;
pub mod outbound;
pub mod password;
pub mod quota;
pub mod seen;
pub mod shared_secret;
pub mod sync;
pub mod to_device;
pub mod token;
pub mod uia;
pub mod view;

#[cfg(test)]
mod session_tests;
