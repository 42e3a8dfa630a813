//! A silent frame that tells how long the sound is, as players know it from other encoders ("Mp3 Info Tag", revision 1).

use oxideav_mp3::{Mp3FrameHeader, silent_side_info, write_header};

use super::{DELAY, HEADER};
use crate::encode::MP3_BITRATES;

/// Bytes of the tag from its name to its end.
const SIZE: usize = 156;

/// What the tag tells of a stream.
pub(super) struct Tag {
    /// As the other frames have it.
    pub header: Mp3FrameHeader,
    pub frames: u64,
    pub bytes: usize,
    /// Of each channel, without padding.
    pub samples: u64,
}

impl Tag {
    /// The whole frame, not counted in what it tells.
    pub(super) fn frame(&self) -> Vec<u8> {
        let at = HEADER + silent_side_info(&self.header).byte_len();
        let mut frame = self.empty(at + SIZE);
        let whole = self.frames * u64::from(self.header.samples_per_frame());
        let padding = whole.saturating_sub(DELAY + self.samples).min(4_095);
        let trim = (DELAY << 12 | padding) as u32;
        let tag = &mut frame[at..];
        tag[..4].copy_from_slice(b"Info");
        // All four fields, so that the rest lies where even careless readers look for it.
        tag[4..8].copy_from_slice(&15_u32.to_be_bytes());
        tag[8..12].copy_from_slice(&u32::try_from(self.frames).unwrap_or(0).to_be_bytes());
        tag[12..16].copy_from_slice(&u32::try_from(self.bytes).unwrap_or(0).to_be_bytes());
        for (percent, entry) in (0_u32..).zip(&mut tag[16..116]) {
            *entry = u8::try_from(percent * 256 / 100).unwrap_or(u8::MAX);
        }
        // Players believe the padding only of encoders whose names they know.
        tag[120..129].copy_from_slice(b"LAME3.100");
        tag[129] = 1;
        tag[141..144].copy_from_slice(&trim.to_be_bytes()[1..]);
        frame
    }

    /// A frame without sound, at the lowest bitrate that has room for so many bytes.
    fn empty(&self, needed: usize) -> Vec<u8> {
        let ladder = MP3_BITRATES[usize::from(!self.header.version.is_lsf())];
        let frames = (1_u8..).zip(ladder).map(|(number, bitrate)| Mp3FrameHeader {
            bitrate_index: number,
            bitrate_kbps: Some(bitrate / 1_000),
            padding: false,
            ..self.header
        });
        let length = |header: &Mp3FrameHeader| header.frame_len().unwrap_or(0);
        // The highest of either ladder has room enough.
        let header = frames
            .clone()
            .find(|header| length(header) >= needed)
            .unwrap_or(self.header);
        let mut frame = vec![0; length(&header).max(needed)];
        frame[..HEADER].copy_from_slice(&write_header(&header));
        frame
    }
}
