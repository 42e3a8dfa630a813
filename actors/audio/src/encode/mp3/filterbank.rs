//! From samples to the 576 lines of a granule: the polyphase filter bank and the modified cosine transform (ISO/IEC 11172-3,
//! annex C) with long blocks. Every cosine is looked up.

use std::f64::consts::PI;

use oxideav_mp3::{ALIAS_C, C_TABLE};

/// Lines of a granule, and its samples.
pub(super) const LINES: usize = 576;
const BANDS: usize = 32;
/// Samples of a band in a granule.
const SLOTS: usize = LINES / BANDS;
const WINDOW: usize = 512;

/// The constants, the same for every channel.
pub(super) struct Tables {
    window: [f32; WINDOW],
    /// The matrix of the filter bank, folded along its symmetries; a row for each folded sample.
    matrix: [[f32; BANDS]; BANDS],
    /// Window and cosine of the transform; a row for each sample.
    transform: [[f32; SLOTS]; 2 * SLOTS],
    /// Cosine and sine of the butterflies against aliasing.
    butterflies: [(f32, f32); 8],
}

impl Tables {
    pub(super) fn new() -> Self {
        let matrix = |row: usize, band: usize| ((2 * band + 1) as f64 * row as f64 * PI / 64.0).cos() as f32;
        let transform = |sample: usize, line: usize| {
            let window = (PI / 36.0 * (sample as f64 + 0.5)).sin();
            let phase = PI / 72.0 * (2 * sample + 1 + SLOTS) as f64 * (2 * line + 1) as f64;
            (window * phase.cos() / 9.0) as f32
        };
        Self {
            window: C_TABLE.map(|coefficient| coefficient as f32),
            matrix: std::array::from_fn(|row| std::array::from_fn(|band| matrix(row, band))),
            transform: std::array::from_fn(|sample| std::array::from_fn(|line| transform(sample, line))),
            butterflies: ALIAS_C.map(|c| {
                let norm = (1.0 + c * c).sqrt();
                ((1.0 / norm) as f32, (c / norm) as f32)
            }),
        }
    }
}

/// What is kept of a channel from one granule to the next.
pub(super) struct Channel {
    /// The newest samples, newest first.
    samples: [f32; WINDOW],
    /// The bands of the granule before.
    before: [[f32; SLOTS]; BANDS],
}

impl Channel {
    pub(super) fn new() -> Self {
        Self {
            samples: [0.0; WINDOW],
            before: [[0.0; SLOTS]; BANDS],
        }
    }

    /// The lines of the next granule, [`LINES`] samples from -1 to 1.
    pub(super) fn lines(&mut self, tables: &Tables, granule: &[f32]) -> [f32; LINES] {
        let mut bands = [[0.0; SLOTS]; BANDS];
        for (slot, samples) in granule.chunks_exact(BANDS).enumerate() {
            for (band, value) in self.split(tables, samples).into_iter().enumerate() {
                // Every other band has its spectrum upside down.
                bands[band][slot] = if band % 2 == 1 && slot % 2 == 1 { -value } else { value };
            }
        }
        let mut lines = [0.0; LINES];
        for (band, out) in lines.chunks_exact_mut(SLOTS).enumerate() {
            let samples = self.before[band].iter().chain(&bands[band]);
            for (sample, row) in samples.zip(&tables.transform) {
                for (line, factor) in out.iter_mut().zip(row) {
                    *line += sample * factor;
                }
            }
        }
        self.before = bands;
        for border in (SLOTS..LINES).step_by(SLOTS) {
            for (at, (cosine, sine)) in tables.butterflies.iter().enumerate() {
                let (low, high) = (lines[border - 1 - at], lines[border + at]);
                lines[border - 1 - at] = low * cosine + high * sine;
                lines[border + at] = high * cosine - low * sine;
            }
        }
        lines
    }

    /// One sample of each band.
    fn split(&mut self, tables: &Tables, samples: &[f32]) -> [f32; BANDS] {
        self.samples.copy_within(..WINDOW - BANDS, BANDS);
        for (kept, new) in self.samples.iter_mut().zip(samples.iter().rev()) {
            *kept = *new;
        }
        let mut sums = [0.0; 64];
        for (samples, window) in self.samples.chunks_exact(64).zip(tables.window.chunks_exact(64)) {
            for ((sum, sample), factor) in sums.iter_mut().zip(samples).zip(window) {
                *sum += sample * factor;
            }
        }
        // The matrix is even around 16 and odd around 48.
        let folded = |row: usize| match row {
            0 => sums[16],
            1..=16 => sums[16 + row] + sums[16 - row],
            _ => sums[16 + row] - sums[80 - row],
        };
        let mut bands = [0.0; BANDS];
        for (row, factors) in tables.matrix.iter().enumerate() {
            let sample = folded(row);
            for (band, factor) in bands.iter_mut().zip(factors) {
                *band += sample * factor;
            }
        }
        bands
    }
}

#[cfg(test)]
mod tests {
    use oxideav_mp3::{AnalysisState, MdctState, alias_reduce, analyze_granule, forward_overlap, mdct};
    use oxideav_mp3::{BlockType, silent_side_info, window_long_family_analysis};

    use super::*;

    /// The same by the formulas of the standard, each cosine computed.
    #[test]
    fn lines_are_those_of_the_standard() {
        let tables = Tables::new();
        let (mut channel, mut filter) = (Channel::new(), AnalysisState::new());
        let mut overlap: Vec<MdctState> = (0..BANDS).map(|_| MdctState::new()).collect();
        let header =
            oxideav_mp3::make_silent_header(64, 48_000, oxideav_mp3::ChannelMode::SingleChannel).expect("a header");
        let long = silent_side_info(&header).granules[0][0];
        let mut state = 1_u32;
        for _ in 0..6 {
            let granule: [f32; LINES] = std::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (f64::from(state >> 8) / f64::from(1 << 23) - 1.0) as f32
            });
            let lines = channel.lines(&tables, &granule);
            let bands = analyze_granule(&granule, &mut filter);
            let mut expected = [0.0_f32; LINES];
            for (band, values) in bands.iter().enumerate() {
                let upright = |slot: usize| if band % 2 == 1 && slot % 2 == 1 { -1.0 } else { 1.0 };
                let current = std::array::from_fn(|slot| f64::from(values[slot]) * upright(slot));
                let windowed =
                    window_long_family_analysis(&forward_overlap(&current, &mut overlap[band]), BlockType::Long);
                for (line, value) in mdct(&windowed, 36).into_iter().enumerate() {
                    expected[band * SLOTS + line] = (value / 9.0) as f32;
                }
            }
            // What a decoder does to the lines takes the butterflies back.
            let decoded = alias_reduce(&lines, &long);
            let off = decoded.iter().zip(&expected).map(|(got, want)| (got - want).abs());
            assert!(off.fold(0.0, f32::max) < 1e-5);
        }
    }
}
