//! Making voice messages smaller and better to listen to. What comes out is Opus.

use crate::convert::{Output, slack};
use crate::decode::Decoder;
use crate::encode::Encoding;
use crate::measure::Meter;
use crate::ogg_opus::OpusSink;
use crate::silence::Gate;
use crate::{AudioError, Format, Limits, Measured, Outcome, Spec, Stop, guarded, measure};

/// Where no size is asked for, bits a second of each channel: with quality kept, and without.
const GOOD: u32 = 48_000;
const SMALL: u32 = 24_000;
/// No lower to reach a size, bits a second of each channel: with quality kept, and without.
const LEAST_GOOD: u32 = 24_000;
const LEAST: u32 = 6_000;
/// The highest true peak that normalising leaves, dBTP (EBU R128).
const MAX_TRUE_PEAK: f64 = -1.0;
/// Normalising is done again where it missed by more, dB.
const TOLERANCE: f64 = 0.3;
/// Packets of Opus a second.
const PACKETS: u64 = 50;
/// Encoders miss a size a little at first.
const ATTEMPTS: u32 = 3;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// The file should have at most so many bytes.
    pub target_bytes: Option<u64>,
    /// Rather miss the size than sound bad.
    pub preserve_quality: bool,
    /// Shorten pauses.
    pub remove_silence: bool,
    /// Bring the integrated loudness to so many LUFS (EBU R128), as far as the true peak allows.
    pub loudness_lufs: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimised {
    /// The file; `None` where nothing that could be made is smaller, and nothing else was to be changed.
    pub file: Option<Vec<u8>>,
    /// What it came from.
    pub before: Measured,
    /// What it is, found by decoding it.
    pub after: Measured,
    /// What samples were multiplied with, dB.
    pub gain_db: f64,
    /// Bits a second that the encoder was asked for.
    pub bitrate: Option<u32>,
}

/// Makes of a voice message what is wished, as far as that is possible.
///
/// # Errors
/// As [`AudioError`] says.
pub fn optimise(file: &[u8], wishes: Wishes, limits: Limits, stop: &Stop) -> Outcome<Optimised> {
    guarded(|| {
        let job = Job {
            file,
            wishes,
            limits,
            stop,
        };
        let before = measure(file, limits, stop)?;
        let mut plan = job.plan(&before)?;
        let (mut made, mut bitrate) = job.encode(plan)?;
        let changes_sound = plan.gate.is_some() || plan.gain_db != 0.0;
        if made.len() >= file.len() && !changes_sound {
            let after = before.clone();
            return Ok(Optimised {
                file: None,
                before,
                after,
                gain_db: 0.0,
                bitrate: None,
            });
        }
        let mut after = measure(&made, slack(limits), stop)?;
        // The codec itself makes some sounds quieter.
        let off = Plan::shortfall(wishes.loudness_lufs, &after);
        if off.abs() > TOLERANCE {
            plan.gain_db += off;
            (made, bitrate) = job.encode(plan)?;
            after = measure(&made, slack(limits), stop)?;
        }
        Ok(Optimised {
            file: Some(made),
            before,
            after,
            gain_db: plan.gain_db,
            bitrate: Some(bitrate),
        })
    })
}

struct Job<'a> {
    file: &'a [u8],
    wishes: Wishes,
    limits: Limits,
    stop: &'a Stop,
}

/// What is done with the samples before they are encoded.
#[derive(Clone, Copy)]
struct Plan {
    /// The loudness that silence is told by.
    gate: Option<f64>,
    gain_db: f64,
    spec: Spec,
    /// Of what is encoded.
    duration_ms: u64,
}

impl Plan {
    /// How much louder what was made has to be, dB, as far as its true peak allows; 0 where nothing is wished.
    fn shortfall(wanted: Option<f64>, made: &Measured) -> f64 {
        match (wanted, made.loudness_lufs, made.true_peak_dbtp) {
            (Some(wanted), Some(loudness), Some(peak)) => (wanted - loudness).min((MAX_TRUE_PEAK - peak).max(0.0)),
            _ => 0.0,
        }
    }
}

