//! Whole journeys of sound, measured at both ends.

use crate::decode::Decoder;
use crate::testing::{LIMITS, babble, file, silence, sweep, wav};
use crate::{AudioError, Format, Kind, Measured, Spec, Stop, Target, WAVEFORM_LEN, Wishes, convert, measure, optimise};

const MOST: Spec = Spec {
    rate: 48_000,
    channels: 2,
};

fn target(format: Format) -> Target {
    Target {
        format,
        bitrate: None,
        sample_rate: None,
        channels: None,
        most: MOST,
    }
}

fn seen(file: &[u8]) -> Measured {
    measure(file, LIMITS, &Stop::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn near(a: Option<f64>, b: Option<f64>, tolerance: f64) {
    let (a, b) = (a.expect("there is sound"), b.expect("there is sound"));
    assert!(
        (a - b).abs() <= tolerance,
        "{a} and {b} differ by more than {tolerance}"
    );
}

#[test]
fn measures_are_true() {
    let spec = Spec {
        rate: 44_100,
        channels: 2,
    };
    let mut sound = silence(spec, 1_000);
    sound.extend(sweep(spec, 3_000, 0.25));
    let seen = seen(&wav(spec, &sound));
    assert_eq!(
        (seen.kind, seen.duration_ms, seen.sample_rate, seen.channels),
        (Kind::Wav, 4_000, 44_100, 2)
    );
    assert_eq!(seen.waveform.len(), WAVEFORM_LEN);
    assert!(
        seen.waveform[..24].iter().all(|entry| *entry == 0),
        "{:?}",
        seen.waveform
    );
    assert!(
        seen.waveform[26..].iter().all(|entry| (250..=257).contains(entry)),
        "{:?}",
        seen.waveform
    );
    // A sine of a quarter of full scale has its true peak at -12 dB.
    near(seen.true_peak_dbtp, Some(-12.04), 0.1);
}

/// EBU Tech 3341: a stereo sine of 1 kHz at -23 dBFS has -23 LUFS.
#[test]
fn loudness_is_as_the_standard_has_it() {
    let sine: Vec<f32> = (0..48_000 * 20)
        .map(|at| (at as f32 / 48.0 * std::f32::consts::TAU).sin() * 10_f32.powf(-23.0 / 20.0))
        .flat_map(|sample| [sample, sample])
        .collect();
    near(seen(&wav(MOST, &sine)).loudness_lufs, Some(-23.0), 0.1);
}

#[test]
fn every_format_becomes_every_other() {
    for channels in [1, 2] {
        let spec = Spec { rate: 48_000, channels };
        let sound = sweep(spec, 3_000, 0.5);
        for from in [Format::Wav, Format::Mp3, Format::Opus] {
            let original = file(from, spec, 96_000, &sound);
            for to in [Format::Wav, Format::Mp3, Format::Opus] {
                let made = convert(&original, target(to), LIMITS, &Stop::default()).expect("it can be converted");
                let case = format!("{from:?} to {to:?}, {channels} channels");
                assert_eq!(made.after.kind.mime(), to.mime(), "{case}");
                assert_eq!(made.after.channels as usize, channels, "{case}");
                let off = made.after.duration_ms.abs_diff(3_000);
                assert!(off <= 5, "{case}: {off} ms off");
                near(made.after.loudness_lufs, made.before.loudness_lufs, 0.5);
                // Only what both codecs overshoot by together is a little more.
                let most = if (from, to) == (Format::Mp3, Format::Opus) {
                    1.1
                } else {
                    1.0
                };
                near(made.after.true_peak_dbtp, made.before.true_peak_dbtp, most);
            }
        }
    }
}

/// What was at one second still is, whatever the codecs' delays.
#[test]
fn sound_keeps_its_place() {
    for rate in [16_000, 44_100, 48_000] {
        let spec = Spec { rate, channels: 1 };
        let mut sound = silence(spec, 1_000);
        sound.extend(sweep(spec, 500, 0.5));
        let original = wav(spec, &sound);
        for format in [Format::Mp3, Format::Opus] {
            let made = convert(&original, target(format), LIMITS, &Stop::default()).expect("it can be converted");
            let mut decoder = Decoder::open(&made.file, LIMITS, &Stop::default()).expect("it can be decoded");
            let mut samples = Vec::new();
            decoder
                .drain(|block| {
                    samples.append(block);
                    Ok(())
                })
                .expect("it can be decoded");
            let onset = samples
                .iter()
                .position(|sample| sample.abs() > 0.25)
                .expect("there is sound");
            let millis = onset as f64 * 1_000.0 / f64::from(decoder.spec().rate);
            // A sine of 200 Hz reaches half its amplitude after 0.4 ms.
            assert!((millis - 1_000.4).abs() < 0.6, "{format:?} {rate}: {millis}");
        }
    }
}

#[test]
fn rates_and_channels_change() {
    let spec = Spec {
        rate: 44_100,
        channels: 2,
    };
    let original = wav(spec, &sweep(spec, 2_000, 0.5));
    let level = seen(&original).true_peak_dbtp;
    for (format, sample_rate) in [
        (Format::Wav, 8_000),
        (Format::Wav, 16_000),
        (Format::Mp3, 16_000),
        (Format::Mp3, 22_050),
        (Format::Mp3, 32_000),
        (Format::Mp3, 44_100),
        (Format::Opus, 8_000),
        (Format::Opus, 16_000),
        (Format::Opus, 48_000),
    ] {
        let target = Target {
            sample_rate: Some(sample_rate),
            channels: Some(1),
            ..target(format)
        };
        let made = convert(&original, target, LIMITS, &Stop::default()).expect("it can be converted");
        let expected = if format == Format::Opus { 48_000 } else { sample_rate };
        assert_eq!(
            (made.after.sample_rate, made.after.channels),
            (expected, 1),
            "{format:?} {sample_rate}"
        );
        let off = made.after.duration_ms.abs_diff(2_000);
        assert!(off <= 5, "{format:?} {sample_rate}: {off} ms off");
        near(made.after.true_peak_dbtp, level, 1.5);
    }
    let odd = Target {
        sample_rate: Some(12_345),
        ..target(Format::Mp3)
    };
    assert!(matches!(
        convert(&original, odd, LIMITS, &Stop::default()),
        Err(AudioError::Impossible(_))
    ));
}

#[test]
fn bitrates_are_kept() {
    let spec = Spec {
        rate: 48_000,
        channels: 1,
    };
    let original = wav(spec, &babble(spec, 5_000, 0.5));
    for (format, wanted) in [
        (Format::Mp3, 32_000),
        (Format::Mp3, 64_000),
        (Format::Mp3, 128_000),
        (Format::Mp3, 320_000),
        (Format::Opus, 16_000),
        (Format::Opus, 64_000),
        (Format::Opus, 128_000),
    ] {
        let target = Target {
            bitrate: Some(wanted),
            ..target(format)
        };
        let made = convert(&original, target, LIMITS, &Stop::default()).expect("it can be converted");
        assert_eq!(made.bitrate, Some(wanted));
        let achieved = made.file.len() as f64 * 8.0 / 5.0 / f64::from(wanted);
        let bounds = if format == Format::Mp3 { 0.97..1.05 } else { 0.5..1.3 };
        assert!(bounds.contains(&achieved), "{format:?} {wanted}: {achieved}");
        // Below 20 kbit/s Opus is a codec for speech, and whispers are the hardest of it.
        let most = if wanted < 20_000 { 2.0 } else { 0.3 };
        near(made.after.loudness_lufs, made.before.loudness_lufs, most);
    }
}

#[test]
fn mp3_keeps_the_level() {
    for rate in [16_000, 24_000, 44_100, 48_000] {
        let spec = Spec { rate, channels: 1 };
        let mut state = 1_u32;
        let noise = (0..rate * 3).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((f64::from(state >> 8) / f64::from(1 << 23) - 1.0) * 0.3) as f32
        });
        let sounds = [sweep(spec, 3_000, 0.5), babble(spec, 3_000, 0.5), noise.collect()];
        for (sound, bitrate) in sounds
            .iter()
            .flat_map(|sound| [(sound, 32_000), (sound, 64_000), (sound, 128_000)])
        {
            let target = Target {
                bitrate: Some(bitrate),
                ..target(Format::Mp3)
            };
            let made = convert(&wav(spec, sound), target, LIMITS, &Stop::default()).expect("it can be converted");
            near(made.after.loudness_lufs, made.before.loudness_lufs, 0.3);
        }
    }
}

