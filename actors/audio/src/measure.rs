//! What audio is like: length, shape, loudness.

use ebur128::{EbuR128, Mode};

use crate::decode::Decoder;
use crate::{AudioError, Kind, Limits, Outcome, Spec, Stop, guarded, millis};

/// How many entries a waveform has, at most.
pub const WAVEFORM_LEN: usize = 100;
/// The entry of a full amplitude (MSC3246).
pub const WAVEFORM_FULL: u16 = 1_024;
/// Amplitudes are taken so many times a second.
const WINDOWS_PER_SECOND: u32 = 100;
/// What the loudness meter sees at a time, samples of each channel.
const METER_BLOCK: usize = 4_096;

/// What was found by decoding all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What it is.
    pub kind: Kind,
    /// Milliseconds.
    pub duration_ms: u64,
    /// Hz.
    pub sample_rate: u32,
    /// Channels of the file.
    pub channels: u32,
    /// The highest amplitude in each of up to [`WAVEFORM_LEN`] equal parts, 0 to [`WAVEFORM_FULL`].
    pub waveform: Vec<u16>,
    /// Integrated loudness, LUFS; `None` for silence and for what is shorter than 400 ms.
    pub loudness_lufs: Option<f64>,
    /// The highest true peak, dBTP; `None` for silence.
    pub true_peak_dbtp: Option<f64>,
}

/// Decodes a whole file and tells what it is.
///
/// # Errors
/// As [`AudioError`] says, but for `Impossible`.
pub fn measure(file: &[u8], limits: Limits, stop: &Stop) -> Outcome<Measured> {
    guarded(|| {
        let mut decoder = Decoder::open(file, limits, stop)?;
        let mut meter = Meter::new(decoder.spec())?;
        decoder.drain(|block| meter.add(block))?;
        Ok(meter.finish(decoder.kind(), decoder.file_channels()))
    })
}

/// Measures a stream of blocks.
pub(crate) struct Meter {
    spec: Spec,
    loudness: EbuR128,
    frames: u64,
    /// The highest amplitude of each window that is over, and of the one that is not.
    windows: Vec<f32>,
    window: f32,
    in_window: u32,
}

impl Meter {
    pub(crate) fn new(spec: Spec) -> Outcome<Self> {
        let channels = if spec.channels == 2 { 2 } else { 1 };
        let loudness = EbuR128::new(channels, spec.rate, Mode::I | Mode::TRUE_PEAK).map_err(failed)?;
        Ok(Self {
            spec,
            loudness,
            frames: 0,
            windows: Vec::new(),
            window: 0.0,
            in_window: 0,
        })
    }

    pub(crate) fn add(&mut self, block: &[f32]) -> Outcome<()> {
        for part in block.chunks(METER_BLOCK * self.spec.channels) {
            self.loudness.add_frames_f32(part).map_err(failed)?;
        }
        let length = (self.spec.rate / WINDOWS_PER_SECOND).max(1);
        for frame in block.chunks_exact(self.spec.channels) {
            self.window = frame.iter().fold(self.window, |peak, sample| peak.max(sample.abs()));
            self.in_window += 1;
            if self.in_window == length {
                self.windows.push(std::mem::take(&mut self.window));
                self.in_window = 0;
            }
        }
        self.frames += (block.len() / self.spec.channels) as u64;
        Ok(())
    }

    pub(crate) fn loudness_lufs(&self) -> Option<f64> {
        self.loudness.loudness_global().ok().filter(|lufs| lufs.is_finite())
    }

    pub(crate) fn true_peak_dbtp(&self) -> Option<f64> {
        let channels = 0..self.loudness.channels();
        let peak = channels
            .filter_map(|channel| self.loudness.true_peak(channel).ok())
            .fold(0.0, f64::max);
        (peak > 0.0).then(|| 20.0 * peak.log10())
    }

    pub(crate) fn duration_ms(&self) -> u64 {
        millis(self.frames, self.spec.rate)
    }

    pub(crate) fn finish(mut self, kind: Kind, file_channels: usize) -> Measured {
        if self.in_window > 0 {
            self.windows.push(self.window);
        }
        Measured {
            kind,
            duration_ms: self.duration_ms(),
            sample_rate: self.spec.rate,
            channels: u32::try_from(file_channels).unwrap_or(u32::MAX),
            waveform: waveform(&self.windows),
            loudness_lufs: self.loudness_lufs(),
            true_peak_dbtp: self.true_peak_dbtp(),
        }
    }
}

/// The peaks of equal parts.
fn waveform(windows: &[f32]) -> Vec<u16> {
    let parts = windows.len().min(WAVEFORM_LEN);
    let part = |at: usize| {
        let (begin, end) = (at * windows.len() / parts, (at + 1) * windows.len() / parts);
        let peak = windows[begin..end].iter().copied().fold(0.0, f32::max);
        (peak.min(1.0) * f32::from(WAVEFORM_FULL)).round() as u16
    };
    (0..parts).map(part).collect()
}

fn failed(error: ebur128::Error) -> AudioError {
    AudioError::Unsupported(format!("its loudness cannot be measured: {error}"))
}
