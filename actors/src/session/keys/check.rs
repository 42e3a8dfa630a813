//! Signed JSON, as keys are written in it.

use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use ruma::serde::Base64;
use ruma::signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes};
use ruma::{SigningKeyAlgorithm, UserId};

use crate::error::{DomainError, Outcome};

/// With the standard alphabet; padding is accepted and not written.
type Plain = Base64;

/// 400 `M_INVALID_SIGNATURE`
pub fn invalid_signature(message: impl Into<String>) -> DomainError {
    DomainError::matrix(400, "M_INVALID_SIGNATURE", message)
}

/// Bytes of a signed object.
const MAX_OBJECT: usize = 64 * 1024;

/// Reads a JSON object that can be signed: no floats, no numbers above 2^53.
///
/// # Errors
/// `M_BAD_JSON` for anything else, `M_TOO_LARGE`.
pub fn object(json: &str) -> Outcome<CanonicalJsonObject> {
    if json.len() > MAX_OBJECT {
        return Err(DomainError::too_large(format!("A key has at most {MAX_OBJECT} bytes")));
    }
    serde_json::from_str(json).map_err(|error| DomainError::bad_json(format!("not a signable JSON object: {error}")))
}

/// A string member.
#[must_use]
pub fn text<'a>(object: &'a CanonicalJsonObject, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

/// The members of an object member that are strings.
pub fn texts<'a>(object: &'a CanonicalJsonObject, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let members = object.get(name).and_then(CanonicalJsonValue::as_object);
    let members = members.into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// A user's signatures on an object, by key id (`ed25519:…`).
#[must_use]
pub fn signatures_of<'a>(object: &'a CanonicalJsonObject, user: &UserId) -> Vec<(&'a str, &'a str)> {
    let all = object.get("signatures").and_then(CanonicalJsonValue::as_object);
    let own = all.and_then(|all| all.get(user.as_str())?.as_object());
    let own = own.into_iter().flatten();
    own.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect()
}

/// Whether two objects are the same apart from what signing leaves out.
#[must_use]
pub fn same_content(a: &CanonicalJsonObject, b: &CanonicalJsonObject) -> bool {
    let content = |object: &CanonicalJsonObject| to_canonical_json_string_for_signing(object).ok();
    content(a).is_some_and(|a| content(b) == Some(a))
}

/// Whether this is an Ed25519 public key in base64.
#[must_use]
pub fn is_public_key(text: &str) -> bool {
    Plain::parse(text).is_ok_and(|key| key.as_bytes().len() == 32)
}

/// Whether `signature` is one of `object` by an Ed25519 public key; both in unpadded base64.
#[must_use]
pub fn is_signed(object: &CanonicalJsonObject, public_key: &str, signature: &str) -> bool {
    let bytes = |text: &str| Plain::parse(text).ok();
    let (Some(key), Some(signature)) = (bytes(public_key), bytes(signature)) else {
        return false;
    };
    let Ok(signed) = to_canonical_json_string_for_signing(object) else {
        return false;
    };
    verify_canonical_json_bytes(
        &SigningKeyAlgorithm::Ed25519,
        key.as_bytes(),
        signature.as_bytes(),
        signed.as_bytes(),
    )
    .is_ok()
}

#[cfg(test)]
pub mod testing {
    //! Keys that sign.

    use ed25519_dalek::{Signer, SigningKey};
    use serde_json::{Value, json};

    use super::*;

    /// A key pair; equal seeds make equal pairs.
    pub struct Pair(SigningKey);

    impl Pair {
        /// From a seed.
        pub fn new(seed: u8) -> Self {
            Self(SigningKey::from_bytes(&[seed; 32]))
        }

        /// Unpadded base64.
        pub fn public(&self) -> String {
            Plain::new(self.0.verifying_key().to_bytes().to_vec()).encode()
        }

        /// Adds `signatures[user]["ed25519:<name>"]`.
        pub fn sign(&self, object: &mut Value, user: &str, name: &str) {
            let canonical = super::object(&object.to_string()).expect("tests write signable objects");
            let text = to_canonical_json_string_for_signing(&canonical).expect("it can be signed");
            let signature = self.0.sign(text.as_bytes()).to_bytes().to_vec();
            let signature = Plain::new(signature).encode();
            object["signatures"][user][format!("ed25519:{name}")] = json!(signature);
        }
    }
}
