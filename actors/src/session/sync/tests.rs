//! `/sync` over a whole hub: whatever happens, a client that syncs now and then ends up with what a new one is told, and
//! with or without the feed the answers are the same.

mod actions;
mod client;
mod cost;
mod random;
mod single;
mod world;