#[test]
fn loudness_is_normalised_within_the_true_peak() {
    let spec = Spec {
        rate: 48_000,
        channels: 1,
    };
    for (amplitude, wanted) in [(0.02, -23.0), (0.9, -23.0), (0.1, -18.0)] {
        let original = wav(spec, &babble(spec, 5_000, amplitude));
        let wishes = Wishes {
            loudness_lufs: Some(wanted),
            preserve_quality: true,
            ..Wishes::default()
        };
        let made = optimise(&original, wishes, LIMITS, &Stop::default()).expect("it can be optimised");
        near(made.after.loudness_lufs, Some(wanted), 1.0);
        assert!(made.gain_db != 0.0 && made.after.duration_ms.abs_diff(5_000) <= 5);
    }
    // One click among whispers: its peak may not rise above -1 dBTP.
    let mut sound = babble(spec, 5_000, 0.01);
    for sample in &mut sound[100_000..100_010] {
        *sample = 0.5;
    }
    let wishes = Wishes {
        loudness_lufs: Some(-10.0),
        ..Wishes::default()
    };
    let made = optimise(&wav(spec, &sound), wishes, LIMITS, &Stop::default()).expect("it can be optimised");
    assert!(made.gain_db < 7.0, "{}", made.gain_db);
    assert!(made.after.loudness_lufs < Some(-30.0));
}

