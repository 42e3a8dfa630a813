//! 16-bit PCM in RIFF.

use super::{Sink, to_i16};
use crate::{AudioError, Outcome, Spec};

/// Bytes before the samples.
const HEAD: usize = 44;

pub(crate) struct WavSink {
    spec: Spec,
    file: Vec<u8>,
}

impl WavSink {
    pub(crate) fn new(channels: usize, rate: u32) -> Self {
        Self {
            spec: Spec { rate, channels },
            file: vec![0; HEAD],
        }
    }

    /// RIFF, a format chunk for PCM, and the beginning of the data chunk.
    fn head(&self) -> Outcome<[u8; HEAD]> {
        let too_much = |_| AudioError::Impossible("WAV files end at 4 GiB".to_owned());
        let samples = u32::try_from(self.file.len() - HEAD).map_err(too_much)?;
        let channels = if self.spec.channels == 2 { 2_u16 } else { 1 };
        let mut head = Vec::with_capacity(HEAD);
        head.extend(b"RIFF");
        head.extend(samples.saturating_add(36).to_le_bytes());
        head.extend(b"WAVEfmt ");
        head.extend(16_u32.to_le_bytes());
        head.extend(1_u16.to_le_bytes());
        head.extend(channels.to_le_bytes());
        head.extend(self.spec.rate.to_le_bytes());
        head.extend((self.spec.rate * 2 * u32::from(channels)).to_le_bytes());
        head.extend((2 * channels).to_le_bytes());
        head.extend(16_u16.to_le_bytes());
        head.extend(b"data");
        head.extend(samples.to_le_bytes());
        let wrong = |_| AudioError::Impossible("a WAV head of another length".to_owned());
        head.try_into().map_err(wrong)
    }
}

impl Sink for WavSink {
    fn spec(&self) -> Spec {
        self.spec
    }

    fn write(&mut self, block: &[f32]) -> Outcome<()> {
        self.file
            .extend(block.iter().flat_map(|sample| to_i16(*sample).to_le_bytes()));
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Outcome<Vec<u8>> {
        let head = self.head()?;
        self.file[..HEAD].copy_from_slice(&head);
        Ok(self.file)
    }
}
