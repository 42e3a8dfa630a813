//! `[rtc]` and `[delayed_events]`: calls of several people, and events that are sent later.

use serde::{Deserialize, Serialize};

use super::values::BaseUrl;

/// Where calls of several people meet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtc {
    /// Services that let users into LiveKit, the preferred one first.
    pub livekit_service_urls: Vec<BaseUrl>,
}

/// Events that users schedule (MSC4140).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DelayedEvents {
    pub max_delay_secs: u64,
    /// What one user may have scheduled at a time; 0 for nothing at all.
    pub max_scheduled_per_user: u32,
}

impl Default for DelayedEvents {
    fn default() -> Self {
        Self {
            max_delay_secs: 86_400,
            max_scheduled_per_user: 100,
        }
    }
}
