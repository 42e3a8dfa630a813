//! Tokens: random texts that only their owner keeps. The database knows their SHA-256.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::rng::Rng;

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// A text that no log may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text itself.
    #[must_use]
    pub fn into_inner(self) -> String {
        self.0
    }

    /// Its SHA-256.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// SHA-256 of a token.
#[must_use]
pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// A new token of about 250 bits; the prefix tells people who find one what it is.
#[must_use]
pub fn generate(rng: &Rng, prefix: &str) -> Secret {
    Secret(format!("{prefix}_{}", rng.alphanumeric(42)))
}

/// A new device id: ten capital letters and digits.
#[must_use]
pub fn device_id(rng: &Rng) -> String {
    rng.alphanumeric(10).to_ascii_uppercase()
}
