//! Ephemeral events that must arrive: to-device messages, and news of devices and cross-signing keys. Their rows are written
//! with their cause; what they tell of keys is looked up when they are sent.

use std::collections::BTreeMap;

use entities::outbound_edu;
use ruma::canonical_json::CanonicalJsonObject;
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::env::Env;
use crate::error::Outcome;
use crate::session::keys::query::{Found, Wanted, local_keys};
use crate::session::load;
use crate::session::view::UserView;

/// To-device messages.
pub const DIRECT_TO_DEVICE: &str = "m.direct_to_device";
/// A device came, changed or went.
pub const DEVICE_LIST_UPDATE: &str = "m.device_list_update";
/// Cross-signing keys changed.
pub const SIGNING_KEY_UPDATE: &str = "m.signing_key_update";
/// Of the contents in one transaction.
const MAX_BYTES: usize = 1024 * 1024;

/// What is stored of a [`DEVICE_LIST_UPDATE`]; its `stream_id` is the row's position.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceListUpdate {
    /// Whose device.
    pub user_id: OwnedUserId,
    /// Which.
    pub device_id: String,
    /// The `stream_id` of the update of this user before it.
    pub prev_id: Option<i64>,
    /// It follows the update at the position before its own.
    #[serde(default)]
    pub follows: bool,
}

/// What is stored of a [`SIGNING_KEY_UPDATE`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SigningKeyUpdate {
    /// Whose keys.
    pub user_id: OwnedUserId,
}

/// The EDUs of the oldest rows, as many as fit into a transaction, and the positions that are settled with them.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn edus(env: &Env, rows: Vec<outbound_edu::Model>) -> Outcome<(Vec<Box<RawValue>>, Vec<i64>)> {
    let known = Known::read(env, &rows).await?;
    let (mut edus, mut positions, mut bytes) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()), 0);
    for row in rows {
        // What cannot be read, or signed with the transaction, can never be sent: it must not keep the rest from it.
        let edu = known.edu(&row).filter(|edu| is_canonical(edu));
        if edu.is_none() {
            let (server, kind, pos) = (&row.server_name, &row.edu_type, row.pos);
            tracing::error!(server, kind, pos, "an EDU cannot be sent: it is no canonical JSON");
            metrics::counter!("federation_unsendable_edus_total", "kind" => kind.clone()).increment(1);
        }
        bytes += edu.as_ref().map_or(0, |edu| edu.get().len());
        if bytes > MAX_BYTES && !edus.is_empty() {
            break;
        }
        edus.extend(edu);
        positions.push(row.pos);
    }
    Ok((edus, positions))
}

/// Whether it can be part of what is signed: no fractions, no integers beyond ± 2^53.
fn is_canonical(edu: &RawValue) -> bool {
    serde_json::from_str::<CanonicalJsonObject>(edu.get()).is_ok()
}

/// An EDU as it stands in a transaction.
#[derive(Serialize)]
struct Edu<'a> {
    edu_type: &'a str,
    content: &'a RawValue,
}

/// The keys and devices that EDUs tell of.
struct Known {
    found: Found,
    users: BTreeMap<OwnedUserId, std::sync::Arc<UserView>>,
}

impl Known {
    async fn read(env: &Env, rows: &[outbound_edu::Model]) -> Outcome<Self> {
        #[derive(Deserialize)]
        struct Whose {
            user_id: OwnedUserId,
        }
        let told =
            |row: &&outbound_edu::Model| [DEVICE_LIST_UPDATE, SIGNING_KEY_UPDATE].contains(&row.edu_type.as_str());
        let whose = rows
            .iter()
            .filter(told)
            .filter_map(|row| serde_json::from_str::<Whose>(&row.json).ok());
        let wanted: Wanted = whose.map(|whose| (whose.user_id, Vec::new())).collect();
        let mut users = BTreeMap::new();
        for user in wanted.keys() {
            if let Some(view) = load::view(env, user).await? {
                users.insert(user.clone(), view);
            }
        }
        let found = local_keys(env, None, &wanted).await?;
        Ok(Self { found, users })
    }

    fn edu(&self, row: &outbound_edu::Model) -> Option<Box<RawValue>> {
        let content = match row.edu_type.as_str() {
            DEVICE_LIST_UPDATE => self.device_list_update(row)?,
            SIGNING_KEY_UPDATE => self.signing_key_update(row)?,
            _ => RawValue::from_string(row.json.clone()).ok()?,
        };
        let edu = Edu {
            edu_type: &row.edu_type,
            content: &content,
        };
        to_raw_value(&edu).ok()
    }

    fn device_list_update(&self, row: &outbound_edu::Model) -> Option<Box<RawValue>> {
        let update: DeviceListUpdate = serde_json::from_str(&row.json).ok()?;
        let prev_id = if update.follows {
            Some(row.pos - 1)
        } else {
            update.prev_id
        };
        let mut content = json!({
            "user_id": update.user_id,
            "device_id": update.device_id,
            "stream_id": row.pos,
            "prev_id": prev_id.as_slice(),
        });
        let device = self
            .users
            .get(&update.user_id)
            .and_then(|view| view.devices.get(update.device_id.as_str()));
        match device {
            Some(device) => {
                if let Some(name) = &device.display_name {
                    content["device_display_name"] = name.as_str().into();
                }
                if let Some(keys) = self.device_keys(&update.user_id, &update.device_id) {
                    content["keys"] = keys;
                }
            }
            None => content["deleted"] = true.into(),
        }
        to_raw_value(&content).ok()
    }

    fn device_keys(&self, user: &UserId, device: &str) -> Option<Value> {
        let mut keys = self.found.device_keys.get(user)?.get(device)?.clone();
        keys.as_object_mut()?.remove("unsigned");
        Some(keys)
    }

    fn signing_key_update(&self, row: &outbound_edu::Model) -> Option<Box<RawValue>> {
        let update: SigningKeyUpdate = serde_json::from_str(&row.json).ok()?;
        let mut content = json!({ "user_id": update.user_id });
        for (name, keys) in [
            ("master_key", &self.found.master_keys),
            ("self_signing_key", &self.found.self_signing_keys),
        ] {
            if let Some(key) = keys.get(&update.user_id) {
                content[name] = key.clone();
            }
        }
        to_raw_value(&content).ok()
    }
}
