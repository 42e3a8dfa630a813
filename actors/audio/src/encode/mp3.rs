//! MPEG audio, layer III, at a constant bitrate. The first frame is silent and tells how much of the others is padding, as
//! players know it from other encoders ("Mp3 Info Tag", revision 1).

use oxideav_mp3::{ChannelMode, Mp3Encoder};

use super::{Sink, to_i16};
use crate::{AudioError, Outcome, Spec};

/// What the encoder is late by, samples; the decoder's share, 529, is not counted in the tag.
const DELAY: u64 = 528;
const DECODER_DELAY: u64 = 529;
/// Bytes of the tag from its name to its end.
const TAG: usize = 156;
/// Samples that are encoded at a time.
const BLOCK: usize = 8_192;

pub(crate) struct Mp3Sink {
    encoder: Mp3Encoder,
    spec: Spec,
    frames: u64,
}

impl Mp3Sink {
    pub(crate) fn new(channels: usize, bitrate: u32, rate: u32) -> Outcome<Self> {
        let mode = match channels {
            2 => ChannelMode::Stereo,
            _ => ChannelMode::SingleChannel,
        };
        Ok(Self {
            encoder: Mp3Encoder::new(bitrate / 1_000, rate, mode).map_err(|e| failed(&e))?,
            spec: Spec { rate, channels },
            frames: 0,
        })
    }
}

impl Sink for Mp3Sink {
    fn spec(&self) -> Spec {
        self.spec
    }

    fn write(&mut self, block: &[f32]) -> Outcome<()> {
        self.frames += (block.len() / self.spec.channels) as u64;
        for samples in block.chunks(BLOCK) {
            let samples: Vec<i16> = samples.iter().copied().map(to_i16).collect();
            self.encoder.push_samples(&samples).map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Outcome<Vec<u8>> {
        // The last sound comes out of the decoder late.
        let flush = vec![0; usize::try_from(DELAY + DECODER_DELAY).unwrap_or(0) * self.spec.channels];
        self.encoder.push_samples(&flush).map_err(|e| failed(&e))?;
        let mut sound = Vec::new();
        self.encoder.finish(&mut sound).map_err(|e| failed(&e))?;
        let tag = Tag::of(&sound).ok_or_else(|| failed(&"the encoder made no frame"))?;
        let mut file = tag.frame(self.frames, &sound);
        file.append(&mut sound);
        Ok(file)
    }
}

/// What the tag's frame shares with the frames of sound.
struct Tag {
    header: [u8; 4],
    mpeg1: bool,
    rate: u32,
    mono: bool,
}

impl Tag {
    /// Reads a frame's header (ISO/IEC 11172-3 §2.4.1.3).
    fn of(sound: &[u8]) -> Option<Self> {
        let header: [u8; 4] = sound.get(..4)?.try_into().ok()?;
        let mpeg1 = header[1] & 0x18 == 0x18;
        let rate = [44_100, 48_000, 32_000].get(usize::from(header[2] >> 2 & 3)).copied()?;
        Some(Self {
            header,
            mpeg1,
            rate: if mpeg1 { rate } else { rate / 2 },
            mono: header[3] >> 6 == 3,
        })
    }

    fn samples_per_frame(&self) -> u64 {
        if self.mpeg1 { 1_152 } else { 576 }
    }

    fn side_info(&self) -> usize {
        match (self.mpeg1, self.mono) {
            (true, false) => 32,
            (true, true) | (false, false) => 17,
            (false, true) => 9,
        }
    }

    fn frame_bytes(&self, bitrate: u32) -> usize {
        let slots = if self.mpeg1 { 144 } else { 72 };
        usize::try_from(slots * bitrate / self.rate).unwrap_or(0)
    }

    /// The whole frame, for a stream of `frames` samples of each channel.
    fn frame(&self, frames: u64, sound: &[u8]) -> Vec<u8> {
        let needed = 4 + self.side_info() + TAG;
        let ladder = super::MP3_BITRATES[usize::from(self.mpeg1)];
        // The highest of either ladder has room enough.
        let fits = |bitrate: &u32| self.frame_bytes(*bitrate) >= needed;
        let at = ladder.iter().position(fits).unwrap_or(ladder.len() - 1);
        let mut frame = vec![0; self.frame_bytes(ladder[at]).max(needed)];
        frame[..4].copy_from_slice(&self.header);
        // No checksum, no padding; the bitrate's number counts from one.
        frame[1] |= 1;
        frame[2] = (u8::try_from(at + 1).unwrap_or(14) << 4) | (self.header[2] & 0x0D);
        let count = count_frames(sound, self);
        let whole = count * self.samples_per_frame();
        let padding = whole.saturating_sub(DELAY + frames).min(4_095);
        let trim = (DELAY << 12 | padding) as u32;
        let tag = &mut frame[4 + self.side_info()..];
        tag[..4].copy_from_slice(b"Info");
        // All four fields, so that the rest lies where even careless readers look for it.
        tag[4..8].copy_from_slice(&15_u32.to_be_bytes());
        tag[8..12].copy_from_slice(&u32::try_from(count).unwrap_or(0).to_be_bytes());
        tag[12..16].copy_from_slice(&u32::try_from(sound.len()).unwrap_or(0).to_be_bytes());
        for (percent, entry) in (0_u32..).zip(&mut tag[16..116]) {
            *entry = u8::try_from(percent * 256 / 100).unwrap_or(u8::MAX);
        }
        // Players believe the padding only of encoders whose names they know.
        tag[120..129].copy_from_slice(b"LAME3.100");
        tag[129] = 1;
        tag[141..144].copy_from_slice(&trim.to_be_bytes()[1..]);
        frame
    }
}

/// Walks the frames, which have all the same header but for padding.
fn count_frames(sound: &[u8], tag: &Tag) -> u64 {
    let ladder = super::MP3_BITRATES[usize::from(tag.mpeg1)];
    let (mut at, mut count) = (0, 0);
    while let Some([0xFF, _, third, _]) = sound.get(at..at + 4) {
        let number = usize::from(third >> 4).saturating_sub(1);
        let Some(bitrate) = ladder.get(number) else { break };
        at += tag.frame_bytes(*bitrate) + usize::from(third >> 1 & 1);
        count += 1;
    }
    count
}

fn failed(error: &dyn std::fmt::Display) -> AudioError {
    AudioError::Impossible(format!("MP3 cannot be made of it: {error}"))
}
