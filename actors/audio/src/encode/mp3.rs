//! MPEG audio, layer III, at a constant bitrate, with long blocks; every frame can be decoded by itself. The first frame is
//! silent and tells how much of the others is padding.
//!
//! Codes, headers and side information are written by `oxideav-mp3`. Its own encoder computes the same by the formulas of the
//! standard, cosine by cosine, and tries every gain from the finest on.

mod filterbank;
mod quantise;
mod tag;

use oxideav_mp3::{ChannelMode, FrameScaleFactors, GranuleChannelData, Mp3FrameHeader, ScaleFactors};
use oxideav_mp3::{assemble_main_data, make_silent_header, silent_side_info, write_header, write_side_info};

use self::filterbank::{Channel, LINES, Tables};
use self::quantise::Quantiser;
use self::tag::Tag;
use super::Sink;
use crate::{AudioError, Outcome, Spec};

/// What the encoder is late by, samples; the decoder's share, 529, is not counted in the tag.
const DELAY: u64 = 528;
const DECODER_DELAY: u64 = 529;
/// Bytes of a frame's header.
const HEADER: usize = 4;

pub(crate) struct Mp3Sink {
    header: Mp3FrameHeader,
    spec: Spec,
    tables: Tables,
    quantiser: Quantiser,
    channels: Vec<Channel>,
    /// Samples of each channel that do not fill a frame.
    waiting: Vec<Vec<f32>>,
    /// Samples of each channel that came in.
    samples: u64,
    /// Of a byte that the frames so far are too short, in parts of the sample rate.
    owed: u64,
    frames: u64,
    sound: Vec<u8>,
}

impl Mp3Sink {
    pub(crate) fn new(channels: usize, bitrate: u32, rate: u32) -> Outcome<Self> {
        let mode = match channels {
            2 => ChannelMode::Stereo,
            _ => ChannelMode::SingleChannel,
        };
        let header = make_silent_header(bitrate / 1_000, rate, mode).map_err(|e| failed(&e))?;
        Ok(Self {
            header,
            spec: Spec { rate, channels },
            tables: Tables::new(),
            quantiser: Quantiser::new(rate, header.version),
            channels: (0..channels).map(|_| Channel::new()).collect(),
            waiting: vec![Vec::new(); channels],
            samples: 0,
            owed: 0,
            frames: 0,
            sound: Vec::new(),
        })
    }

    /// Takes interleaved samples and encodes what fills frames.
    fn push(&mut self, block: &[f32]) -> Outcome<()> {
        for frame in block.chunks_exact(self.spec.channels) {
            for (waiting, sample) in self.waiting.iter_mut().zip(frame) {
                waiting.push(sample.clamp(-1.0, 1.0));
            }
        }
        let size = self.header.samples_per_frame() as usize;
        while self.waiting[0].len() >= size {
            let frame: Vec<Vec<f32>> = self
                .waiting
                .iter_mut()
                .map(|waiting| waiting.drain(..size).collect())
                .collect();
            self.encode(&frame)?;
        }
        Ok(())
    }

    /// Adds the frame of so many samples.
    fn encode(&mut self, samples: &[Vec<f32>]) -> Outcome<()> {
        let header = self.next_header();
        let length = header.frame_len().unwrap_or(0);
        let mut side = silent_side_info(&header);
        let room = length.saturating_sub(HEADER + side.byte_len());
        let mut data: [[GranuleChannelData; 2]; 2] = Default::default();
        let mut bits = room * 8;
        let mut parts = usize::from(side.granule_count) * self.spec.channels;
        let granules = side
            .granules
            .iter_mut()
            .zip(&mut data)
            .take(usize::from(side.granule_count));
        for ((side, data), begin) in granules.zip((0..).step_by(LINES)) {
            for (channel, samples) in samples.iter().enumerate() {
                let lines = self.channels[channel].lines(&self.tables, &samples[begin..begin + LINES]);
                // What one part leaves the next ones have.
                let (written, used) = self.quantiser.quantise(&lines, bits / parts, &mut side[channel]);
                data[channel] = written;
                (bits, parts) = (bits - used, parts - 1);
            }
        }
        let scale = FrameScaleFactors {
            granules: [[ScaleFactors::default(); 2]; 2],
            granule_count: side.granule_count,
            channels: side.channels,
            part2_bits: [[0; 2]; 2],
        };
        let main = assemble_main_data(&header, &mut side, &scale, &data).map_err(|e| failed(&e))?;
        if main.bytes.len() > room {
            return Err(failed(&"a frame is too small for its codes"));
        }
        let end = self.sound.len() + length;
        self.sound.extend(write_header(&header));
        self.sound.extend(write_side_info(&side));
        self.sound.extend(main.bytes);
        self.sound.resize(end, 0);
        self.frames += 1;
        Ok(())
    }

    /// The header of a frame that keeps the bitrate over the frames so far.
    fn next_header(&mut self) -> Mp3FrameHeader {
        let rate = u64::from(self.spec.rate);
        let bytes = u64::from(self.header.samples_per_frame() / 8) * u64::from(self.header.bitrate_kbps.unwrap_or(0));
        self.owed += bytes * 1_000 % rate;
        let padding = self.owed >= rate;
        self.owed %= rate;
        Mp3FrameHeader { padding, ..self.header }
    }
}

impl Sink for Mp3Sink {
    fn spec(&self) -> Spec {
        self.spec
    }

    fn write(&mut self, block: &[f32]) -> Outcome<()> {
        self.samples += (block.len() / self.spec.channels) as u64;
        self.push(block)
    }

    fn finish(mut self: Box<Self>) -> Outcome<Vec<u8>> {
        // The last sound comes out of the decoder late.
        let late = self.samples + DELAY + DECODER_DELAY;
        let missing = late.div_ceil(u64::from(self.header.samples_per_frame())) - self.frames;
        let silence = missing * u64::from(self.header.samples_per_frame()) - self.waiting[0].len() as u64;
        self.push(&vec![0.0; usize::try_from(silence).unwrap_or(0) * self.spec.channels])?;
        let tag = Tag {
            header: self.header,
            frames: self.frames,
            bytes: self.sound.len(),
            samples: self.samples,
        };
        let mut file = tag.frame();
        file.append(&mut self.sound);
        Ok(file)
    }
}

fn failed(error: &dyn std::fmt::Display) -> AudioError {
    AudioError::Impossible(format!("MP3 cannot be made of it: {error}"))
}
