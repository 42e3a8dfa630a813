//! What server `y` reads of a room of server `x`, on both databases.

mod access;
mod history;
mod large;
mod state;
mod world;
