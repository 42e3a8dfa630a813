//! The client-server API, one file per area.

mod account;
mod backup;
mod e2ee;
mod login;
mod media;
mod register;
mod rooms;
