//! Key documents (server-server API, "Publishing Keys"): what they hold, and whether they can be believed.

use std::collections::BTreeMap;

use base::clock::Millis;
use ruma::serde::Base64;
use ruma::serde::base64::Standard;
use ruma::signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, SigningKeyAlgorithm};

/// No document is believed for longer, whatever it says of itself.
pub const MAX_VALIDITY: Millis = 7 * 24 * 60 * 60 * 1_000;
/// Bytes of a document.
pub const MAX_DOCUMENT: usize = 64 * 1024;
/// Keys in use that a document may have, and keys that were.
const MAX_KEYS: usize = 32;
const MAX_OLD_KEYS: usize = 128;
const MAX_KEY_ID: usize = 255;

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// ed25519.
    pub public_key: [u8; 32],
    /// Signatures made until then are good.
    pub until: Millis,
    /// The server does not use it any more.
    pub expired: bool,
}

impl Known {
    /// Whether signatures made at `at` are good; `None`: whenever they were made.
    #[must_use]
    pub fn is_valid_at(&self, at: Option<Millis>) -> bool {
        at.is_none_or(|at| at <= self.until)
    }

    /// What to believe when told something else of the same key. A server itself has the last word on its keys; a notary's
    /// document may be an old one, so it neither replaces a key nor brings one back, nor shortens its life.
    #[must_use]
    pub fn or_newer(&self, told: &Self, by_itself: bool) -> Self {
        let newer = by_itself
            || (self.public_key == told.public_key
                && match (self.expired, told.expired) {
                    (false, true) => true,
                    (true, _) => false,
                    (false, false) => told.until > self.until,
                });
        if newer { told.clone() } else { self.clone() }
    }
}

/// A document whose own signature is good.
#[derive(Clone, Debug)]
pub struct Document {
    /// Whose keys.
    pub server: OwnedServerName,
    /// By id (`ed25519:…`); others than ed25519 are left out.
    pub keys: BTreeMap<String, Known>,
    /// When it should be fetched again, as it says itself.
    pub valid_until: Millis,
    /// All of it, with signatures.
    pub json: CanonicalJsonObject,
}

/// Reads a document and checks that it is signed with a key that it says is in use.
///
/// # Errors
/// In words.
pub fn read(json: CanonicalJsonObject, now: Millis) -> Result<Document, String> {
    let server = text(&json, "server_name").ok_or("no server_name")?;
    let server: OwnedServerName = server.try_into().map_err(|_| "server_name is none".to_owned())?;
    let valid_until = integer(&json, "valid_until_ts").ok_or("no valid_until_ts")?;
    let until = valid_until.min(now.saturating_add(MAX_VALIDITY));
    let in_use = public_keys(&json, "verify_keys", MAX_KEYS)?;
    if !in_use.iter().any(|(id, key)| is_signed(&json, &server, id, key)) {
        return Err("it is not signed with one of its own keys".to_owned());
    }
    let known = |public_key, until, expired| Known {
        public_key,
        until,
        expired,
    };
    let mut keys: BTreeMap<String, Known> = in_use
        .into_iter()
        .map(|(id, key)| (id.to_owned(), known(key, until, false)))
        .collect();
    for (id, key) in public_keys(&json, "old_verify_keys", MAX_OLD_KEYS)? {
        let details = object(&json, "old_verify_keys").and_then(|keys| object(keys, id));
        // Nobody can tell what an old key without an end is good for.
        if let Some(expired) = details.and_then(|details| integer(details, "expired_ts")) {
            keys.insert(id.to_owned(), known(key, expired.min(now), true));
        }
    }
    Ok(Document {
        server,
        keys,
        valid_until,
        json,
    })
}

/// Whether an object holds a good signature of `entity` with this key.
#[must_use]
pub fn is_signed(json: &CanonicalJsonObject, entity: &ServerName, key_id: &str, public_key: &[u8; 32]) -> bool {
    let signature = object(json, "signatures")
        .and_then(|signatures| object(signatures, entity.as_str()))
        .and_then(|signatures| text(signatures, key_id))
        .and_then(|signature| Base64::<Standard>::parse(signature).ok());
    let (Some(signature), Ok(message)) = (signature, to_canonical_json_string_for_signing(json)) else {
        return false;
    };
    let algorithm = SigningKeyAlgorithm::Ed25519;
    verify_canonical_json_bytes(&algorithm, public_key, signature.as_bytes(), message.as_bytes()).is_ok()
}

/// The ids of ed25519 keys that `entity` has signed an object with.
pub fn signing_keys<'a>(json: &'a CanonicalJsonObject, entity: &ServerName) -> impl Iterator<Item = &'a str> {
    let signatures = object(json, "signatures").and_then(|signatures| object(signatures, entity.as_str()));
    let ids = signatures.into_iter().flat_map(BTreeMap::keys);
    ids.map(String::as_str).filter(|id| is_ed25519(id))
}

fn is_ed25519(id: &str) -> bool {
    id.len() <= MAX_KEY_ID && id.strip_prefix("ed25519:").is_some_and(|version| !version.is_empty())
}

fn public_keys<'a>(
    json: &'a CanonicalJsonObject,
    field: &str,
    limit: usize,
) -> Result<Vec<(&'a str, [u8; 32])>, String> {
    let Some(keys) = object(json, field) else {
        return Ok(Vec::new());
    };
    if keys.len() > limit {
        return Err(format!("more than {limit} {field}"));
    }
    let key = |(id, details): (&'a String, &'a CanonicalJsonValue)| {
        let CanonicalJsonValue::Object(details) = details else {
            return None;
        };
        let key = Base64::<Standard>::parse(text(details, "key")?).ok()?;
        let key = key.as_bytes().try_into().ok()?;
        is_ed25519(id).then_some((id.as_str(), key))
    };
    Ok(keys.iter().filter_map(key).collect())
}

fn object<'a>(json: &'a CanonicalJsonObject, field: &str) -> Option<&'a CanonicalJsonObject> {
    match json.get(field)? {
        CanonicalJsonValue::Object(value) => Some(value),
        _ => None,
    }
}

fn text<'a>(json: &'a CanonicalJsonObject, field: &str) -> Option<&'a str> {
    match json.get(field)? {
        CanonicalJsonValue::String(value) => Some(value),
        _ => None,
    }
}

fn integer(json: &CanonicalJsonObject, field: &str) -> Option<Millis> {
    match json.get(field)? {
        CanonicalJsonValue::Integer(value) => Some(Millis::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