impl Job<'_> {
    fn plan(&self, before: &Measured) -> Outcome<Plan> {
        let spec = Decoder::open(self.file, self.limits, self.stop)?.spec();
        let gate = before.loudness_lufs.filter(|_| self.wishes.remove_silence);
        let mut plan = Plan {
            gate,
            gain_db: 0.0,
            spec,
            duration_ms: before.duration_ms,
        };
        let (mut loudness, mut peak) = (before.loudness_lufs, before.true_peak_dbtp);
        if gate.is_some() {
            let mut meter = Meter::new(spec)?;
            self.process(plan, &mut |block| meter.add(block))?;
            (loudness, peak) = (meter.loudness_lufs(), meter.true_peak_dbtp());
            plan.duration_ms = meter.duration_ms();
        }
        if let (Some(wanted), Some(loudness), Some(peak)) = (self.wishes.loudness_lufs, loudness, peak) {
            plan.gain_db = (wanted - loudness).min(MAX_TRUE_PEAK - peak);
        }
        Ok(plan)
    }

    /// Decodes once more and hands on what is to be encoded.
    fn process(&self, plan: Plan, sink: &mut dyn FnMut(&mut Vec<f32>) -> Outcome<()>) -> Outcome<()> {
        let mut decoder = Decoder::open(self.file, self.limits, self.stop)?;
        let mut gate = plan.gate.map(|loudness| Gate::new(decoder.spec(), loudness));
        let gain = 10_f64.powf(plan.gain_db / 20.0) as f32;
        let mut amplified = |block: &mut Vec<f32>| {
            if plan.gain_db != 0.0 {
                block.iter_mut().for_each(|sample| *sample *= gain);
            }
            sink(block)
        };
        decoder.drain(|block| {
            if let Some(gate) = &mut gate {
                gate.pass(block);
            }
            amplified(block)
        })?;
        let mut rest = Vec::new();
        if let Some(gate) = &mut gate {
            gate.finish(&mut rest);
        }
        amplified(&mut rest)
    }

    /// Encodes, again with fewer bits where the result is too large.
    fn encode(&self, plan: Plan) -> Outcome<(Vec<u8>, u32)> {
        let (least, usual) = match self.wishes.preserve_quality {
            true => (LEAST_GOOD, GOOD),
            false => (LEAST, SMALL),
        };
        let mut channels = plan.spec.channels;
        let count = |channels: usize| if channels == 2 { 2 } else { 1 };
        let mut wanted = match self.wishes.target_bytes {
            Some(bytes) => bitrate_for(bytes, plan.duration_ms).min(GOOD * count(channels)),
            None => usual * count(channels),
        };
        // Two channels need twice the bits of one.
        if channels == 2 && wanted < 2 * LEAST_GOOD {
            channels = 1;
        }
        for attempt in 1.. {
            let bitrate = wanted.max(least * count(channels));
            let made = self.encode_once(plan, bitrate, channels)?;
            let over = self.wishes.target_bytes.filter(|bytes| made.len() as u64 > *bytes);
            let Some(bytes) = over.filter(|_| attempt < ATTEMPTS && bitrate > least * count(channels)) else {
                return Ok((made, bitrate));
            };
            let share = bytes as f64 / made.len() as f64;
            wanted = (f64::from(bitrate) * share * 0.98) as u32;
        }
        Err(AudioError::Impossible("there were no attempts".to_owned()))
    }

    fn encode_once(&self, plan: Plan, bitrate: u32, channels: usize) -> Outcome<Vec<u8>> {
        let encoding = Encoding {
            format: Format::Opus,
            bitrate,
            rate: Format::Opus.rate_for(plan.spec.rate),
            channels,
            constant: self.wishes.target_bytes.is_some(),
        };
        let mut output = Output::open(plan.spec, encoding)?;
        self.process(plan, &mut |block| output.write(block))?;
        output.finish()
    }
}

/// The bits a second that fill so many bytes.
fn bitrate_for(bytes: u64, duration_ms: u64) -> u32 {
    // The last packet may be the beginning of one more, and the codec's delay takes another.
    let packets = duration_ms * PACKETS / 1_000 + 2;
    let room = bytes.saturating_sub(OpusSink::file_bytes(packets, 0));
    u32::try_from(room * 8 * PACKETS / packets).unwrap_or(u32::MAX)
}
