//! Keys of clients, and signatures with them.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use crate::common::client::User;

pub const ALGORITHM: &str = "signed_curve25519";

/// An Ed25519 key of a user or of one of the user's devices.
pub struct Key {
    key: SigningKey,
    /// The name after `ed25519:`; the public key itself, if it is not a device's.
    name: String,
}

impl Key {
    /// The key of a device, or one with its public key for a name. Another `seed` is another key.
    pub fn new(device: Option<&str>, seed: &str) -> Self {
        let mut bytes = [7_u8; 32];
        for (at, byte) in seed.bytes().enumerate() {
            bytes[at % 32] = bytes[at % 32].wrapping_mul(31).wrapping_add(byte);
        }
        let key = SigningKey::from_bytes(&bytes);
        let public = STANDARD_NO_PAD.encode(key.verifying_key().as_bytes());
        let name = device.map_or(public, str::to_owned);
        Self { key, name }
    }

    /// `ed25519:<name>`
    pub fn id(&self) -> String {
        format!("ed25519:{}", self.name)
    }

    /// In unpadded base64.
    pub fn public(&self) -> String {
        STANDARD_NO_PAD.encode(self.key.verifying_key().as_bytes())
    }

    /// Adds a user's signature to an object.
    pub fn sign(&self, user_id: &str, object: &mut Value) {
        let mut signed = object.clone();
        if let Some(fields) = signed.as_object_mut() {
            fields.remove("signatures");
            fields.remove("unsigned");
        }
        let signature = self.key.sign(canonical(&signed).as_bytes());
        object["signatures"][user_id][self.id()] = json!(STANDARD_NO_PAD.encode(signature.to_bytes()));
    }
}

/// Canonical JSON.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            let fields = sorted
                .into_iter()
                .map(|(key, value)| format!("{}:{}", json!(key), canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// The identity keys of a device, signed by it.
pub fn device_keys(user: &User) -> Value {
    let (id, device) = (&user.user_id, &user.device_id);
    let key = Key::new(Some(device), &format!("{id} {device}"));
    let mut keys = json!({
        "user_id": id,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { format!("curve25519:{device}"): key.public(), key.id(): key.public() },
    });
    key.sign(id, &mut keys);
    keys
}

/// One-time or fallback keys with these names, signed by the device.
pub fn one_time_keys(user: &User, names: &[&str], fallback: bool) -> Value {
    let (id, device) = (&user.user_id, &user.device_id);
    let signer = Key::new(Some(device), &format!("{id} {device}"));
    let keys = names.iter().map(|name| {
        let mut key = json!({ "key": Key::new(None, &format!("{id} {device} {name}")).public() });
        if fallback {
            key["fallback"] = json!(true);
        }
        signer.sign(id, &mut key);
        (format!("{ALGORITHM}:{name}"), key)
    });
    Value::Object(keys.collect())
}
