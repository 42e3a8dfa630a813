//! Looking keys up.

use std::collections::{BTreeMap, HashMap};

use entities::key_signature;
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};
use serde::Serialize;
use serde_json::{Value, json};

use crate::env::Env;
use crate::error::Outcome;

/// What is wanted: devices by user; none stands for all.
pub type Wanted = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// The answer of `/keys/query`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    /// Servers that could not be asked.
    pub failures: BTreeMap<OwnedServerName, Value>,
    /// Device keys with names and signatures.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<String, Value>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, Value>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, Value>,
    /// The reader's own user-signing key.
    pub user_signing_keys: BTreeMap<OwnedUserId, Value>,
}

/// The keys of this server's users. Without a reader (for another server) only the owners' signatures are shown.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn local_keys(env: &Env, reader: Option<&UserId>, wanted: &Wanted) -> Outcome<Found> {
    let users: Vec<&str> = wanted.keys().map(|user| user.as_str()).collect();
    let mut found = Found {
        device_keys: wanted.keys().map(|user| (user.clone(), BTreeMap::new())).collect(),
        ..Found::default()
    };
    if users.is_empty() {
        return Ok(found);
    }
    let (devices, cross_signing, signatures) = tokio::try_join!(
        env.store.device_keys_of(&users),
        env.store.cross_signing_keys_of(&users),
        env.store.key_signatures_for(&users, reader.map_or("", UserId::as_str)),
    )?;
    let signatures = Signatures::new(signatures);
    for row in devices {
        let Some((user, devices)) = wanted.get_key_value(row.user_id.as_str()) else {
            continue;
        };
        if !devices.is_empty() && !devices.iter().any(|device| device.as_str() == row.device_id) {
            continue;
        }
        let Some(mut keys) = parse(&row.json, user) else {
            continue;
        };
        signatures.merge(user, &row.device_id, &mut keys);
        keys["unsigned"] = match row.display_name {
            Some(name) => json!({ "device_display_name": name }),
            None => json!({}),
        };
        let of_user = found.device_keys.entry(user.clone()).or_default();
        of_user.insert(row.device_id, keys);
    }
    for row in cross_signing {
        let Some((user, _)) = wanted.get_key_value(row.user_id.as_str()) else {
            continue;
        };
        let group = match row.usage.as_str() {
            "master" => &mut found.master_keys,
            "self_signing" => &mut found.self_signing_keys,
            "user_signing" if reader.is_some_and(|reader| reader == user) => &mut found.user_signing_keys,
            _ => continue,
        };
        let Some(mut key) = parse(&row.json, user) else {
            continue;
        };
        if let Some(public) = public_key(&key) {
            signatures.merge(user, &public, &mut key);
        }
        group.insert(user.clone(), key);
    }
    Ok(found)
}

/// The devices of one of this server's users, as another server may see them (server-server API, "Device Management").
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn device_list(env: &Env, user: &UserId) -> Outcome<Value> {
    // First, so that a change in between makes the list newer than it says, never older.
    let stream_id = env.store.newest_device_list_change(user.as_str()).await?.unwrap_or(0);
    let wanted = Wanted::from([(user.to_owned(), Vec::new())]);
    let mut found = local_keys(env, None, &wanted).await?;
    let keys = found.device_keys.remove(user).unwrap_or_default();
    let device = |(device_id, mut keys): (String, Value)| {
        let unsigned = keys.as_object_mut().and_then(|keys| keys.remove("unsigned"));
        let mut device = json!({ "device_id": device_id, "keys": keys });
        if let Some(name) = unsigned.and_then(|mut unsigned| Some(unsigned.get_mut("device_display_name")?.take())) {
            device["device_display_name"] = name;
        }
        device
    };
    let devices: Vec<Value> = keys.into_iter().map(device).collect();
    let mut list = json!({ "user_id": user, "stream_id": stream_id, "devices": devices });
    for (name, mut group) in [
        ("master_key", found.master_keys),
        ("self_signing_key", found.self_signing_keys),
    ] {
        if let Some(key) = group.remove(user) {
            list[name] = key;
        }
    }
    Ok(list)
}

fn parse(json: &str, user: &UserId) -> Option<Value> {
    let parsed = serde_json::from_str::<Value>(json).ok().filter(Value::is_object);
    if parsed.is_none() {
        tracing::error!(%user, "a stored key is no JSON object");
    }
    parsed
}

/// The public key that a cross-signing key is named after.
#[must_use]
pub fn public_key(key: &Value) -> Option<String> {
    let name = key.get("keys")?.as_object()?.keys().next()?;
    name.split_once(':').map(|(_, public)| public.to_owned())
}

/// Signatures by signed user and key.
struct Signatures(HashMap<(String, String), Vec<key_signature::Model>>);

impl Signatures {
    fn new(rows: Vec<key_signature::Model>) -> Self {
        let mut by_key: HashMap<_, Vec<_>> = HashMap::new();
        for row in rows {
            let key = (row.target_user.clone(), row.target_key.clone());
            by_key.entry(key).or_default().push(row);
        }
        Self(by_key)
    }

    fn merge(&self, user: &UserId, key: &str, object: &mut Value) {
        let found = self.0.get(&(user.to_string(), key.to_owned()));
        merge_signatures(object, found.map_or(&[], Vec::as_slice));
    }
}

/// Adds signatures to those in the object; it must be a JSON object.
pub fn merge_signatures(object: &mut Value, signatures: &[key_signature::Model]) {
    for signature in signatures {
        for level in [&object["signatures"], &object["signatures"][&signature.signer_user]] {
            if !level.is_object() && !level.is_null() {
                return;
            }
        }
        object["signatures"][&signature.signer_user][&signature.signer_key] = json!(signature.signature);
    }
}
