//! Audio of voice messages: recognised by its bytes, decoded, measured and encoded. Pure functions: no I/O, no clock.
//!
//! Decoding is a stream of short blocks, and whatever works on it takes a block at a time: what lies in memory is the file,
//! what is made of it, and a few blocks. A job looks at its [`Stop`] with every block.
//!
//! | container | codec | read | made |
//! |---|---|---|---|
//! | Ogg | Opus | yes | yes |
//! | Ogg | Vorbis, FLAC | yes | |
//! | MP3 | MPEG layer III | yes | yes |
//! | WAV | PCM | yes | yes |
//! | FLAC | FLAC | yes | |
//! | MP4 (m4a), ADTS | AAC-LC | yes | |
//! | WebM, Matroska | Opus, Vorbis, FLAC | yes | |
//!
//! Opus is RFC 6716 and RFC 7845; loudness is ITU-R BS.1770-4 as used by EBU R128.

mod convert;
mod decode;
mod encode;
mod measure;
mod optimise;
mod remix;
mod silence;
mod sniff;
mod stop;
mod with_symphonia;

pub mod ogg_opus;

#[cfg(test)]
mod convert_tests;
#[cfg(test)]
mod decode_tests;
#[cfg(test)]
mod fixtures_tests;
#[cfg(test)]
mod testing;

pub use convert::{Made, Target, convert};
pub use encode::{Format, MP3_BITRATES, MP3_RATES, OPUS_BITRATE, OPUS_RATES, PCM_RATES};
pub use measure::{Measured, WAVEFORM_FULL, WAVEFORM_LEN, measure};
pub use optimise::{Optimised, Wishes, optimise};
pub use sniff::{Kind, sniff};
pub use stop::Stop;

/// What a stream of samples is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Samples a second of each channel, Hz.
    pub rate: u32,
    /// 1 or 2; what has more is mixed down as it is decoded.
    pub channels: usize,
}

/// What is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Milliseconds.
    pub max_duration_ms: u64,
}

/// Why audio is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudioError {
    /// The bytes begin like nothing that is read here.
    #[error("this is no audio in a format that is accepted here")]
    Unrecognised,
    /// The container is known, what is in it is not.
    #[error("this kind of audio is not accepted here: {0}")]
    Unsupported(String),
    /// Bytes are damaged or missing, or there is no sound in them.
    #[error("the audio is broken: {0}")]
    Broken(String),
    /// It lasts longer than is allowed.
    #[error("the audio is longer than {max_ms} ms")]
    TooLong {
        /// Milliseconds.
        max_ms: u64,
    },
    /// What is asked for cannot be made.
    #[error("{0}")]
    Impossible(String),
    /// Somebody asked the job to stop.
    #[error("stopped")]
    Stopped,
}

/// The result of a job.
pub type Outcome<T> = Result<T, AudioError>;

/// Runs `job` so that a decoder that panics on what it was given refuses it instead.
pub(crate) fn guarded<T>(job: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    // Nothing that the job could leave half done outlives it.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(job))
        .unwrap_or_else(|_| Err(AudioError::Broken("it cannot be decoded".to_owned())))
}

/// Milliseconds of a number of samples.
pub(crate) fn millis(frames: u64, rate: u32) -> u64 {
    (frames.saturating_mul(1_000) + u64::from(rate) / 2) / u64::from(rate.max(1))
}
