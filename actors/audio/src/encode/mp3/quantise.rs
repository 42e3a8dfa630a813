//! The lines of a granule as integers, as fine as the bits allow, and the tables of codes that write them shortest.

use oxideav_mp3::huffman::{big_table_reach, choose_best_count1_table, count_huffman_bits, partition_split};
use oxideav_mp3::inner_loop::{BIG_VALUES_LIMIT, subdivide_bands};
use oxideav_mp3::{GranuleChannel, GranuleChannelData, MpegVersion};

use super::filterbank::LINES;

/// The tables with codes of their own.
const TABLES: [u8; 16] = [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 24, 0];
/// The places in [`TABLES`] of those whose codes others share, with more bits behind the largest value: the bits of the table
/// itself, and the first and last that shares them.
const LONG: [(usize, u32, u8, u8); 2] = [(13, 1, 16, 23), (14, 4, 24, 31)];
/// The bits behind the largest value, from table 16 on.
const BEHIND: [u32; 16] = [1, 2, 3, 4, 6, 8, 10, 13, 4, 5, 6, 7, 8, 9, 11, 13];
/// The largest value that has a code.
const ESCAPE: usize = 15;
/// What a gain of one means (ISO/IEC 11172-3 §2.4.2.7).
const GAIN_OF_ONE: i32 = 210;
/// What is added before cutting off, so that the nearer integer is taken, as it is after the decoder's power of 4/3.
const NEAREST: f32 = 0.405_4;
/// Where that is moved to, at most, to keep the energy of the lines.
const ROUNDING: (f32, f32) = (0.1, 0.5);
/// How often that is tried.
const CORRECTIONS: usize = 5;
/// How much the energy may be off: 0.2 dB.
const CLOSE: f32 = 0.047;
/// What the length of a granule's codes can be written as.
const MOST_BITS: usize = 4_095;

/// How many bits each pair of values takes in each of [`TABLES`], signs counted.
pub(super) struct Quantiser {
    lengths: Vec<[u8; TABLES.len()]>,
    rate: u32,
    version: MpegVersion,
}

/// How integers are written.
struct Coding {
    big_pairs: usize,
    quads: usize,
    region_counts: (u8, u8),
    tables: [u8; 3],
    quad_table_b: bool,
    bits: usize,
}

/// Integers that fit.
struct Fitting {
    gain: u8,
    values: [i32; LINES],
    coding: Coding,
}

impl Fitting {
    /// Of the lines that a decoder makes of it.
    fn energy(&self) -> f32 {
        let step = scale(self.gain).powf(-4.0 / 3.0);
        let sum: f32 = self.values.iter().map(|value| (*value as f32).powf(8.0 / 3.0)).sum();
        sum * step * step
    }
}

impl Quantiser {
    pub(super) fn new(rate: u32, version: MpegVersion) -> Self {
        let mut values = [0; LINES];
        let mut row = |pair: usize| {
            (values[0], values[1]) = ((pair / 16) as i32, (pair % 16) as i32);
            let escapes = values[..2].iter().filter(|value| **value == ESCAPE as i32).count();
            TABLES.map(|table| {
                let bits = count_huffman_bits(&values, 1, (2, 2), [table, 0, 0], 0, false);
                let behind = LONG
                    .iter()
                    .find(|(at, ..)| TABLES[*at] == table)
                    .map_or(0, |long| long.1 as usize);
                bits.and_then(|bits| u8::try_from(bits - behind * escapes).ok())
                    .unwrap_or(u8::MAX)
            })
        };
        Self {
            lengths: (0..256).map(&mut row).collect(),
            rate,
            version,
        }
    }

    /// The finest integers whose codes fit in so many bits, and how many those take. Fills `side`.
    pub(super) fn quantise(
        &self,
        lines: &[f32; LINES],
        most_bits: usize,
        side: &mut GranuleChannel,
    ) -> (GranuleChannelData, usize) {
        let powers = lines.map(|line| line.abs().powf(0.75));
        let energy: f32 = lines.iter().map(|line| line * line).sum();
        let share = |found: &Option<Fitting>| found.as_ref().map_or(1.0, |found| found.energy() / energy);
        let (mut low, mut high) = ROUNDING;
        let mut rounding = NEAREST;
        let mut best = self.finest(&powers, rounding, most_bits);
        let mut off = if energy > 0.0 { share(&best) - 1.0 } else { 0.0 };
        let mut least = off.abs();
        // Coarse integers of noise add up to more, or to less, than the noise.
        for _ in 0..CORRECTIONS {
            if least < CLOSE {
                break;
            }
            *(if off > 0.0 { &mut high } else { &mut low }) = rounding;
            rounding = f32::midpoint(low, high);
            let other = self.finest(&powers, rounding, most_bits);
            off = share(&other) - 1.0;
            if off.abs() < least {
                (best, least) = (other, off.abs());
            }
        }
        let Fitting {
            gain,
            mut values,
            coding,
        } = best.unwrap_or_else(|| Fitting {
            gain: u8::MAX,
            values: [0; LINES],
            coding: self.code(&[0; LINES]),
        });
        for (value, line) in values.iter_mut().zip(lines) {
            if *line < 0.0 {
                *value = -*value;
            }
        }
        side.global_gain = gain;
        side.big_values = coding.big_pairs as u16;
        side.table_select = coding.tables;
        (side.region0_count, side.region1_count) = coding.region_counts;
        side.count1table_select = coding.quad_table_b;
        let data = GranuleChannelData {
            is: values,
            big_pairs: coding.big_pairs,
            count1_quads: coding.quads,
        };
        (data, coding.bits)
    }

