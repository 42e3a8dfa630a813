//! The server's own signing key.

use ed25519_dalek::{Signer, SigningKey};
use ruma::signatures::{KeyPair, Signature};
use ruma::{OwnedSigningKeyId, SigningKeyAlgorithm, SigningKeyId};

/// An Ed25519 key with its version. Its `Debug` form shows no secret.
#[derive(Clone)]
pub struct ServerKey {
    key: SigningKey,
    version: String,
}

impl ServerKey {
    /// From the 32-byte seed; `version` is the part of the key id after `ed25519:`.
    #[must_use]
    pub fn new(seed: &[u8; 32], version: impl Into<String>) -> Self {
        Self {
            key: SigningKey::from_bytes(seed),
            version: version.into(),
        }
    }

    /// The part of the key id after `ed25519:`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `ed25519:<version>`
    #[must_use]
    pub fn id(&self) -> String {
        format!("ed25519:{}", self.version)
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }
}

impl KeyPair for ServerKey {
    fn sign(&self, message: &[u8]) -> Signature {
        let id: OwnedSigningKeyId<ruma::AnyKeyName> =
            SigningKeyId::from_parts(SigningKeyAlgorithm::Ed25519, self.version.as_str().into());
        Signature::new(id, self.key.sign(message).to_bytes().to_vec())
    }
}

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerKey")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
