//! The end-to-end tests: the real server, driven by a real client and killed under load.

// The client library's futures are nested deeply.
#![recursion_limit = "512"]

mod conversation;
mod keys;
mod kill;
mod recovery;
