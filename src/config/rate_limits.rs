//! `[rate_limits]`: one token bucket a class and identity (user, address or server).

use serde::{Deserialize, Serialize};

/// A token bucket: `burst` requests at once, refilled by `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    pub per_second: f64,
    pub burst: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    pub enabled: bool,
    /// Endpoints that the specification calls rate-limited and that have no class of their own.
    pub default: RateLimit,
    pub login: RateLimit,
    pub registration: RateLimit,
    pub message: RateLimit,
    pub join: RateLimit,
    pub invite: RateLimit,
    pub media: RateLimit,
    pub federation: RateLimit,
    pub key_claim: RateLimit,
    pub voip: RateLimit,
}

impl RateLimits {
    /// Every class with its key.
    pub fn classes(&self) -> [(&'static str, RateLimit); 10] {
        [
            ("default", self.default),
            ("login", self.login),
            ("registration", self.registration),
            ("message", self.message),
            ("join", self.join),
            ("invite", self.invite),
            ("media", self.media),
            ("federation", self.federation),
            ("key_claim", self.key_claim),
            ("voip", self.voip),
        ]
    }
}

impl Default for RateLimits {
    fn default() -> Self {
        let limit = |per_second, burst| RateLimit { per_second, burst };
        Self {
            enabled: true,
            default: limit(20.0, 200),
            login: limit(0.2, 20),
            registration: limit(0.2, 10),
            message: limit(10.0, 100),
            join: limit(0.5, 30),
            invite: limit(0.5, 30),
            media: limit(20.0, 300),
            federation: limit(50.0, 200),
            key_claim: limit(20.0, 100),
            voip: limit(1.0, 30),
        }
    }
}
