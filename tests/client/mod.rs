//! The client-server API, one file per area.

mod account;
mod backup;
mod data;
mod e2ee;
mod login;
mod media;
mod notices;
mod register;
mod rooms;
