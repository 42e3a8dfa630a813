//! Signatures on keys (client-server API, "Cross-signing"): a user's own devices and master key, and other users' master keys.

use std::collections::{BTreeMap, HashMap, HashSet};

use entities::key_signature;
use entities::store::remote_devices::RemoteList;
use entities::store::rows::Rows;
use ruma::canonical_json::CanonicalJsonObject;
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::super::view::UserView;
use super::cross_signing::public_key;
use super::{announce, check};
use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Why signatures were not stored: by the owner of the signed key, then by device id or public key.
pub type Failures = BTreeMap<OwnedUserId, BTreeMap<String, DomainError>>;

type Signed = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;

/// Objects that can be signed in one request.
const MAX_SIGNED: usize = 1_000;

/// What signatures are checked against.
pub(super) struct Known {
    pub user: OwnedUserId,
    /// The signer's devices.
    pub devices: HashMap<String, CanonicalJsonObject>,
    /// Cross-signing keys by owner and usage.
    pub cross_signing: HashMap<(String, String), CanonicalJsonObject>,
    /// This server's users are known; of others those whose keys were looked at.
    pub server: ruma::OwnedServerName,
}

pub(super) async fn run(env: &Env, view: &UserView, signed: Signed) -> Outcome<Failures> {
    if signed.values().map(BTreeMap::len).sum::<usize>() > MAX_SIGNED {
        return Err(DomainError::too_large("Too many signed objects in one request"));
    }
    let users: Vec<String> = signed.keys().map(ToString::to_string).collect();
    let known = known(env, view, &users).await?;
    let (good, failures) = env.cpu.run(Class::Verify, move || known.check_all(signed)).await?;
    let stored = env.store.key_signatures_for(&users, view.user_id.as_str()).await?;
    let stored: HashSet<(&str, &str, &str, &str)> = stored.iter().map(identity).collect();
    let mut fresh = good;
    fresh.retain(|row| !stored.contains(&identity(row)));
    if fresh.is_empty() {
        return Ok(failures);
    }
    let mut changed = HashMap::new();
    for row in &fresh {
        if row.target_user == view.user_id.as_str() {
            changed.insert(view.user_id.clone(), None);
        } else if let Ok(target) = OwnedUserId::try_from(row.target_user.as_str()) {
            // Nobody else sees it.
            changed.insert(target, Some(view.user_id.clone()));
        }
    }
    let rows = Rows {
        key_signatures: fresh,
        ..Rows::default()
    };
    announce(env, rows, changed).await?;
    Ok(failures)
}

/// What makes a signature of one signer another one.
fn identity(row: &key_signature::Model) -> (&str, &str, &str, &str) {
    (&row.target_user, &row.target_key, &row.signer_key, &row.signature)
}

async fn known(env: &Env, view: &UserView, users: &[String]) -> Outcome<Known> {
    let own = view.user_id.as_str();
    let mut owners: Vec<&str> = users.iter().map(String::as_str).collect();
    if !owners.contains(&own) {
        owners.push(own);
    }
    let devices = env.store.device_keys_of(&[own]).await?;
    let cross_signing = env.store.cross_signing_keys_of(&owners).await?;
    // Of other servers' users, as far as their keys were looked at.
    let remote: Vec<&str> = owners.into_iter().filter(|owner| !is_of(owner, env)).collect();
    let remote = match remote.is_empty() {
        true => RemoteList::default(),
        false => env.store.remote_devices(&remote).await?,
    };
    let remote = remote.keys.into_iter().map(|key| (key.user_id, key.usage, key.json));
    Ok(Known {
        user: view.user_id.clone(),
        devices: devices
            .into_iter()
            .filter_map(|row| Some((row.device_id, check::object(&row.json).ok()?)))
            .collect(),
        cross_signing: cross_signing
            .into_iter()
            .map(|row| (row.user_id, row.usage, row.json))
            .chain(remote)
            .filter_map(|(user, usage, json)| Some(((user, usage), check::object(&json).ok()?)))
            .collect(),
        server: env.server_name.clone(),
    })
}

fn is_of(user: &str, env: &Env) -> bool {
    <&UserId>::try_from(user).is_ok_and(|user| env.is_local(user))
}

impl Known {
    pub(super) fn check_all(&self, signed: Signed) -> (Vec<key_signature::Model>, Failures) {
        let (mut good, mut failures) = (Vec::new(), Failures::new());
        for (target, objects) in signed {
            for (name, object) in objects {
                match self.check(&target, &name, object.get()) {
                    Ok(rows) => good.extend(rows),
                    Err(error) => {
                        failures.entry(target.clone()).or_default().insert(name, error);
                    }
                }
            }
        }
        (good, failures)
    }

    fn check(&self, target: &UserId, name: &str, json: &str) -> Outcome<Vec<key_signature::Model>> {
        let object = check::object(json)?;
        let signers = self.signers(target, name)?;
        let signed = match self.devices.get(name) {
            Some(device) if target == self.user => device,
            _ => self.key(target, "master").ok_or_else(unknown_key)?,
        };
        if !check::same_content(signed, &object) {
            return Err(DomainError::invalid_param("The signed object is not the stored key"));
        }
        let mut rows = Vec::new();
        for (signer, signature) in check::signatures_of(&object, &self.user) {
            // A client may send along the signatures that are there already.
            let Some(public) = signers.get(signer) else { continue };
            if !check::is_signed(&object, public, signature) {
                return Err(check::invalid_signature(format!("Invalid signature by {signer}")));
            }
            rows.push(key_signature::Model {
                target_user: target.to_string(),
                target_key: name.to_owned(),
                signer_user: self.user.to_string(),
                signer_key: signer.to_owned(),
                signature: signature.to_owned(),
            });
        }
        if rows.is_empty() {
            return Err(check::invalid_signature(
                "There is no signature by a key that may sign this one",
            ));
        }
        Ok(rows)
    }

    /// Who may sign a key, by key id: the self-signing key the user's devices, devices the user's master key, and the
    /// user-signing key other users' master keys.
    fn signers(&self, target: &UserId, name: &str) -> Outcome<HashMap<String, &str>> {
        let by = |usage: &str| {
            let key = self.key(&self.user, usage).and_then(public_key);
            let missing = || DomainError::not_found(format!("There is no {usage} key"));
            key.map(|public| HashMap::from([(format!("ed25519:{public}"), public)]))
                .ok_or_else(missing)
        };
        if target == self.user && self.devices.contains_key(name) {
            return by("self_signing");
        }
        if self.key(target, "master").and_then(public_key) != Some(name) {
            return Err(match target.server_name() == self.server {
                true => unknown_key(),
                false => DomainError::not_found("The key is not known here; look the user's keys up first"),
            });
        }
        if target != self.user {
            return by("user_signing");
        }
        let own = |(id, keys)| {
            let id = format!("ed25519:{id}");
            let (_, public) = check::texts(keys, "keys").find(|(name, _)| *name == id)?;
            Some((id, public))
        };
        Ok(self.devices.iter().filter_map(own).collect())
    }

    fn key(&self, user: &UserId, usage: &str) -> Option<&CanonicalJsonObject> {
        self.cross_signing.get(&(user.to_string(), usage.to_owned()))
    }
}

fn unknown_key() -> DomainError {
    DomainError::not_found("Unknown key")
}

#[cfg(test)]
#[path = "signatures_tests.rs"]
mod tests;
