//! Cross-signing keys (client-server API, "Cross-signing").

use std::collections::HashMap;

use entities::cross_signing_key;
use entities::store::rows::Rows;
use ruma::canonical_json::CanonicalJsonObject;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::view::UserView;
use super::{announce, check};
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// What a user publishes.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CrossSigningUpload {
    /// Signs the other two.
    #[serde(default)]
    pub master_key: Option<Box<RawValue>>,
    /// Signs the user's devices.
    #[serde(default)]
    pub self_signing_key: Option<Box<RawValue>>,
    /// Signs other users' master keys.
    #[serde(default)]
    pub user_signing_key: Option<Box<RawValue>>,
    /// The user has just proved who they are.
    #[serde(skip)]
    pub proved: bool,
}

const MASTER: &str = "master";

/// The ids of a user's keys in the database.
const USAGES: [&str; 3] = [MASTER, "self_signing", "user_signing"];

/// A key that the server may store.
struct Checked {
    usage: &'static str,
    key: CanonicalJsonObject,
}

/// Keys by usage.
pub(super) type Stored = HashMap<String, CanonicalJsonObject>;

/// Whether the user need not prove who they are: there was no master key before, or nothing new is in the request.
///
/// # Errors
/// Those of the upload itself.
pub async fn is_free(env: &Env, view: &UserView, upload: &CrossSigningUpload) -> Outcome<bool> {
    let stored = stored(env, view).await?;
    let checked = check_all(view, upload, &stored)?;
    Ok(needs_no_proof(&checked, &stored))
}

/// # Errors
/// `M_INVALID_PARAM` and `M_BAD_JSON` for malformed keys, `M_MISSING_PARAM` without a master key, `M_INVALID_SIGNATURE`,
/// `M_FORBIDDEN` when a key is called like a device or the user has proved nothing.
pub(super) async fn run(env: &Env, view: &UserView, upload: CrossSigningUpload) -> Outcome<()> {
    let stored = stored(env, view).await?;
    let checked = check_all(view, &upload, &stored)?;
    if !upload.proved && !needs_no_proof(&checked, &stored) {
        return Err(DomainError::forbidden("The keys have changed since the request began"));
    }
    let mut rows = Rows::default();
    for Checked { usage, key } in checked {
        // Signatures on the master key come by an endpoint of their own.
        let unchanged = stored.get(usage).is_some_and(|old| match usage {
            MASTER => check::same_content(old, &key),
            _ => *old == key,
        });
        if !unchanged {
            let json = serde_json::to_string(&key).map_err(|e| DomainError::internal(format!("{usage} key: {e}")))?;
            rows.cross_signing_keys.push(cross_signing_key::Model {
                user_id: view.user_id.to_string(),
                usage: usage.to_owned(),
                json,
            });
        }
    }
    if rows.cross_signing_keys.is_empty() {
        return Ok(());
    }
    announce(env, rows, HashMap::from([(view.user_id.clone(), None)])).await
}

/// A user's cross-signing keys.
pub(super) async fn stored(env: &Env, view: &UserView) -> Outcome<Stored> {
    let rows = env.store.cross_signing_keys_of(&[view.user_id.as_str()]).await?;
    let readable = |row: cross_signing_key::Model| Some((row.usage, check::object(&row.json).ok()?));
    Ok(rows.into_iter().filter_map(readable).collect())
}

/// The public key that a cross-signing key holds.
pub(super) fn public_key(key: &CanonicalJsonObject) -> Option<&str> {
    let (name, public) = check::texts(key, "keys").next()?;
    (name.strip_prefix("ed25519:")? == public).then_some(public)
}

fn needs_no_proof(checked: &[Checked], stored: &Stored) -> bool {
    let known = |checked: &Checked| {
        let old = stored.get(checked.usage);
        old.is_some_and(|old| check::same_content(old, &checked.key))
    };
    !stored.contains_key(MASTER) || checked.iter().all(known)
}

fn check_all(view: &UserView, upload: &CrossSigningUpload, stored: &Stored) -> Outcome<Vec<Checked>> {
    let given = [&upload.master_key, &upload.self_signing_key, &upload.user_signing_key];
    let mut checked = Vec::with_capacity(given.len());
    for (usage, json) in USAGES.into_iter().zip(given) {
        if let Some(json) = json {
            let key = check_key(view, usage, json.get())?;
            checked.push(Checked { usage, key });
        }
    }
    let uploaded = checked.iter().find(|checked| checked.usage == MASTER);
    let master = uploaded.map(|checked| &checked.key).or_else(|| stored.get(MASTER));
    let Some(master) = master.and_then(public_key) else {
        return Err(DomainError::missing_param("There is no master key"));
    };
    let name = format!("ed25519:{master}");
    for Checked { usage, key } in checked.iter().filter(|checked| checked.usage != MASTER) {
        let signatures = check::signatures_of(key, &view.user_id);
        let signature = signatures.iter().find(|(signer, _)| *signer == name);
        if !signature.is_some_and(|(_, signature)| check::is_signed(key, master, signature)) {
            let message = format!("The {usage} key is not signed by the master key");
            return Err(check::invalid_signature(message));
        }
    }
    Ok(checked)
}

fn check_key(view: &UserView, usage: &str, json: &str) -> Outcome<CanonicalJsonObject> {
    let mut key = check::object(json)?;
    key.remove("unsigned");
    if check::text(&key, "user_id") != Some(view.user_id.as_str()) {
        return Err(DomainError::invalid_param(format!(
            "The {usage} key is not of this user"
        )));
    }
    let usages = key.get("usage").and_then(|list| list.as_array());
    if !usages.is_some_and(|list| list.iter().any(|item| item.as_str() == Some(usage))) {
        return Err(DomainError::invalid_param(format!("The {usage} key lacks its usage")));
    }
    let (one, public) = (check::texts(&key, "keys").count() == 1, public_key(&key));
    let Some(public) = public.filter(|public| one && check::is_public_key(public)) else {
        return Err(DomainError::invalid_param(format!(
            "The {usage} key must hold one Ed25519 key, named after itself"
        )));
    };
    if view.devices.keys().any(|device| device.as_str() == public) {
        return Err(DomainError::forbidden("Key ID in use: a device is called like the key"));
    }
    Ok(key)
}

#[cfg(test)]
#[path = "cross_signing_tests.rs"]
mod tests;
