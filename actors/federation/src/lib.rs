//! The wire to other servers: where they are, what may be connected to, signed requests, and their keys. It knows nothing of
//! rooms and users.

pub mod client;
mod connect;
pub mod discovery;
pub mod error;
pub mod guard;
pub mod keyring;
mod lenient;
pub mod network;
pub mod outbound;
pub mod tls;
mod transport;
mod well_known;
pub mod xmatrix;

#[cfg(test)]
mod testing;

pub use client::{Limits, Tools, Wire, WireRequest, WireSettings};
pub use error::WireError;
pub use keyring::{KeyRing, KeyRingSettings, Keys, OldKey, SignedRequest, Wanted};
pub use outbound::{Outbound, OutboundRequest, OutboundSettings};
pub use transport::{Answer, WireResponse};
