//! Decoding as a stream of blocks.

use crate::ogg_opus::OggOpus;
use crate::with_symphonia::Symphonia;
use crate::{AudioError, Kind, Limits, Outcome, Spec, Stop, sniff};

/// Rates that are read, Hz.
const RATES: std::ops::RangeInclusive<u32> = 4_000..=192_000;
/// Of so many packets one may be undecodable: the first of a cut MP3 leans on one that is not there.
const PACKETS_FOR_ONE_ERROR: u32 = 10;

/// A codec over a container. Blocks are interleaved samples from -1 to 1.
pub(crate) trait Source {
    /// Known once the source is open; it never changes.
    fn spec(&self) -> Spec;
    /// The channels that the file has, before mixing down.
    fn file_channels(&self) -> usize;
    /// Adds the next block to `out`, perhaps an empty one; false at the end.
    fn read(&mut self, out: &mut Vec<f32>) -> Outcome<bool>;
}

/// Counts packets, and refuses files with too many bad ones.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    good: u32,
    bad: u32,
}

impl Tally {
    pub(crate) fn good(&mut self) {
        self.good = self.good.saturating_add(1);
    }

    /// A packet that cannot be decoded.
    pub(crate) fn bad(&mut self, why: &dyn std::fmt::Display) -> Outcome<()> {
        self.bad = self.bad.saturating_add(1);
        if self.bad > 1 + self.good / PACKETS_FOR_ONE_ERROR {
            return Err(AudioError::Broken(why.to_string()));
        }
        Ok(())
    }
}

/// A file that is being decoded.
pub(crate) struct Decoder<'f> {
    source: Box<dyn Source + 'f>,
    kind: Kind,
    frames: u64,
    limits: Limits,
    stop: Stop,
}

impl<'f> Decoder<'f> {
    /// Opens a file whatever it calls itself.
    ///
    /// # Errors
    /// Unrecognised, unsupported or broken.
    pub(crate) fn open(file: &'f [u8], limits: Limits, stop: &Stop) -> Outcome<Self> {
        let kind = sniff(file).ok_or(AudioError::Unrecognised)?;
        let source: Box<dyn Source + 'f> = match kind {
            Kind::OggOpus => Box::new(OggOpus::open(file)?),
            _ => Box::new(Symphonia::open(file)?),
        };
        let rate = source.spec().rate;
        if !RATES.contains(&rate) {
            return Err(AudioError::Unsupported(format!("{rate} samples a second")));
        }
        Ok(Self {
            source,
            kind,
            frames: 0,
            limits,
            stop: stop.clone(),
        })
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn spec(&self) -> Spec {
        self.source.spec()
    }

    pub(crate) fn file_channels(&self) -> usize {
        self.source.file_channels()
    }

    /// Hands every block to `sink`. Answers the number of samples of each channel.
    ///
    /// # Errors
    /// Broken, too long, stopped; whatever the sink refuses.
    pub(crate) fn drain(&mut self, mut sink: impl FnMut(&mut Vec<f32>) -> Outcome<()>) -> Outcome<u64> {
        let Spec { rate, channels } = self.spec();
        let most = self.limits.max_duration_ms.saturating_mul(u64::from(rate)) / 1_000;
        let mut block = Vec::new();
        loop {
            self.stop.check()?;
            block.clear();
            let more = self.source.read(&mut block)?;
            self.frames += (block.len() / channels) as u64;
            if self.frames > most {
                return Err(AudioError::TooLong {
                    max_ms: self.limits.max_duration_ms,
                });
            }
            for sample in &mut block {
                // Damaged floating-point PCM may hold anything.
                *sample = if sample.is_finite() {
                    sample.clamp(-8.0, 8.0)
                } else {
                    0.0
                };
            }
            if !block.is_empty() {
                sink(&mut block)?;
            }
            if !more {
                break;
            }
        }
        match self.frames {
            0 => Err(AudioError::Broken("there is no sound in it".to_owned())),
            frames => Ok(frames),
        }
    }
}
