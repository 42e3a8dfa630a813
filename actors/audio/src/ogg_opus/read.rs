//! Reading.

use std::io::Cursor;

use ogg::PacketReader;
use ropus::{Channels, DecodeMode, Decoder};

use super::RATE;
use crate::decode::{Source, Tally};
use crate::{AudioError, Outcome, Spec};

/// The longest packet: 120 ms.
const MOST_FRAMES: usize = 5_760;
/// Packets before the head of the Opus stream that are passed over: heads of other streams.
const STRANGERS: usize = 16;

/// The identification header (RFC 7845 §5.1).
#[derive(Clone, Copy, Debug)]
struct Head {
    channels: usize,
    pre_skip: usize,
    /// What samples are multiplied with.
    gain: f32,
}

fn head(packet: &[u8]) -> Outcome<Head> {
    let broken = || AudioError::Broken("the Opus head is cut off".to_owned());
    let bytes = packet.get(..19).ok_or_else(broken)?;
    if !bytes.starts_with(b"OpusHead") {
        return Err(AudioError::Broken("there is no Opus head".to_owned()));
    }
    // Versions with the same upper four bits are compatible.
    let (version, channels, family) = (bytes[8], usize::from(bytes[9]), bytes[18]);
    if version >= 16 {
        return Err(AudioError::Unsupported(format!("Opus head version {version}")));
    }
    if family != 0 || !(1..=2).contains(&channels) {
        return Err(AudioError::Unsupported(format!(
            "Opus with {channels} channels, family {family}"
        )));
    }
    let gain = i16::from_le_bytes([bytes[16], bytes[17]]);
    Ok(Head {
        channels,
        pre_skip: usize::from(u16::from_le_bytes([bytes[10], bytes[11]])),
        gain: 10_f32.powf(f32::from(gain) / (20.0 * 256.0)),
    })
}

/// The codec without its container.
pub(crate) struct Packets {
    decoder: Decoder,
    head: Head,
    /// Samples of each channel still to be thrown away.
    skip: usize,
    scratch: Vec<f32>,
    tally: Tally,
}

impl Packets {
    /// From the identification header.
    pub(crate) fn open(packet: &[u8]) -> Outcome<Self> {
        let head = head(packet)?;
        let layout = if head.channels == 2 {
            Channels::Stereo
        } else {
            Channels::Mono
        };
        let decoder = Decoder::new(RATE, layout).map_err(|e| AudioError::Unsupported(e.to_string()))?;
        Ok(Self {
            decoder,
            head,
            skip: head.pre_skip,
            scratch: vec![0.0; MOST_FRAMES * head.channels],
            tally: Tally::default(),
        })
    }

    pub(crate) fn spec(&self) -> Spec {
        Spec {
            rate: RATE,
            channels: self.head.channels,
        }
    }

    /// Adds the samples of a packet to `out`.
    pub(crate) fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Outcome<()> {
        if packet.is_empty() {
            return self.tally.bad(&"an empty packet");
        }
        let frames = match self.decoder.decode_float(packet, &mut self.scratch, DecodeMode::Normal) {
            Ok(frames) => frames.min(MOST_FRAMES),
            Err(error) => return self.tally.bad(&error),
        };
        self.tally.good();
        let skip = self.skip.min(frames);
        self.skip -= skip;
        let samples = &self.scratch[skip * self.head.channels..frames * self.head.channels];
        out.extend(samples.iter().map(|sample| sample * self.head.gain));
        Ok(())
    }
}

/// An Ogg file whose first Opus stream is decoded.
pub(crate) struct OggOpus<'f> {
    reader: PacketReader<Cursor<&'f [u8]>>,
    packets: Packets,
    serial: u32,
    has_tags: bool,
    /// Samples of each channel that were handed out.
    frames: u64,
}

impl<'f> OggOpus<'f> {
    pub(crate) fn open(file: &'f [u8]) -> Outcome<Self> {
        let mut reader = PacketReader::new(Cursor::new(file));
        for _ in 0..STRANGERS {
            let Some(packet) = reader.read_packet().map_err(|e| broken(&e))? else {
                break;
            };
            if packet.data.starts_with(b"OpusHead") {
                return Ok(Self {
                    reader,
                    packets: Packets::open(&packet.data)?,
                    serial: packet.stream_serial(),
                    has_tags: false,
                    frames: 0,
                });
            }
        }
        Err(AudioError::Broken("there is no Opus head".to_owned()))
    }

    /// The position of the last page says how much of its last packet is padding (RFC 7845 §4.4).
    fn trim(&self, granule: u64, out: &mut Vec<f32>) {
        let end = granule.saturating_sub(self.packets.head.pre_skip as u64);
        let surplus = usize::try_from(self.frames.saturating_sub(end)).unwrap_or(usize::MAX);
        // Streams that were cut out of longer ones begin at any position: those tell nothing.
        if granule != u64::MAX && surplus < out.len() / self.packets.head.channels {
            out.truncate(out.len() - surplus * self.packets.head.channels);
        }
    }
}

impl Source for OggOpus<'_> {
    fn spec(&self) -> Spec {
        self.packets.spec()
    }

    fn file_channels(&self) -> usize {
        self.packets.head.channels
    }

    fn read(&mut self, out: &mut Vec<f32>) -> Outcome<bool> {
        let Some(packet) = self.reader.read_packet().map_err(|e| broken(&e))? else {
            return Ok(false);
        };
        if packet.stream_serial() != self.serial {
            return Ok(true);
        }
        if !self.has_tags {
            self.has_tags = true;
            if packet.data.starts_with(b"OpusTags") {
                return Ok(true);
            }
        }
        self.packets.decode(&packet.data, out)?;
        self.frames += (out.len() / self.packets.head.channels) as u64;
        if packet.last_in_stream() {
            self.trim(packet.absgp_page(), out);
            return Ok(false);
        }
        Ok(true)
    }
}

fn broken(error: &dyn std::fmt::Display) -> AudioError {
    AudioError::Broken(error.to_string())
}
