//! Handshakes of server `y` with server `x`, through a whole hub.

mod invite;
mod join;
mod leave;
mod restricted;
mod third_party;
mod world;
