//! Opus in Ogg (RFC 7845).

mod read;
mod write;

pub(crate) use read::{OggOpus, Packets};
pub(crate) use write::OpusSink;

/// Every Opus decoder may run at this rate, and granule positions count in it.
pub(crate) const RATE: u32 = 48_000;
