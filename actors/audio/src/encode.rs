//! Encoding a stream of blocks.

mod mp3;
mod wav;

use crate::ogg_opus::OpusSink;
use crate::{Outcome, Spec};

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Opus in Ogg.
    Opus,
    /// MPEG audio, layer III.
    Mp3,
    /// 16-bit PCM in RIFF.
    Wav,
}

/// Rates whose bandwidth Opus can keep, Hz.
pub const OPUS_RATES: [u32; 5] = [8_000, 12_000, 16_000, 24_000, 48_000];
/// Rates of MP3 (MPEG-2 and MPEG-1), Hz.
pub const MP3_RATES: [u32; 6] = [16_000, 22_050, 24_000, 32_000, 44_100, 48_000];
/// Rates of PCM, Hz.
pub const PCM_RATES: [u32; 9] = [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000];
/// What Opus can be asked for, bits a second of each channel.
pub const OPUS_BITRATE: std::ops::RangeInclusive<u32> = 6_000..=255_000;
/// What MP3 can be asked for: MPEG-2 below 32 kHz, then MPEG-1; bits a second in all.
pub const MP3_BITRATES: [[u32; 14]; 2] = [
    [
        8_000, 16_000, 24_000, 32_000, 40_000, 48_000, 56_000, 64_000, 80_000, 96_000, 112_000, 128_000, 144_000,
        160_000,
    ],
    [
        32_000, 40_000, 48_000, 56_000, 64_000, 80_000, 96_000, 112_000, 128_000, 160_000, 192_000, 224_000, 256_000,
        320_000,
    ],
];

impl Format {
    /// From a media type, with parameters or without, or a short name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match name.as_str() {
            "audio/ogg" | "audio/opus" | "ogg" | "opus" => Some(Self::Opus),
            "audio/mpeg" | "audio/mp3" | "mpeg" | "mp3" => Some(Self::Mp3),
            "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" | "wav" => Some(Self::Wav),
            _ => None,
        }
    }

    /// The media type of what is made.
    #[must_use]
    pub fn mime(self) -> &'static str {
        match self {
            Self::Opus => "audio/ogg",
            Self::Mp3 => "audio/mpeg",
            Self::Wav => "audio/wav",
        }
    }

    /// The sample rates that can be asked for.
    #[must_use]
    pub fn rates(self) -> &'static [u32] {
        match self {
            Self::Opus => &OPUS_RATES,
            Self::Mp3 => &MP3_RATES,
            Self::Wav => &PCM_RATES,
        }
    }

    /// The lowest rate that loses nothing of `rate`, else the highest.
    pub(crate) fn rate_for(self, rate: u32) -> u32 {
        let rates = self.rates();
        let enough = rates.iter().copied().find(|offered| *offered >= rate);
        enough.unwrap_or(rates[rates.len() - 1])
    }

    /// The nearest bitrate that can be had; `None` where there is no choice.
    pub(crate) fn bitrate_for(self, wanted: u32, rate: u32, channels: usize) -> Option<u32> {
        match self {
            Self::Opus => {
                let channels = u32::try_from(channels).unwrap_or(1);
                Some(wanted.clamp(OPUS_BITRATE.start() * channels, OPUS_BITRATE.end() * channels))
            }
            Self::Mp3 => {
                let ladder = MP3_BITRATES[usize::from(rate >= 32_000)];
                ladder.into_iter().min_by_key(|offered| offered.abs_diff(wanted))
            }
            Self::Wav => None,
        }
    }
}

/// An encoder over a container.
pub(crate) trait Sink {
    /// What it takes.
    fn spec(&self) -> Spec;
    /// Takes interleaved samples.
    fn write(&mut self, block: &[f32]) -> Outcome<()>;
    /// The file.
    fn finish(self: Box<Self>) -> Outcome<Vec<u8>>;
}

/// How to encode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding {
    pub format: Format,
    /// Bits a second, as [`Format::bitrate_for`] answers.
    pub bitrate: u32,
    pub rate: u32,
    pub channels: usize,
    /// Constant rather than variable bitrate, where there is a choice.
    pub constant: bool,
}

impl Encoding {
    pub(crate) fn open(self) -> Outcome<Box<dyn Sink>> {
        let Self {
            bitrate,
            rate,
            channels,
            ..
        } = self;
        Ok(match self.format {
            Format::Opus => Box::new(OpusSink::new(channels, bitrate, rate, self.constant)?),
            Format::Mp3 => Box::new(mp3::Mp3Sink::new(channels, bitrate, rate)?),
            Format::Wav => Box::new(wav::WavSink::new(channels, rate)),
        })
    }
}

/// 16-bit samples.
pub(crate) fn to_i16(sample: f32) -> i16 {
    (sample.clamp(-1.0, 1.0) * 32_767.0).round() as i16
}
