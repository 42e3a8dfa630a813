//! Nothing that is sent makes a decoder panic or run away.

use std::sync::OnceLock;

use proptest::prelude::*;

use crate::decode::Decoder;
use crate::testing::{LIMITS, file, sweep, wav};
use crate::{AudioError, Format, Kind, Limits, Outcome, Spec, Stop, measure, sniff};

const SPEC: Spec = Spec {
    rate: 48_000,
    channels: 1,
};

fn examples() -> [Vec<u8>; 3] {
    static MADE: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    let make = || {
        let sound = sweep(SPEC, 600, 0.5);
        [
            wav(SPEC, &sound),
            file(Format::Mp3, SPEC, 64_000, &sound),
            file(Format::Opus, SPEC, 24_000, &sound),
        ]
    };
    MADE.get_or_init(make).clone()
}

/// Without the guard against panics.
fn decode(file: &[u8]) -> Outcome<u64> {
    Decoder::open(file, LIMITS, &Stop::default())?.drain(|_| Ok(()))
}

#[test]
fn what_is_made_is_recognised() {
    let kinds = examples().map(|file| sniff(&file));
    assert_eq!(kinds, [Some(Kind::Wav), Some(Kind::Mp3), Some(Kind::OggOpus)]);
}

#[test]
fn what_is_no_audio_is_refused() {
    for bytes in [&b""[..], b"hello", b"\x89PNG\r\n\x1a\n", b"OggS", b"{\"a\": 1}"] {
        assert_eq!(
            measure(bytes, LIMITS, &Stop::default()),
            Err(AudioError::Unrecognised),
            "{bytes:?}"
        );
    }
    for head in [
        &b"RIFF\x24\0\0\0WAVE"[..],
        b"fLaC",
        b"ID3\x04\0\0\0\0\0\0",
        b"\0\0\0\x18ftypM4A ",
        b"\x1A\x45\xDF\xA3",
        b"\xFF\xFB\x90",
    ] {
        let refused = measure(head, LIMITS, &Stop::default()).expect_err("there is no sound in a head");
        assert!(
            matches!(refused, AudioError::Broken(_) | AudioError::Unsupported(_)),
            "{head:?}: {refused}"
        );
    }
}

#[test]
fn too_long_is_refused_where_it_gets_too_long() {
    for file in examples() {
        let limits = Limits { max_duration_ms: 500 };
        assert_eq!(
            measure(&file, limits, &Stop::default()),
            Err(AudioError::TooLong { max_ms: 500 })
        );
    }
}

#[test]
fn a_job_that_was_stopped_ends() {
    let stop = Stop::default();
    stop.clone().set();
    for file in examples() {
        assert_eq!(measure(&file, LIMITS, &stop), Err(AudioError::Stopped));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_refused_or_decoded(which in 0_usize..3, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40), cut in any::<prop::sample::Index>()) {
        let mut file = examples()[which].clone();
        for (at, byte) in edits {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let end = 1 + cut.index(file.len());
        let (_whole, _part) = (decode(&file), decode(&file[..end]));
    }

    #[test]
    fn noise_behind_a_true_head_is_refused_or_decoded(which in 0_usize..3, keep in 0_usize..200, noise in prop::collection::vec(any::<u8>(), 0..4_000)) {
        let mut file = examples()[which].clone();
        file.truncate(keep);
        file.extend(noise);
        let _outcome = decode(&file);
    }

    #[test]
    fn noise_in_opus_packets_is_refused_or_decoded(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20), channels in 1_u8..3) {
        let mut head = b"OpusHead\x01".to_vec();
        head.extend([channels, 0, 0, 0x80, 0xBB, 0, 0, 0, 0, 0]);
        let mut codec = crate::ogg_opus::Packets::open(&head).expect("a good head");
        let mut out = Vec::new();
        for packet in packets {
            let _outcome = codec.decode(&packet, &mut out);
        }
    }
}
