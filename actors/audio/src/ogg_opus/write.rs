//! Writing.

use ogg::writing::{PacketWriteEndInfo, PacketWriter};
use ropus::{Application, Bandwidth, Bitrate, Channels, Encoder, Signal};

use super::RATE;
use crate::encode::Sink;
use crate::{AudioError, Outcome, Spec};

/// 20 ms.
const FRAME: usize = 960;
/// A page holds a second.
const PACKETS_PER_PAGE: u64 = 50;
/// The largest packet that an encoder may make (RFC 6716 §3.4).
const MAX_PACKET: usize = 1_275;
/// Streams are told apart by their number within one file; there is one.
const SERIAL: u32 = 0x564F_4943;
const VENDOR: &[u8] = b"synapse-rust";
/// Below this many bits a second of a channel, the codec's speech modes do better.
const SPEECH_BITRATE: u32 = 16_000;

/// Encodes 48 kHz samples.
pub(crate) struct OpusSink {
    encoder: Encoder,
    writer: PacketWriter<'static, Vec<u8>>,
    channels: usize,
    pre_skip: u64,
    waiting: Vec<f32>,
    /// Samples of each channel that came in.
    frames: u64,
    packets: u64,
    /// The newest packet waits: only the last one of all ends the stream.
    held: Option<Vec<u8>>,
}

impl OpusSink {
    /// `bandwidth_rate`: the sample rate whose bandwidth is kept. `constant`: every packet has the same size.
    pub(crate) fn new(channels: usize, bitrate: u32, bandwidth_rate: u32, constant: bool) -> Outcome<Self> {
        let layout = if channels == 2 {
            Channels::Stereo
        } else {
            Channels::Mono
        };
        let speech = bitrate <= SPEECH_BITRATE * u32::try_from(channels).unwrap_or(2);
        let application = if speech { Application::Voip } else { Application::Audio };
        let encoder = Encoder::builder(RATE, layout, application)
            .bitrate(Bitrate::Bits(bitrate))
            .signal(Signal::Auto)
            .max_bandwidth(bandwidth(bandwidth_rate))
            .vbr(!constant)
            .build()
            .map_err(|e| failed(&e))?;
        let pre_skip = u64::from(encoder.lookahead());
        let mut writer = PacketWriter::new(Vec::new());
        let head = id_header(channels, pre_skip, bandwidth_rate);
        let end_page = PacketWriteEndInfo::EndPage;
        writer.write_packet(head, SERIAL, end_page, 0).map_err(|e| failed(&e))?;
        writer
            .write_packet(tags(), SERIAL, end_page, 0)
            .map_err(|e| failed(&e))?;
        Ok(Self {
            encoder,
            writer,
            channels,
            pre_skip,
            waiting: Vec::new(),
            frames: 0,
            packets: 0,
            held: None,
        })
    }

    /// The bytes of a file of so many packets of `packet` bytes each.
    pub(crate) fn file_bytes(packets: u64, packet: u64) -> u64 {
        // A page has 27 bytes and one for each started 255 of a packet.
        let pages = packets.div_ceil(PACKETS_PER_PAGE);
        let heads = 2 * 28 + 19 + 16 + VENDOR.len() as u64;
        heads + pages * 27 + packets * (packet + packet / 255 + 1)
    }

    fn encode(&mut self, samples: &[f32]) -> Outcome<()> {
        let mut packet = vec![0; MAX_PACKET];
        let length = self
            .encoder
            .encode_float(samples, &mut packet)
            .map_err(|e| failed(&e))?;
        packet.truncate(length);
        if let Some(before) = self.held.replace(packet) {
            self.packets += 1;
            let end = match self.packets % PACKETS_PER_PAGE {
                0 => PacketWriteEndInfo::EndPage,
                _ => PacketWriteEndInfo::NormalPacket,
            };
            let position = self.packets * FRAME as u64;
            self.writer
                .write_packet(before, SERIAL, end, position)
                .map_err(|e| failed(&e))?;
        }
        Ok(())
    }
}

impl Sink for OpusSink {
    fn spec(&self) -> Spec {
        Spec {
            rate: RATE,
            channels: self.channels,
        }
    }

    fn write(&mut self, block: &[f32]) -> Outcome<()> {
        self.frames += (block.len() / self.channels) as u64;
        self.waiting.extend_from_slice(block);
        let size = FRAME * self.channels;
        let mut waiting = std::mem::take(&mut self.waiting);
        let whole = waiting.len() / size * size;
        for samples in waiting[..whole].chunks_exact(size) {
            self.encode(samples)?;
        }
        waiting.drain(..whole);
        self.waiting = waiting;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Outcome<Vec<u8>> {
        // The decoder is late by what it skips: silence pushes the last sound through.
        let end = self.pre_skip + self.frames;
        let size = FRAME * self.channels;
        let mut waiting = std::mem::take(&mut self.waiting);
        let encoded = |sink: &Self| (sink.packets + u64::from(sink.held.is_some())) * FRAME as u64;
        while encoded(&self) < end {
            let mut samples: Vec<f32> = waiting.drain(..size.min(waiting.len())).collect();
            samples.resize(size, 0.0);
            self.encode(&samples)?;
        }
        let last = self
            .held
            .take()
            .ok_or_else(|| AudioError::Impossible("there is nothing to encode".to_owned()))?;
        let end_stream = PacketWriteEndInfo::EndStream;
        self.writer
            .write_packet(last, SERIAL, end_stream, end)
            .map_err(|e| failed(&e))?;
        Ok(self.writer.into_inner())
    }
}

/// RFC 7845 §5.1.
fn id_header(channels: usize, pre_skip: u64, input_rate: u32) -> Vec<u8> {
    let mut head = b"OpusHead\x01".to_vec();
    head.push(if channels == 2 { 2 } else { 1 });
    head.extend(u16::try_from(pre_skip).unwrap_or(u16::MAX).to_le_bytes());
    head.extend(input_rate.to_le_bytes());
    // No gain, mapping family 0.
    head.extend([0, 0, 0]);
    head
}

/// RFC 7845 §5.2, without comments.
fn tags() -> Vec<u8> {
    let mut tags = b"OpusTags".to_vec();
    tags.extend((VENDOR.len() as u32).to_le_bytes());
    tags.extend(VENDOR);
    tags.extend(0_u32.to_le_bytes());
    tags
}

fn bandwidth(rate: u32) -> Bandwidth {
    match rate {
        0..=8_000 => Bandwidth::Narrowband,
        8_001..=12_000 => Bandwidth::Mediumband,
        12_001..=16_000 => Bandwidth::Wideband,
        16_001..=24_000 => Bandwidth::Superwideband,
        _ => Bandwidth::Fullband,
    }
}

fn failed(error: &dyn std::fmt::Display) -> AudioError {
    AudioError::Impossible(format!("Opus cannot be made of it: {error}"))
}
