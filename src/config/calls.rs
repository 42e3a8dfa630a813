//! `[turn]` and `[voice]`: calls, and messages that are spoken.

use serde::{Deserialize, Serialize};

use super::values::Secret;

/// What `GET /_matrix/client/v3/voip/turnServer` hands out. Without `uris` there is no TURN server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turn {
    pub uris: Vec<String>,
    /// STUN servers, for `GET /_matrix/client/v3/voip/config`.
    pub stun_uris: Vec<String>,
    /// Makes time-limited credentials (TURN REST API); or else the fixed `username` and `password`.
    pub shared_secret: Option<Secret>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub user_lifetime_secs: u64,
    /// The same for guests, and for those without a token.
    pub guest_lifetime_secs: u64,
    pub allow_guests: bool,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            uris: Vec::new(),
            stun_uris: Vec::new(),
            shared_secret: None,
            username: None,
            password: None,
            user_lifetime_secs: 3_600,
            guest_lifetime_secs: 600,
            allow_guests: false,
        }
    }
}

/// Voice messages that are uploaded to `/_matrix/client/v3/voice/upload`, and what is made of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Voice {
    /// `media.max_upload_bytes` holds as well.
    pub max_size_bytes: u64,
    pub max_duration_secs: u64,
    /// How long a message may be worked on; then the work is given up.
    pub job_deadline_secs: u64,
    /// Hz; what conversions keep at most where they are asked for no rate.
    pub default_sample_rate: u32,
    /// The same for channels.
    pub default_channels: u32,
    /// What normalising aims at.
    pub loudness_lufs: f64,
}

impl Default for Voice {
    fn default() -> Self {
        Self {
            max_size_bytes: 104_857_600,
            max_duration_secs: 600,
            job_deadline_secs: 300,
            default_sample_rate: 48_000,
            default_channels: 2,
            loudness_lufs: -23.0,
        }
    }
}
