//! The client-server API, one file per area.

mod media;
mod register;
mod rooms;
