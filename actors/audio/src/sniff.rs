//! What audio is, by its first bytes. Names and declared types are not asked.

/// A container, with its codec where the container's head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opus in Ogg.
    OggOpus,
    /// Vorbis in Ogg.
    OggVorbis,
    /// FLAC in Ogg.
    OggFlac,
    /// MPEG audio, layer III.
    Mp3,
    /// PCM in RIFF.
    Wav,
    /// FLAC by itself.
    Flac,
    /// MP4, as `.m4a`.
    Mp4,
    /// AAC in ADTS frames.
    Adts,
    /// Matroska, as `.webm`.
    WebM,
}

impl Kind {
    /// The media type that the file is served as.
    #[must_use]
    pub fn mime(self) -> &'static str {
        match self {
            Self::OggOpus | Self::OggVorbis | Self::OggFlac => "audio/ogg",
            Self::Mp3 => "audio/mpeg",
            Self::Wav => "audio/wav",
            Self::Flac => "audio/flac",
            Self::Mp4 => "audio/mp4",
            Self::Adts => "audio/aac",
            Self::WebM => "audio/webm",
        }
    }

    /// The usual ending of a file's name, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::OggOpus | Self::OggVorbis | Self::OggFlac => "ogg",
            Self::Mp3 => "mp3",
            Self::Wav => "wav",
            Self::Flac => "flac",
            Self::Mp4 => "m4a",
            Self::Adts => "aac",
            Self::WebM => "webm",
        }
    }

    /// Every media type that is read.
    pub const ALL_MIMES: [&'static str; 7] = [
        "audio/ogg",
        "audio/mpeg",
        "audio/wav",
        "audio/flac",
        "audio/mp4",
        "audio/aac",
        "audio/webm",
    ];
}

/// The kind of audio that begins with these bytes.
#[must_use]
pub fn sniff(file: &[u8]) -> Option<Kind> {
    match file {
        [b'O', b'g', b'g', b'S', ..] => ogg(file),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(Kind::Wav),
        [b'f', b'L', b'a', b'C', ..] => Some(Kind::Flac),
        [b'I', b'D', b'3', ..] => Some(Kind::Mp3),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some(Kind::Mp4),
        [0x1A, 0x45, 0xDF, 0xA3, ..] => Some(Kind::WebM),
        // Eleven bits of synchronisation, the version, two bits of layer: 01 is layer III, 00 is AAC.
        [0xFF, second, ..] if second & 0xF6 == 0xF0 => Some(Kind::Adts),
        [0xFF, second, ..] if second & 0xE6 == 0xE2 => Some(Kind::Mp3),
        _ => None,
    }
}

/// The first packet of a logical stream names its codec (RFC 3533 §6, RFC 7845 §5.1, Vorbis I §4.2.1).
fn ogg(file: &[u8]) -> Option<Kind> {
    let segments = usize::from(*file.get(26)?);
    let packet = file.get(27 + segments..)?;
    match packet {
        [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', ..] => Some(Kind::OggOpus),
        [1, b'v', b'o', b'r', b'b', b'i', b's', ..] => Some(Kind::OggVorbis),
        [0x7F, b'F', b'L', b'A', b'C', ..] => Some(Kind::OggFlac),
        _ => None,
    }
}
