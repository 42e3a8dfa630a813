//! Device keys, one-time keys and fallback keys.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use entities::device_key;
use entities::store::e2ee::{KeyUpload, PreKey};
use entities::store::rows::Rows;
use ruma::canonical_json::CanonicalJsonObject;
use ruma::{DeviceId, OwnedDeviceId};
use serde_json::value::RawValue;

use super::super::view::{DeviceView, UserView};
use super::{KeyReply, announce, check, with_stock};
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// One-time keys a device may have in stock; clients keep some fifty.
const MAX_ONE_TIME: usize = 1_000;
/// Bytes of a one-time or fallback key.
const MAX_PRE_KEY: usize = 8 * 1024;
/// Bytes of a key's name.
const MAX_NAME: usize = 255;

/// What a device publishes.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Its identity keys.
    pub device_keys: Option<Box<RawValue>>,
    /// By `algorithm:key_id`.
    pub one_time_keys: BTreeMap<String, Box<RawValue>>,
    /// By `algorithm:key_id`.
    pub fallback_keys: BTreeMap<String, Box<RawValue>>,
}

pub(super) async fn run(env: &Env, view: &UserView, upload: Upload) -> Outcome<(KeyReply, Option<UserView>)> {
    let Upload {
        device_id,
        device_keys,
        one_time_keys,
        fallback_keys,
    } = upload;
    let Some(device) = view.devices.get(&device_id) else {
        return Err(DomainError::not_found("Unknown device"));
    };
    let identity = device_keys.map(|keys| check_identity(view, &device_id, keys.get()));
    let identity = identity.transpose()?;
    let one_time = pre_keys(one_time_keys)?;
    let fallback = pre_keys(fallback_keys)?;
    refuse_too_many(device, &one_time, &fallback)?;
    if let Some(keys) = identity {
        publish_identity(env, view, &device_id, keys).await?;
    }
    if one_time.is_empty() && fallback.is_empty() {
        return Ok((KeyReply::Counts(device.one_time_key_counts.clone()), None));
    }
    let user = view.user_id.as_str();
    match env
        .store
        .upload_keys(user, device_id.as_str(), &one_time, &fallback)
        .await?
    {
        KeyUpload::Clash(name) => Err(clash(&name)),
        KeyUpload::Stored(stock) => {
            let changed = with_stock(view, &device_id, stock);
            env.users.publish(view.user_id.clone(), Arc::new(changed.clone()));
            let counts = changed.devices.get(&device_id).map(|d| d.one_time_key_counts.clone());
            Ok((KeyReply::Counts(counts.unwrap_or_default()), Some(changed)))
        }
    }
}

/// What somebody gets who uploads another key under a one-time key's name.
pub(super) fn clash(name: &str) -> DomainError {
    DomainError::unknown(format!(
        "One time key {name} already exists. Another key was uploaded under that name"
    ))
}

pub(super) fn refuse_too_many(device: &DeviceView, one_time: &[PreKey], fallback: &[PreKey]) -> Outcome<()> {
    let there: u64 = device.one_time_key_counts.values().sum();
    let there = usize::try_from(there).unwrap_or(usize::MAX);
    if there.saturating_add(one_time.len()) > MAX_ONE_TIME {
        let message = format!("A device has at most {MAX_ONE_TIME} one-time keys");
        return Err(DomainError::matrix(400, "M_TOO_LARGE", message));
    }
    let algorithms: HashSet<&str> = fallback.iter().map(|key| key.algorithm.as_str()).collect();
    if algorithms.len() < fallback.len() {
        return Err(DomainError::invalid_param(
            "There is one fallback key for each algorithm",
        ));
    }
    Ok(())
}

pub(super) fn pre_keys(keys: BTreeMap<String, Box<RawValue>>) -> Outcome<Vec<PreKey>> {
    let split = |(name, json): (String, Box<RawValue>)| {
        let parts = name.split_once(':').filter(|(algorithm, id)| {
            !algorithm.is_empty() && !id.is_empty() && name.len() <= MAX_NAME && !name.contains('\0')
        });
        let Some((algorithm, key_id)) = parts else {
            return Err(DomainError::invalid_param("A key is named algorithm:id"));
        };
        if json.get().len() > MAX_PRE_KEY {
            let message = format!("A one-time key has at most {MAX_PRE_KEY} bytes");
            return Err(DomainError::too_large(message));
        }
        if !json.get().starts_with(['{', '"']) {
            return Err(DomainError::bad_json("A key is an object or a string"));
        }
        Ok(PreKey {
            algorithm: algorithm.to_owned(),
            key_id: key_id.to_owned(),
            json: json.get().to_owned(),
        })
    };
    keys.into_iter().map(split).collect()
}

/// The keys without `unsigned`, if they are this device's and are complete. Whether the signature is good is for those to
/// find out who use the keys; the specification does not ask it of the server.
pub(super) fn check_identity(view: &UserView, device_id: &DeviceId, json: &str) -> Outcome<CanonicalJsonObject> {
    let mut keys = check::object(json)?;
    keys.remove("unsigned");
    if check::text(&keys, "user_id") != Some(view.user_id.as_str()) {
        return Err(DomainError::invalid_param("The device keys are not of this user"));
    }
    if check::text(&keys, "device_id") != Some(device_id.as_str()) {
        return Err(DomainError::invalid_param("The device keys are not of this device"));
    }
    if keys.get("algorithms").is_none_or(|list| list.as_array().is_none()) {
        return Err(DomainError::bad_json("The device keys lack their algorithms"));
    }
    let named = format!("ed25519:{device_id}");
    if !check::texts(&keys, "keys").any(|(name, _)| name == named) {
        return Err(DomainError::bad_json(format!("The device keys lack {named}")));
    }
    let signatures = check::signatures_of(&keys, &view.user_id);
    if !signatures.iter().any(|(name, _)| *name == named) {
        return Err(DomainError::bad_json(format!(
            "The device keys lack a signature by {named}"
        )));
    }
    Ok(keys)
}

/// The same keys again are no news.
async fn publish_identity(env: &Env, view: &UserView, device_id: &DeviceId, keys: CanonicalJsonObject) -> Outcome<()> {
    let user = view.user_id.as_str();
    let stored = env.store.device_key(user, device_id.as_str()).await?;
    if stored.is_some_and(|stored| check::object(&stored).is_ok_and(|stored| stored == keys)) {
        return Ok(());
    }
    let json = serde_json::to_string(&keys).map_err(|error| DomainError::internal(format!("device keys: {error}")))?;
    let row = device_key::Model {
        user_id: user.to_owned(),
        device_id: device_id.to_string(),
        json,
    };
    let rows = Rows {
        device_keys: vec![row],
        ..Rows::default()
    };
    announce(env, rows, HashMap::from([(view.user_id.clone(), None)])).await
}

#[cfg(test)]
#[path = "upload_tests.rs"]
mod tests;
