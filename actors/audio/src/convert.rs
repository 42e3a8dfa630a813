//! From one format to another.

use crate::decode::Decoder;
use crate::encode::{Encoding, Sink};
use crate::measure::Meter;
use crate::remix::{Resampler, mix};
use crate::{AudioError, Format, Limits, Measured, Outcome, Spec, Stop, guarded, measure};

/// Where nothing else is asked for, bits a second of each channel.
const DEFAULT_OPUS: u32 = 48_000;
const DEFAULT_MP3: u32 = 64_000;

/// What is asked for. What is left open is kept as it is, within the bounds of the format.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The format.
    pub format: Format,
    /// Bits a second; taken to the nearest that the format has.
    pub bitrate: Option<u32>,
    /// Hz, one of [`Format::rates`].
    pub sample_rate: Option<u32>,
    /// 1 or 2.
    pub channels: Option<u32>,
    /// Rate and channels where they are left open: at most these.
    pub most: Spec,
}

/// What was made, and of what.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The file.
    pub file: Vec<u8>,
    /// What it came from.
    pub before: Measured,
    /// What it is, found by decoding it.
    pub after: Measured,
    /// Bits a second that the encoder was asked for; `None` where there is no choice.
    pub bitrate: Option<u32>,
}

/// Encodes a file anew.
///
/// # Errors
/// As [`AudioError`] says.
pub fn convert(file: &[u8], target: Target, limits: Limits, stop: &Stop) -> Outcome<Made> {
    guarded(|| {
        let mut decoder = Decoder::open(file, limits, stop)?;
        let (encoding, bitrate) = target.encoding(decoder.spec())?;
        let mut meter = Meter::new(decoder.spec())?;
        let mut output = Output::open(decoder.spec(), encoding)?;
        decoder.drain(|block| {
            meter.add(block)?;
            output.write(block)
        })?;
        let before = meter.finish(decoder.kind(), decoder.file_channels());
        let file = output.finish()?;
        let after = measure(&file, slack(limits), stop)?;
        Ok(Made {
            file,
            before,
            after,
            bitrate,
        })
    })
}

/// Encoders fill their last frame: what is made may be a little longer than what it was made from.
pub(crate) fn slack(limits: Limits) -> Limits {
    Limits {
        max_duration_ms: limits.max_duration_ms.saturating_add(1_000),
    }
}

impl Target {
    fn encoding(self, source: Spec) -> Outcome<(Encoding, Option<u32>)> {
        let Self { format, most, .. } = self;
        let rate = match self.sample_rate {
            Some(rate) if format.rates().contains(&rate) => rate,
            Some(rate) => return Err(AudioError::Impossible(format!("{} has no {rate} Hz", format.mime()))),
            None => format.rate_for(source.rate.min(most.rate)),
        };
        let channels = match self.channels {
            Some(1) => 1,
            Some(2) => 2,
            Some(other) => return Err(AudioError::Impossible(format!("{other} channels"))),
            None => source.channels.min(most.channels.clamp(1, 2)),
        };
        let each = if format == Format::Mp3 {
            DEFAULT_MP3
        } else {
            DEFAULT_OPUS
        };
        let wanted = self.bitrate.unwrap_or(each * if channels == 2 { 2 } else { 1 });
        let bitrate = format.bitrate_for(wanted, rate, channels);
        let encoding = Encoding {
            format,
            bitrate: bitrate.unwrap_or(0),
            rate,
            channels,
            constant: false,
        };
        Ok((encoding, bitrate))
    }
}

/// Channels, then rate, then encoder.
pub(crate) struct Output {
    from: Spec,
    sink: Box<dyn Sink>,
    resampler: Resampler,
    scratch: Vec<f32>,
}

impl Output {
    pub(crate) fn open(from: Spec, encoding: Encoding) -> Outcome<Self> {
        let sink = encoding.open()?;
        let Spec { rate, channels } = sink.spec();
        let mixed = Spec { channels, ..from };
        Ok(Self {
            from,
            sink,
            resampler: Resampler::new(mixed, rate)?,
            scratch: Vec::new(),
        })
    }

    pub(crate) fn write(&mut self, block: &mut Vec<f32>) -> Outcome<()> {
        mix(block, self.from.channels, self.sink.spec().channels);
        self.scratch.clear();
        self.resampler.push(block, &mut self.scratch)?;
        self.sink.write(&self.scratch)
    }

    pub(crate) fn finish(mut self) -> Outcome<Vec<u8>> {
        self.scratch.clear();
        self.resampler.finish(&mut self.scratch)?;
        self.sink.write(&self.scratch)?;
        self.sink.finish()
    }
}
