//! What a voice message of a minute costs: time, processor time, the highest memory so far, sizes and loudness.
//! `cargo run --release -p audio --example figures [a WAV file]`; without a file the sound is synthetic.

use std::fs;
use std::time::Instant;

use audio::{Format, Limits, Measured, Spec, Stop, Target, Wishes, convert, measure, optimise};

const LIMITS: Limits = Limits {
    max_duration_ms: 600_000,
};
const SPEC: Spec = Spec {
    rate: 48_000,
    channels: 1,
};

fn main() {
    let wav = std::env::args()
        .nth(1)
        .map_or_else(speech, |path| fs::read(path).unwrap_or_default());
    let target = |format| Target {
        format,
        bitrate: None,
        sample_rate: None,
        channels: None,
        most: SPEC,
    };
    let stop = Stop::default();
    let made = |format, file: &[u8]| convert(file, target(format), LIMITS, &stop).map(|made| (made.file, made.after));
    run("measure WAV", &wav, || {
        measure(&wav, LIMITS, &stop).map(|seen| (wav.clone(), seen))
    });
    let opus = run("WAV to Opus", &wav, || made(Format::Opus, &wav));
    let mp3 = run("WAV to MP3", &wav, || made(Format::Mp3, &wav));
    run("measure Opus", &opus, || {
        measure(&opus, LIMITS, &stop).map(|seen| (opus.clone(), seen))
    });
    run("measure MP3", &mp3, || {
        measure(&mp3, LIMITS, &stop).map(|seen| (mp3.clone(), seen))
    });
    run("Opus to MP3", &opus, || made(Format::Mp3, &opus));
    run("Opus to WAV", &opus, || made(Format::Wav, &opus));
    let wishes = Wishes {
        target_bytes: Some(150 * 1_024),
        preserve_quality: true,
        remove_silence: true,
        loudness_lufs: Some(-23.0),
    };
    run("optimise Opus", &opus, || {
        optimise(&opus, wishes, LIMITS, &stop).map(|made| (made.file.unwrap_or_default(), made.after))
    });
}

/// Something with the rhythm, spectrum and pauses of speech, as a WAV file.
fn speech() -> Vec<u8> {
    let (mut state, mut low) = (1_u32, 0.0_f64);
    let mut voice = |time: f64| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        low += 0.1 * (f64::from(state >> 8) / f64::from(1 << 23) - 1.0 - low);
        (time * 4.0 * std::f64::consts::PI).sin().abs() * low
    };
    // Eight seconds of talk, two of silence.
    let mut sample = |at: usize| {
        let time = at as f64 / 48_000.0;
        if time % 10.0 < 8.0 { voice(time) } else { 0.0 }
    };
    let pcm: Vec<u8> = (0..60 * 48_000)
        .flat_map(|at| ((sample(at) * 32_767.0) as i16).to_le_bytes())
        .collect();
    let mut file = b"RIFF".to_vec();
    file.extend((pcm.len() as u32 + 36).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(48_000_u32.to_le_bytes());
    file.extend(96_000_u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((pcm.len() as u32).to_le_bytes());
    file.extend(pcm);
    file
}

fn run(what: &str, input: &[u8], job: impl FnOnce() -> audio::Outcome<(Vec<u8>, Measured)>) -> Vec<u8> {
    let (begin, cpu) = (Instant::now(), cpu_ticks());
    match job() {
        Ok((file, seen)) => {
            println!(
                "{what:14} {:5} ms, {:5} ms CPU, peak {:4} MiB, {:8} -> {:8} bytes, {} ms, {:?} LUFS",
                begin.elapsed().as_millis(),
                (cpu_ticks() - cpu) * 10,
                peak_kib() / 1_024,
                input.len(),
                file.len(),
                seen.duration_ms,
                seen.loudness_lufs.map(|lufs| (lufs * 10.0).round() / 10.0),
            );
            file
        }
        Err(error) => {
            println!("{what:14} {error}");
            Vec::new()
        }
    }
}

/// Hundredths of a second of user and system time.
fn cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields
        .iter()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum()
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
