//! Synthetic sound.

use crate::encode::Encoding;
use crate::{Format, Limits, Spec};

pub(crate) const LIMITS: Limits = Limits {
    max_duration_ms: 600_000,
};

/// Interleaved samples of a sine whose frequency rises from 200 Hz to 3 kHz.
pub(crate) fn sweep(spec: Spec, millis: u32, amplitude: f32) -> Vec<f32> {
    let frames = (u64::from(spec.rate) * u64::from(millis) / 1_000) as usize;
    let seconds = f64::from(millis) / 1_000.0;
    let sample = |at: usize| {
        let time = at as f64 / f64::from(spec.rate);
        let phase = 200.0 * time + 2_800.0 * time * time / (2.0 * seconds);
        (phase * std::f64::consts::TAU).sin() as f32 * amplitude
    };
    (0..frames)
        .flat_map(|at| std::iter::repeat_n(sample(at), spec.channels))
        .collect()
}

/// Syllables: bursts of coloured noise four times a second, not unlike whispered speech. Codecs for speech make wild things
/// of sounds that are perfectly periodic.
pub(crate) fn babble(spec: Spec, millis: u32, amplitude: f32) -> Vec<f32> {
    let frames = (u64::from(spec.rate) * u64::from(millis) / 1_000) as usize;
    let (mut state, mut low) = (1_u32, 0.0_f64);
    let mut sample = |at: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = f64::from(state >> 8) / f64::from(1 << 23) - 1.0;
        low += 0.1 * (noise - low);
        let time = at as f64 / f64::from(spec.rate);
        let envelope = (time * 4.0 * std::f64::consts::PI).sin().abs();
        (envelope * low * 2.0) as f32 * amplitude
    };
    (0..frames)
        .flat_map(|at| std::iter::repeat_n(sample(at), spec.channels))
        .collect()
}

pub(crate) fn silence(spec: Spec, millis: u32) -> Vec<f32> {
    vec![0.0; (u64::from(spec.rate) * u64::from(millis) / 1_000) as usize * spec.channels]
}

/// A file of samples.
pub(crate) fn file(format: Format, spec: Spec, bitrate: u32, samples: &[f32]) -> Vec<u8> {
    let encoding = Encoding {
        format,
        bitrate,
        rate: spec.rate,
        channels: spec.channels,
        constant: false,
    };
    let mut sink = encoding.open().expect("it can be encoded");
    for block in samples.chunks(4_000 * spec.channels) {
        sink.write(block).expect("it can be encoded");
    }
    sink.finish().expect("it can be encoded")
}

pub(crate) fn wav(spec: Spec, samples: &[f32]) -> Vec<u8> {
    file(Format::Wav, spec, 0, samples)
}
