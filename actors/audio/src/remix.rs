//! Channels and sample rates.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use crate::{AudioError, Outcome, Spec};

/// Samples of a channel that are resampled at a time.
const CHUNK: usize = 1_024;

/// Mixes interleaved blocks from one number of channels to another, 1 or 2.
pub(crate) fn mix(block: &mut Vec<f32>, from: usize, to: usize) {
    if from == to {
        return;
    }
    let mono = |frame: &[f32]| frame.iter().sum::<f32>() / frame.len() as f32;
    *block = block
        .chunks_exact(from.max(1))
        .flat_map(|frame| {
            let value = mono(frame);
            std::iter::repeat_n(value, to)
        })
        .collect();
}

/// Changes the sample rate of a stream of blocks. What comes out is as long as what went in, and not late.
pub(crate) struct Resampler {
    fft: Option<Fft<f32>>,
    from: Spec,
    to_rate: u32,
    waiting: Vec<f32>,
    scratch: Vec<f32>,
    /// Samples of a channel that came in, went out, and are still to be thrown away at the beginning.
    frames_in: u64,
    frames_out: u64,
    late: usize,
}

impl Resampler {
    pub(crate) fn new(from: Spec, to_rate: u32) -> Outcome<Self> {
        let mut made = Self {
            fft: None,
            from,
            to_rate,
            waiting: Vec::new(),
            scratch: Vec::new(),
            frames_in: 0,
            frames_out: 0,
            late: 0,
        };
        if from.rate != to_rate {
            let (rate_in, rate_out) = (from.rate as usize, to_rate as usize);
            let fft = Fft::new(rate_in, rate_out, CHUNK, from.channels, FixedSync::Input).map_err(|e| failed(&e))?;
            made.scratch = vec![0.0; fft.output_frames_max() * from.channels];
            made.late = fft.output_delay();
            made.fft = Some(fft);
        }
        Ok(made)
    }

    /// Takes a block, adds what is ready to `out`.
    pub(crate) fn push(&mut self, block: &[f32], out: &mut Vec<f32>) -> Outcome<()> {
        if self.fft.is_none() {
            out.extend_from_slice(block);
            return Ok(());
        }
        self.frames_in += (block.len() / self.from.channels) as u64;
        self.waiting.extend_from_slice(block);
        self.work(out)
    }

    /// Adds what was held back.
    pub(crate) fn finish(&mut self, out: &mut Vec<f32>) -> Outcome<()> {
        if self.fft.is_none() {
            return Ok(());
        }
        let (rate_in, rate_out) = (u128::from(self.from.rate), u128::from(self.to_rate));
        let expected = (u128::from(self.frames_in) * rate_out + rate_in / 2) / rate_in;
        let before = out.len();
        while u128::from(self.frames_out) < expected {
            self.waiting
                .resize(self.waiting.len() + CHUNK * self.from.channels, 0.0);
            self.work(out)?;
        }
        let surplus = usize::try_from(u128::from(self.frames_out) - expected).unwrap_or(usize::MAX);
        let keep = (out.len() - before).saturating_sub(surplus.saturating_mul(self.from.channels));
        out.truncate(before + keep);
        Ok(())
    }

    fn work(&mut self, out: &mut Vec<f32>) -> Outcome<()> {
        let Some(fft) = &mut self.fft else { return Ok(()) };
        let channels = self.from.channels;
        let mut done = 0;
        loop {
            let wanted = fft.input_frames_next();
            let rest = &self.waiting[done * channels..];
            if rest.len() < wanted * channels {
                break;
            }
            let room = self.scratch.len() / channels;
            let input = InterleavedSlice::new(rest, channels, wanted).map_err(|e| failed(&e))?;
            let mut output =
                InterleavedSlice::new_mut(&mut self.scratch[..], channels, room).map_err(|e| failed(&e))?;
            let (taken, made) = fft
                .process_into_buffer(&input, &mut output, None)
                .map_err(|e| failed(&e))?;
            done += taken;
            let skip = self.late.min(made);
            self.late -= skip;
            self.frames_out += (made - skip) as u64;
            out.extend_from_slice(&self.scratch[skip * channels..made * channels]);
        }
        self.waiting.drain(..done * channels);
        Ok(())
    }
}

fn failed(error: &dyn std::fmt::Display) -> AudioError {
    AudioError::Impossible(format!("the sample rate cannot be changed: {error}"))
}
