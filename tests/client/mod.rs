//! The client-server API, one file per area.

mod account;
mod login;
mod media;
mod register;
mod rooms;
