//! What symphonia reads: everything but Opus in Ogg. Opus in Matroska is demultiplexed by it and decoded as all Opus.

use std::io::Cursor;

use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;

use crate::decode::{Source, Tally};
use crate::ogg_opus::Packets;
use crate::{AudioError, Outcome, Spec, remix};

enum Codec {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<Packets>),
}

/// A file that symphonia takes apart.
pub(crate) struct Symphonia<'f> {
    format: Box<dyn FormatReader + 'f>,
    codec: Codec,
    track: u32,
    spec: Spec,
    file_channels: usize,
    /// The first block, which told the spec.
    first: Option<Vec<f32>>,
    tally: Tally,
}

impl<'f> Symphonia<'f> {
    pub(crate) fn open(file: &'f [u8]) -> Outcome<Self> {
        let stream = MediaSourceStream::new(Box::new(Cursor::new(file)), Default::default());
        let format = symphonia::default::get_probe()
            .probe(&Hint::new(), stream, Default::default(), Default::default())
            .map_err(refused)?;
        let unknown = || AudioError::Unsupported("there is no audio track in it".to_owned());
        let track = format.default_track(TrackType::Audio).ok_or_else(unknown)?;
        let id = track.id;
        let parameters = track
            .codec_params
            .as_ref()
            .and_then(|p| p.audio())
            .ok_or_else(unknown)?;
        let codec = if parameters.codec == CODEC_ID_OPUS {
            let head = parameters.extra_data.as_deref().ok_or_else(unknown)?;
            Codec::Opus(Box::new(Packets::open(head)?))
        } else {
            let decoder = symphonia::default::get_codecs()
                .make_audio_decoder(parameters, &AudioDecoderOptions::default())
                .map_err(refused)?;
            Codec::Symphonia(decoder)
        };
        let mut opened = Self {
            format,
            codec,
            track: id,
            spec: Spec { rate: 0, channels: 0 },
            file_channels: 0,
            first: None,
            tally: Tally::default(),
        };
        opened.read_first()?;
        Ok(opened)
    }

    /// Containers may keep to themselves what only the codec knows: the first samples tell.
    fn read_first(&mut self) -> Outcome<()> {
        let mut block = Vec::new();
        while block.is_empty() {
            if !self.decode(&mut block)? {
                return Err(AudioError::Broken("there is no sound in it".to_owned()));
            }
        }
        self.first = Some(block);
        Ok(())
    }

    fn decode(&mut self, out: &mut Vec<f32>) -> Outcome<bool> {
        let packet = match self.format.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(false),
            // The end of the file within a packet: what was cut off is not played.
            Err(Error::IoError(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(refused(error)),
        };
        if packet.track_id != self.track {
            return Ok(true);
        }
        match &mut self.codec {
            Codec::Opus(packets) => {
                self.spec = packets.spec();
                self.file_channels = self.spec.channels;
                packets.decode(&packet.data, out)?;
                return Ok(true);
            }
            Codec::Symphonia(decoder) => match decoder.decode(&packet) {
                Ok(samples) => {
                    self.tally.good();
                    if samples.frames() == 0 {
                        return Ok(true);
                    }
                    let (rate, channels) = (samples.spec().rate(), samples.num_planes());
                    let spec = Spec {
                        rate,
                        channels: if channels == 2 { 2 } else { 1 },
                    };
                    if self.spec.rate != 0 && (self.spec != spec || self.file_channels != channels) {
                        return Err(AudioError::Unsupported(
                            "it changes its rate or channels midway".to_owned(),
                        ));
                    }
                    (self.spec, self.file_channels) = (spec, channels);
                    samples.copy_to_vec_interleaved(out);
                    remix::mix(out, channels, spec.channels);
                }
                Err(Error::IoError(e)) => self.tally.bad(&e)?,
                Err(Error::DecodeError(why)) => self.tally.bad(&why)?,
                Err(error) => return Err(refused(error)),
            },
        }
        Ok(true)
    }
}

impl Source for Symphonia<'_> {
    fn spec(&self) -> Spec {
        self.spec
    }

    fn file_channels(&self) -> usize {
        self.file_channels
    }

    fn read(&mut self, out: &mut Vec<f32>) -> Outcome<bool> {
        if let Some(first) = self.first.take() {
            *out = first;
            return Ok(true);
        }
        self.decode(out)
    }
}

fn refused(error: Error) -> AudioError {
    match error {
        Error::Unsupported(what) => AudioError::Unsupported(what.to_owned()),
        error => AudioError::Broken(error.to_string()),
    }
}
