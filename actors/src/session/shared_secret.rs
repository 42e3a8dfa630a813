//! What registration by a shared secret rests on: nonces that serve once, and a message authentication code.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use lru::LruCache;
use sha1::Sha1;
use sha2::Sha256;

use crate::clock::Millis;
use crate::rng::Rng;

/// How long a nonce serves, milliseconds.
const LIFETIME_MS: Millis = 60_000;
/// Nonces at a time; the oldest are forgotten first.
const MAX_NONCES: usize = 1_000;

/// Nonces handed out and not used yet.
pub struct Nonces(Mutex<LruCache<String, Millis>>);

impl Default for Nonces {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(
            NonZeroUsize::new(MAX_NONCES).unwrap_or(NonZeroUsize::MIN),
        )))
    }
}

impl Nonces {
    /// A new one.
    pub fn make(&self, rng: &Rng, now: Millis) -> String {
        let nonce = rng.alphanumeric(64);
        // Every change is a single step: a panic elsewhere leaves nothing half done.
        let mut nonces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.put(nonce.clone(), now + LIFETIME_MS);
        nonce
    }

    /// Whether it serves; it does not again.
    pub fn take(&self, nonce: &str, now: Millis) -> bool {
        let mut nonces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.pop(nonce).is_some_and(|expires| now < expires)
    }
}

/// Whether `mac` is the HMAC of the parts, joined by NUL, in hexadecimal: SHA-1 with 40 digits, SHA-256 with 64.
#[must_use]
pub fn is_mac(secret: &str, parts: &[&str], mac: &str) -> bool {
    let message = parts.join("\0");
    let Some(mac) = unhex(mac) else { return false };
    match mac.len() {
        20 => Hmac::<Sha1>::new_from_slice(secret.as_bytes())
            .is_ok_and(|hmac| hmac.chain_update(message.as_bytes()).verify_slice(&mac).is_ok()),
        32 => Hmac::<Sha256>::new_from_slice(secret.as_bytes())
            .is_ok_and(|hmac| hmac.chain_update(message.as_bytes()).verify_slice(&mac).is_ok()),
        _ => false,
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_serves_once_and_for_a_minute() {
        let (nonces, rng) = (Nonces::default(), Rng::seeded(1));
        let nonce = nonces.make(&rng, 0);
        assert!(nonces.take(&nonce, 59_999));
        assert!(!nonces.take(&nonce, 59_999));
        let nonce = nonces.make(&rng, 0);
        assert!(!nonces.take(&nonce, 60_000));
        assert!(!nonces.take("guessed", 0));
    }

    #[test]
    fn both_hashes_are_told_apart_by_length() {
        // printf 'n\0alice\0pw\0notadmin' | openssl dgst -sha1 -hmac secret, and the same with -sha256
        let parts = ["n", "alice", "pw", "notadmin"];
        let sha1 = "bed7b1c8bbb7b4e3701c0e2242bfeab2478b3713";
        let sha256 = "c16bababf18cd7573eaba0bebf821b0336db2fbf0059d342a9ddfcf19f2b97ff";
        assert!(is_mac("secret", &parts, sha1));
        assert!(is_mac("secret", &parts, &sha1.to_uppercase()));
        assert!(is_mac("secret", &parts, sha256));
        for wrong in ["", "abc", "zz", &sha1[..38], &sha256[..40]] {
            assert!(!is_mac("secret", &parts, wrong), "{wrong}");
        }
        assert!(!is_mac("secret", &["n", "alice", "pw", "admin"], sha1));
    }
}