#[test]
fn pauses_are_shortened_and_sound_stays() {
    let spec = Spec {
        rate: 48_000,
        channels: 1,
    };
    let mut sound = silence(spec, 3_000);
    sound.extend(sweep(spec, 2_000, 0.5));
    sound.extend(silence(spec, 4_000));
    sound.extend(sweep(spec, 1_000, 0.5));
    sound.extend(silence(spec, 300));
    sound.extend(sweep(spec, 1_000, 0.5));
    sound.extend(silence(spec, 3_000));
    let wishes = Wishes {
        remove_silence: true,
        ..Wishes::default()
    };
    let made = optimise(&wav(spec, &sound), wishes, LIMITS, &Stop::default()).expect("it can be optimised");
    // 200 + 2000 + 500 + 1000 + 300 + 1000 + 300
    let off = made.after.duration_ms.abs_diff(5_300);
    assert!(off <= 60, "{} ms", made.after.duration_ms);
    near(made.after.loudness_lufs, made.before.loudness_lufs, 1.0);

    let quiet = wav(spec, &silence(spec, 3_000));
    let made = optimise(&quiet, wishes, LIMITS, &Stop::default()).expect("silence is audio");
    assert_eq!((made.after.duration_ms, made.after.loudness_lufs), (3_000, None));
}

#[test]
fn sizes_are_reached_where_quality_allows() {
    let spec = Spec {
        rate: 48_000,
        channels: 2,
    };
    let original = wav(spec, &babble(spec, 20_000, 0.5));
    let size = |target_bytes, preserve_quality| {
        let wishes = Wishes {
            target_bytes: Some(target_bytes),
            preserve_quality,
            ..Wishes::default()
        };
        let made = optimise(&original, wishes, LIMITS, &Stop::default()).expect("it can be optimised");
        assert!(made.after.duration_ms.abs_diff(20_000) <= 5);
        made.file.expect("it is much smaller").len() as u64
    };
    for target in [200_000, 100_000, 50_000, 25_000] {
        let made = size(target, false);
        assert!(
            (target * 85 / 100..=target).contains(&made),
            "{made} bytes for {target}"
        );
    }
    // 24 kbit/s and no less.
    let made = size(10_000, true);
    assert!((55_000..70_000).contains(&made), "{made} bytes");
}

#[test]
fn what_is_small_already_stays() {
    let spec = Spec {
        rate: 48_000,
        channels: 1,
    };
    let original = file(Format::Opus, spec, 8_000, &babble(spec, 5_000, 0.5));
    let made = optimise(&original, Wishes::default(), LIMITS, &Stop::default()).expect("it can be optimised");
    assert_eq!((made.file, made.gain_db), (None, 0.0));
    assert_eq!(made.before, made.after);
}
