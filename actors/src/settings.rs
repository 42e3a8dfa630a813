//! What the behaviour depends on and an operator may set. The process's configuration is turned into this at start.

use std::time::Duration;

use federation::{KeyRingSettings, OutboundSettings, WireSettings};
use ipnet::IpNet;
use ruma::RoomVersionId;

use crate::mail::MailSettings;
use crate::policy::judge::PolicyRules;

/// Settings of the actors.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The version of rooms whose creator names none.
    pub default_room_version: RoomVersionId,
    /// Actor threads.
    pub arbiters: usize,
    /// An actor without work for this long is passivated.
    pub room_idle_secs: u64,
    /// The same for user sessions.
    pub session_idle_secs: u64,
    /// The same for remote servers.
    pub peer_idle_secs: u64,
    /// Snapshots of rooms kept in memory, in bytes.
    pub room_cache_bytes: u64,
    /// Single events kept in memory, in bytes.
    pub event_cache_bytes: u64,
    /// User views kept in memory, in bytes.
    pub user_cache_bytes: u64,
    /// Rooms, events and users that nobody has asked for in this time leave memory.
    pub cache_idle_secs: u64,
    /// argon2id memory, KiB.
    pub argon2_memory_kib: u32,
    /// argon2id passes.
    pub argon2_iterations: u32,
    /// argon2id lanes.
    pub argon2_parallelism: u32,
    /// Lifetime of access tokens that can be refreshed, milliseconds.
    pub refreshable_access_token_lifetime_ms: i64,
    /// Lifetime of refresh tokens, milliseconds; `None` for ever.
    pub refresh_token_lifetime_ms: Option<i64>,
    /// For how long a proved password counts for further user-interactive stages, milliseconds.
    pub uia_session_ms: i64,
    /// How long an unfinished user-interactive authentication stays open, milliseconds.
    pub uia_timeout_ms: i64,
    /// Whether presence is tracked.
    pub presence_enabled: bool,
    /// Where media lies.
    pub media_path: std::path::PathBuf,
    /// The largest upload, bytes.
    pub max_upload_bytes: u64,
    /// How long a reserved address waits for its upload, milliseconds.
    pub unused_upload_lifetime_ms: i64,
    /// What voice messages may be.
    pub voice: crate::media::voice::Settings,
    /// What one user may keep.
    pub user_limits: UserLimits,
    /// Requests to other servers.
    pub wire: WireSettings,
    /// Keys, this server's former ones and where to ask for those of others.
    pub keyring: KeyRingSettings,
    /// Other requests that leave the server.
    pub outbound: OutboundSettings,
    /// What this server refuses as a policy server, if it is one.
    pub policy: Option<PolicyRules>,
    /// Never connected to for a preview, beside those of `outbound`.
    pub preview_blocklist: Vec<IpNet>,
    /// How mail is sent, if at all.
    pub mail: Option<MailSettings>,
    /// What users may schedule.
    pub delayed: DelayedLimits,
}

/// Events that users may have waiting (MSC4140).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayedLimits {
    /// The longest delay, milliseconds.
    pub max_delay_ms: i64,
    /// Events of one user; 0 for none at all.
    pub max_scheduled: u32,
}

impl Default for DelayedLimits {
    fn default() -> Self {
        Self {
            max_delay_ms: 24 * 60 * 60 * 1_000,
            max_scheduled: 100,
        }
    }
}

/// What one user may keep on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserLimits {
    /// Entries of account data, those of rooms included.
    pub account_data_entries: u32,
    /// All account data together, bytes.
    pub account_data_bytes: u64,
    /// Stored filters; of more the oldest are forgotten.
    pub filters: u32,
    /// Messages that wait for one device; of more the oldest are dropped.
    pub to_device_messages: u32,
    /// The key backup with all its versions, bytes.
    pub key_backup_bytes: u64,
}

impl Default for UserLimits {
    fn default() -> Self {
        Self {
            account_data_entries: 50_000,
            account_data_bytes: 64 * 1024 * 1024,
            filters: 500,
            to_device_messages: 50_000,
            key_backup_bytes: 512 * 1024 * 1024,
        }
    }
}

impl Settings {
    /// See `cache_idle_secs`.
    #[must_use]
    pub fn cache_idle(&self) -> Duration {
        Duration::from_secs(self.cache_idle_secs)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_room_version: RoomVersionId::V11,
            arbiters: 2,
            room_idle_secs: 900,
            session_idle_secs: 900,
            peer_idle_secs: 900,
            room_cache_bytes: 256 * 1024 * 1024,
            event_cache_bytes: 64 * 1024 * 1024,
            user_cache_bytes: 64 * 1024 * 1024,
            cache_idle_secs: 1_800,
            argon2_memory_kib: 19_456,
            argon2_iterations: 2,
            argon2_parallelism: 1,
            refreshable_access_token_lifetime_ms: 5 * 60 * 1_000,
            refresh_token_lifetime_ms: None,
            uia_session_ms: 5 * 60 * 1_000,
            uia_timeout_ms: 15 * 60 * 1_000,
            presence_enabled: true,
            media_path: "data/media".into(),
            max_upload_bytes: 100 * 1024 * 1024,
            unused_upload_lifetime_ms: 24 * 60 * 60 * 1_000,
            voice: crate::media::voice::Settings::default(),
            user_limits: UserLimits::default(),
            // Nobody is to be talked to by accident.
            wire: WireSettings {
                enabled: false,
                ..WireSettings::default()
            },
            keyring: KeyRingSettings::default(),
            outbound: OutboundSettings::default(),
            policy: None,
            preview_blocklist: Vec::new(),
            mail: None,
            delayed: DelayedLimits::default(),
        }
    }
}
