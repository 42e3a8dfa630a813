//! This server's own keys: the one it signs with, and those it used to sign with.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::clock::Millis;
use base::error::{DomainError, Outcome};
use base::key::ServerKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName};
use serde_json::{Map, Value, json};

use super::document::{Known, MAX_VALIDITY};

/// A key this server has signed events with and signs nothing with any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// `ed25519:…`
    pub key_id: String,
    /// ed25519.
    pub public_key: [u8; 32],
    /// When it was used last, Unix milliseconds.
    pub expired_ts: Millis,
}

/// All of them.
pub(super) struct Own {
    pub server: OwnedServerName,
    pub key: Arc<ServerKey>,
    pub old: Vec<OldKey>,
}

impl Own {
    /// The key document, signed. Others may rely on it for a week, which is as long as they may believe anybody.
    pub fn document(&self, now: Millis) -> Outcome<CanonicalJsonObject> {
        let old = self.old.iter().map(|old| {
            let key = STANDARD_NO_PAD.encode(old.public_key);
            (old.key_id.clone(), json!({ "key": key, "expired_ts": old.expired_ts }))
        });
        let old: Map<String, Value> = old.collect();
        let value = json!({
            "server_name": self.server,
            "valid_until_ts": now.saturating_add(MAX_VALIDITY),
            "verify_keys": { self.key.id(): { "key": STANDARD_NO_PAD.encode(self.key.public_key()) } },
            "old_verify_keys": old,
        });
        let mut object = match CanonicalJsonValue::try_from(value) {
            Ok(CanonicalJsonValue::Object(object)) => object,
            Ok(_) => return Err(DomainError::internal("key document: not an object")),
            Err(error) => return Err(DomainError::internal(format!("key document: {error}"))),
        };
        self.sign(&mut object)?;
        Ok(object)
    }

    /// Adds this server's signature.
    pub fn sign(&self, object: &mut CanonicalJsonObject) -> Outcome<()> {
        ruma::signatures::sign_json(self.server.as_str(), &*self.key, object)
            .map_err(|error| DomainError::internal(format!("key document: {error}")))
    }

    /// For signatures of our own that come back.
    pub fn keys(&self) -> BTreeMap<String, Known> {
        let old = self.old.iter().map(|old| {
            let known = Known {
                public_key: old.public_key,
                until: old.expired_ts,
                expired: true,
            };
            (old.key_id.clone(), known)
        });
        let current = Known {
            public_key: self.key.public_key(),
            until: Millis::MAX,
            expired: false,
        };
        old.chain([(self.key.id(), current)]).collect()
    }
}
