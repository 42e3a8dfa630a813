//! Files that other programs made: 0.8 s of a sine of 440 Hz at -18 dBFS, by FFmpeg 5.1 with the codecs that the names say.

use crate::testing::LIMITS;
use crate::{Format, Kind, Spec, Stop, Target, convert, measure};

/// A file, what it is, its rate and its channels.
type Fixture = (&'static str, &'static [u8], Kind, u32, u32);

macro_rules! fixture {
    ($name:literal, $kind:ident, $rate:literal, $channels:literal) => {
        (
            $name,
            include_bytes!(concat!("../fixtures/", $name)),
            Kind::$kind,
            $rate,
            $channels,
        )
    };
}

const FIXTURES: [Fixture; 9] = [
    fixture!("aac.m4a", Mp4, 44_100, 1),
    fixture!("aac.aac", Adts, 44_100, 2),
    fixture!("flac.flac", Flac, 16_000, 1),
    fixture!("flac.ogg", OggFlac, 16_000, 2),
    fixture!("vorbis.ogg", OggVorbis, 44_100, 1),
    fixture!("vorbis.webm", WebM, 44_100, 1),
    fixture!("opus.webm", WebM, 48_000, 1),
    fixture!("opus.ogg", OggOpus, 48_000, 2),
    fixture!("lame.mp3", Mp3, 44_100, 1),
];

/// The sine's, of one channel.
const LOUDNESS: f64 = -21.7;

#[test]
fn files_of_others_are_read() {
    for (name, file, kind, rate, channels) in FIXTURES {
        let seen = measure(file, LIMITS, &Stop::default()).expect(name);
        assert_eq!(
            (seen.kind, seen.sample_rate, seen.channels),
            (kind, rate, channels),
            "{name}"
        );
        assert!(seen.duration_ms.abs_diff(800) <= 50, "{name}: {} ms", seen.duration_ms);
        let off = seen.loudness_lufs.expect(name) - LOUDNESS;
        assert!(off.abs() < 0.6, "{name}: {off} dB off");
        assert!(seen.waveform.len() >= 80, "{name}: {} entries", seen.waveform.len());
    }
}

#[test]
fn files_of_others_are_converted() {
    for (name, file, ..) in FIXTURES {
        for format in [Format::Opus, Format::Mp3, Format::Wav] {
            let target = Target {
                format,
                bitrate: None,
                sample_rate: None,
                channels: None,
                most: Spec {
                    rate: 48_000,
                    channels: 2,
                },
            };
            let made = convert(file, target, LIMITS, &Stop::default()).expect(name);
            let off = made.after.duration_ms.abs_diff(made.before.duration_ms);
            assert!(off <= 5, "{name} to {format:?}: {off} ms off");
            let levels = made.before.loudness_lufs.zip(made.after.loudness_lufs);
            let off = levels.map_or(9.9, |(before, after)| before - after);
            assert!(off.abs() < 0.5, "{name} to {format:?}: {off} dB off");
        }
    }
}

/// The beginning of a file is refused, or it is what there is of it.
#[test]
fn half_a_file_is_no_whole_one() {
    for (name, file, ..) in FIXTURES {
        if let Ok(seen) = measure(&file[..file.len() / 2], LIMITS, &Stop::default()) {
            assert!(seen.duration_ms < 600, "{name}: {} ms", seen.duration_ms);
        }
    }
}
