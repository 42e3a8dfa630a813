//! Policy servers: which one a room has, and what its signature on an event says.
//!
//! Spec: server-server API, "Policy Servers".

use std::collections::BTreeMap;

use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, redact};
use ruma::events::TimelineEventType;
use ruma::room_version_rules::RoomVersionRules;
use ruma::serde::Base64;
use ruma::signatures::{KeyPair, PublicKeyMap, sign_json, verify_json};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use super::event::Pdu;
use super::parse::{self, PduError};
use super::snapshot::RoomSnapshot;

/// The type of the event that names a room's policy server.
const KIND: &str = "m.room.policy";
/// The version of every policy server's key.
pub const KEY_VERSION: &str = "policy_server";
/// The id of every policy server's key.
pub const KEY_ID: &str = "ed25519:policy_server";

/// A room's policy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub via: OwnedServerName,
    key: Base64,
}

impl Policy {
    /// The policy server that the room uses: one that its current state names with a key, and that has a user in the room.
    #[must_use]
    pub fn of(room: &RoomSnapshot) -> Option<Self> {
        let named = Self::named(&room.state_event(KIND, "")?.pdu)?;
        room.joined_servers.contains(&named.via).then_some(named)
    }

    /// The policy server that an event names.
    fn named(event: &Pdu) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: OwnedServerName,
            public_keys: Keys,
        }
        #[derive(Deserialize)]
        struct Keys {
            ed25519: String,
        }
        let content: Content = event.content_as().ok()?;
        // The specification's own example is in the other alphabet.
        let key = content.public_keys.ed25519.replace('-', "+").replace('_', "/");
        // A key that is none verifies nothing, but the room has a policy server.
        let key = Base64::parse(key).unwrap_or_else(|_| Base64::new(Vec::new()));
        Some(Self { via: content.via, key })
    }

    /// Whether the policy server has signed the event, so recommends it.
    #[must_use]
    pub fn recommends(&self, event: &CanonicalJsonObject, rules: &RoomVersionRules) -> bool {
        let Some(CanonicalJsonValue::Object(signatures)) = event.get("signatures") else {
            return false;
        };
        let Some(CanonicalJsonValue::Object(own)) = signatures.get(self.via.as_str()) else {
            return false;
        };
        let Some(signature) = own.get(KEY_ID) else {
            return false;
        };
        let Ok(mut signed) = redact(event.clone(), &rules.redaction, None) else {
            return false;
        };
        // The server's other signature is by another key.
        signed.insert("signatures".to_owned(), signatures_of(&self.via, signature.clone()));
        let key = BTreeMap::from([(KEY_ID.to_owned(), self.key.clone())]);
        verify_json(&PublicKeyMap::from([(self.via.to_string(), key)]), &signed).is_ok()
    }
}

/// Whether policy servers are asked about events like this one: it is how a room gets rid of its own.
#[must_use]
pub fn is_exempt(kind: &TimelineEventType, state_key: Option<&str>) -> bool {
    state_key == Some("") && kind.to_string() == KIND
}

fn signatures_of(server: &ServerName, signature: CanonicalJsonValue) -> CanonicalJsonValue {
    let own = CanonicalJsonObject::from([(KEY_ID.to_owned(), signature)]);
    let own = CanonicalJsonValue::Object(own);
    CanonicalJsonValue::Object(CanonicalJsonObject::from([(server.to_string(), own)]))
}

/// The event with a policy server's signature beside those that it has.
///
/// # Errors
/// For events without signatures, and those that are too large with one more.
pub fn countersigned(
    mut event: CanonicalJsonObject,
    rules: &RoomVersionRules,
    server: &ServerName,
    signature: String,
) -> Result<CanonicalJsonObject, PduError> {
    let bad = || PduError::Format("the event has no signatures".to_owned());
    let Some(CanonicalJsonValue::Object(signatures)) = event.get_mut("signatures") else {
        return Err(bad());
    };
    let own = signatures
        .entry(server.to_string())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    let CanonicalJsonValue::Object(own) = own else {
        return Err(bad());
    };
    own.insert(KEY_ID.to_owned(), CanonicalJsonValue::String(signature));
    parse::check_format(&event, rules)?;
    Ok(event)
}

/// A policy server's own signature of an event, unpadded base64. `key` has the version [`KEY_VERSION`].
///
/// # Errors
/// For what is no event.
pub fn sign(
    event: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    server: &ServerName,
    key: &impl KeyPair,
) -> Result<String, PduError> {
    let bad = |error: &dyn std::fmt::Display| PduError::Format(error.to_string());
    let mut signed = redact(event.clone(), &rules.redaction, None).map_err(|error| bad(&error))?;
    signed.remove("signatures");
    signed.remove("unsigned");
    sign_json(server.as_str(), key, &mut signed).map_err(|error| bad(&error))?;
    let made = match signed.remove("signatures") {
        Some(CanonicalJsonValue::Object(mut all)) => all.remove(server.as_str()),
        _ => None,
    };
    match made {
        Some(CanonicalJsonValue::Object(own)) => match own.into_values().next() {
            Some(CanonicalJsonValue::String(signature)) => Ok(signature),
            _ => Err(bad(&"it was not signed")),
        },
        _ => Err(bad(&"it was not signed")),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
