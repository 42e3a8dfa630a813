//! Dehydrated devices (MSC3814): devices without a session that receive messages while nobody is logged in.

use std::sync::Arc;

use entities::store::e2ee::KeyUpload;
use entities::store::rows::Rows;
use entities::{dehydrated_device, device, device_key};
use serde_json::value::RawValue;

use super::super::devices;
use super::super::view::UserView;
use super::upload::{check_identity, clash, pre_keys, refuse_too_many};
use super::{Upload, with_stock};
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// What a client leaves behind.
#[derive(Clone, Debug)]
pub struct Dehydrate {
    /// Its id and public keys; the identity keys are not optional here.
    pub keys: Upload,
    /// Its private part, encrypted; a JSON object.
    pub device_data: Box<RawValue>,
    /// Its name.
    pub display_name: Option<String>,
}

/// # Errors
/// `M_INVALID_PARAM`, `M_BAD_JSON` and `M_MISSING_PARAM` for keys that cannot be taken or the id of a device that is in use.
pub(super) async fn run(env: &Env, view: &UserView, new: Dehydrate) -> Outcome<UserView> {
    let Dehydrate {
        keys,
        device_data,
        display_name,
    } = new;
    let (user, id) = (view.user_id.as_str(), keys.device_id.as_str());
    devices::check_id(id)?;
    if !device_data.get().starts_with('{') {
        return Err(DomainError::bad_json("device_data must be an object"));
    }
    let identity = keys
        .device_keys
        .as_ref()
        .map(|json| check_identity(view, &keys.device_id, json.get()));
    let identity = identity.unwrap_or_else(|| Err(DomainError::missing_param("device_keys is missing")))?;
    let (one_time, fallback) = (pre_keys(keys.one_time_keys)?, pre_keys(keys.fallback_keys)?);
    refuse_too_many(&Default::default(), &one_time, &fallback)?;
    let former = env.store.dehydrated_device(user).await?.map(|row| row.device_id);
    if view.devices.contains_key(&keys.device_id) && former.as_deref() != Some(id) {
        return Err(DomainError::invalid_param("The device id is in use"));
    }
    let now = env.clock.now_ms();
    let device = device::Model {
        user_id: user.to_owned(),
        device_id: id.to_owned(),
        display_name: display_name.map(|name| name.chars().take(devices::MAX_NAME).collect()),
        last_seen_ts: now,
        last_seen_ip: None,
        user_agent: None,
        created_ts: now,
    };
    let mut without = view.clone();
    let mut tokens = Vec::new();
    if let Some(former) = &former {
        Arc::make_mut(&mut without.devices).remove(former.as_str());
        // Somebody may have logged in under its id.
        tokens = env
            .store
            .access_token_hashes(user, Some(std::slice::from_ref(former)))
            .await?;
    }
    let changed = devices::with_device(&without, &device);
    let json = serde_json::to_string(&identity).map_err(|e| DomainError::internal(format!("device keys: {e}")))?;
    let rows = Rows {
        devices_deleted: former.into_iter().map(|former| (user.to_owned(), former)).collect(),
        device_keys: vec![device_key::Model {
            user_id: user.to_owned(),
            device_id: id.to_owned(),
            json,
        }],
        dehydrated_devices: vec![dehydrated_device::Model {
            user_id: user.to_owned(),
            device_id: id.to_owned(),
            device_data: device_data.get().to_owned(),
        }],
        devices: vec![device],
        ..Rows::default()
    };
    devices::announce(env, rows, &changed, tokens).await?;
    match env.store.upload_keys(user, id, &one_time, &fallback).await? {
        KeyUpload::Stored(stock) => Ok(with_stock(&changed, &keys.device_id, stock)),
        // A new device has no keys yet that could clash.
        KeyUpload::Clash(name) => Err(clash(&name)),
    }
}