    /// The lowest gain whose codes fit in so many bits: the higher, the coarser.
    fn finest(&self, powers: &[f32; LINES], rounding: f32, most_bits: usize) -> Option<Fitting> {
        let highest = powers.iter().copied().fold(0.0, f32::max);
        let fits = |gain: u8| {
            let scale = scale(gain);
            if highest * scale + rounding >= (BIG_VALUES_LIMIT + 1) as f32 {
                return None;
            }
            let values = powers.map(|power| (power * scale + rounding) as i32);
            let coding = self.code(&values);
            (coding.bits <= most_bits.min(MOST_BITS)).then_some(Fitting { gain, values, coding })
        };
        let (mut low, mut high) = (0, u8::MAX);
        let mut best = None;
        while low < high {
            let middle = low + (high - low) / 2;
            match fits(middle) {
                Some(found) => (best, high) = (Some(found), middle),
                None => low = middle + 1,
            }
        }
        best
    }

    /// How to write integers from zero up.
    fn code(&self, values: &[i32; LINES]) -> Coding {
        let split = partition_split(values);
        let big = split.big_pairs * 2;
        let regions = subdivide_bands(self.rate, self.version, split.big_pairs);
        let (first, second) = regions.region_ends;
        let coded = [&values[..first], &values[first..second], &values[second..big]].map(|part| self.shortest(part));
        let (quad_table_b, quad_bits) = choose_best_count1_table(values, big, big + split.count1_quads * 4);
        Coding {
            big_pairs: split.big_pairs,
            quads: split.count1_quads,
            region_counts: (regions.region0_count, regions.region1_count),
            tables: coded.map(|(table, _)| table),
            quad_table_b,
            bits: coded.iter().map(|(_, bits)| bits).sum::<usize>() + quad_bits,
        }
    }

    /// The table that writes a region shortest, and in how many bits.
    fn shortest(&self, values: &[i32]) -> (u8, usize) {
        let highest = values.iter().copied().max().unwrap_or(0).unsigned_abs();
        if highest == 0 {
            return (0, 0);
        }
        let mut sums = [0_u32; TABLES.len()];
        let mut escapes = 0;
        for pair in values.chunks_exact(2) {
            let (x, y) = ((pair[0] as usize).min(ESCAPE), (pair[1] as usize).min(ESCAPE));
            escapes += u32::from(x == ESCAPE) + u32::from(y == ESCAPE);
            for (sum, bits) in sums.iter_mut().zip(&self.lengths[x * 16 + y]) {
                *sum += u32::from(*bits);
            }
        }
        let short = TABLES[..LONG[0].0]
            .iter()
            .zip(sums)
            .filter(|(table, _)| big_table_reach(**table) >= highest)
            .map(|(table, bits)| (*table, bits));
        let long = LONG.iter().filter_map(|(at, _, first, last)| {
            let table = (*first..=*last).find(|table| big_table_reach(*table) >= highest)?;
            Some((table, sums[*at] + escapes * BEHIND[usize::from(table - 16)]))
        });
        let best = short.chain(long).min_by_key(|(_, bits)| *bits);
        // The limit of the values is within the reach of the last table.
        best.map_or((31, usize::MAX / 4), |(table, bits)| (table, bits as usize))
    }
}

/// What the powers of lines are multiplied with.
fn scale(gain: u8) -> f32 {
    ((GAIN_OF_ONE - i32::from(gain)) as f32 * 0.187_5).exp2()
}

#[cfg(test)]
mod tests {
    use oxideav_mp3::{exact_bit_count_band_aligned, make_silent_header, silent_side_info};

    use super::*;

    /// Bits are counted as by trying every table, and as many as may be are used.
    #[test]
    fn the_shortest_codes_are_found() {
        let quantiser = Quantiser::new(48_000, MpegVersion::Mpeg1);
        let header = make_silent_header(64, 48_000, oxideav_mp3::ChannelMode::SingleChannel).expect("a header");
        let mut state = 1_u32;
        for (loudest, most_bits) in [
            (1.0_f64, 650),
            (0.01, 650),
            (0.3, 3_000),
            (1.0, 4_095),
            (0.000_1, 100),
            (0.0, 650),
        ] {
            let mut side = silent_side_info(&header).granules[0][0];
            let lines = std::array::from_fn(|line| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((f64::from(state >> 8) / f64::from(1 << 23) - 1.0) * loudest * (-(line as f64) / 80.0).exp()) as f32
            });
            let (made, bits) = quantiser.quantise(&lines, most_bits, &mut side);
            let counted = exact_bit_count_band_aligned(&made.is, &side, 48_000, MpegVersion::Mpeg1).expect("codes");
            assert_eq!(bits, counted.bits);
            assert!(counted.bits <= most_bits, "{} of {most_bits}", counted.bits);
            if loudest > 0.0 {
                assert!(counted.bits * 10 >= most_bits * 8, "{} of {most_bits}", counted.bits);
            }
        }
    }
}
