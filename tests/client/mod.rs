//! The client-server API, one file per area.

mod account;
mod backup;
mod e2ee;
mod data;
mod login;
mod media;
mod notices;
mod register;
mod rooms;
