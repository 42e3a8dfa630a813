//! End-to-end keys of a user's devices, cross-signing keys and signatures (client-server API, "End-to-end encryption").
//!
//! Writes go through the owner's session actor; queries read the database and start no actor.

pub mod changes;
pub mod check;
mod claim;
mod cross_signing;
mod dehydrate;
pub mod query;
mod signatures;
mod upload;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use entities::device_list_change;
use entities::ids::StreamPos;
use entities::store::e2ee::KeyStock;
use entities::store::rows::Rows;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::value::RawValue;

pub use self::cross_signing::{CrossSigningUpload, is_free};
pub use self::dehydrate::Dehydrate;
pub use self::signatures::Failures;
pub use self::upload::Upload;
use super::interest::interested_users;
use super::load;
use super::outbound::{self, Told};
use super::view::UserView;
use crate::env::Env;
use crate::error::Outcome;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// What can be asked about keys.
#[derive(Clone, Debug)]
pub enum KeyCommand {
    /// Publishes keys of a device.
    Upload(Box<Upload>),
    /// Hands out keys of this user's devices to somebody else.
    Claim {
        /// Device and algorithm.
        wanted: Vec<(OwnedDeviceId, String)>,
    },
    /// Hands out several keys of each device, and fallback keys beside them (MSC3983).
    ClaimSeveral {
        /// Device, algorithm and number.
        wanted: Vec<(OwnedDeviceId, String, u32)>,
    },
    /// Publishes cross-signing keys. Whether the user has proved who they are is the asker's business.
    CrossSigning(Box<CrossSigningUpload>),
    /// Makes a device without a session, in place of the former one (MSC3814).
    Dehydrate(Box<Dehydrate>),
    /// Publishes this user's signatures: by the owner of the signed key, then by device id or public key.
    Signatures(BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>),
}

/// Keys by device, then by `algorithm:key_id`.
pub type Claimed = BTreeMap<OwnedDeviceId, BTreeMap<String, Box<RawValue>>>;

/// The answers.
#[derive(Clone, Debug)]
pub enum KeyReply {
    /// To `Upload`: unclaimed one-time keys by algorithm.
    Counts(BTreeMap<String, u64>),
    /// To `Claim` and `ClaimSeveral`.
    Claimed(Claimed),
    /// To `Signatures`: what was not stored.
    Failures(Failures),
    /// To `CrossSigning` and `Dehydrate`.
    Done,
}

/// Does one command; the view comes back where it changed.
///
/// # Errors
/// See the commands; `Unavailable` when nothing could be written.
pub async fn run(env: &Env, view: &UserView, command: KeyCommand) -> Outcome<(KeyReply, Option<UserView>)> {
    match command {
        KeyCommand::Upload(upload) => upload::run(env, view, *upload).await,
        KeyCommand::Claim { wanted } => claim::run(env, view, wanted).await,
        KeyCommand::ClaimSeveral { wanted } => claim::several(env, view, wanted).await,
        KeyCommand::CrossSigning(upload) => {
            cross_signing::run(env, view, *upload).await?;
            Ok((KeyReply::Done, None))
        }
        KeyCommand::Dehydrate(new) => {
            let changed = dehydrate::run(env, view, *new).await?;
            Ok((KeyReply::Done, Some(changed)))
        }
        KeyCommand::Signatures(signed) => {
            let failures = signatures::run(env, view, signed).await?;
            Ok((KeyReply::Failures(failures), None))
        }
    }
}

/// The view with a device's new stock.
fn with_stock(view: &UserView, device: &DeviceId, stock: KeyStock) -> UserView {
    let mut changed = view.clone();
    if let Some(device) = Arc::make_mut(&mut changed.devices).get_mut(device) {
        let count = |(algorithm, count)| (algorithm, u64::try_from(count).unwrap_or(0));
        device.one_time_key_counts = stock.one_time.into_iter().map(count).collect();
        device.unused_fallback_key_types = stock.unused_fallback;
    }
    changed
}

/// Tells other servers of the user's keys among `rows`, from position `first` on: of each device, and of the cross-signing
/// keys that others may see.
async fn tell_others(env: &Env, user: &UserId, first: i64, rows: &mut Rows) -> Outcome<Told> {
    let view = load::view(env, user).await?;
    let is_device = |id: &String| view.as_ref().is_some_and(|view| view.devices.contains_key(id.as_str()));
    let signed = rows
        .key_signatures
        .iter()
        .filter(|row| row.target_user == user.as_str());
    let signed = signed.map(|row| row.target_key.clone());
    let uploaded = rows.device_keys.iter().filter(|row| row.user_id == user.as_str());
    let uploaded = uploaded.map(|row| row.device_id.clone());
    let named: BTreeSet<String> = signed.chain(uploaded).collect();
    let (devices, others): (Vec<String>, Vec<String>) = named.into_iter().partition(is_device);
    let shown = |row: &entities::cross_signing_key::Model| row.user_id == user.as_str() && row.usage != "user_signing";
    let signing_keys = !others.is_empty() || rows.cross_signing_keys.iter().any(shown);
    let mut told = outbound::devices(env, user, &devices, first, rows).await?;
    if signing_keys {
        let further = told.positions + i64::from(!devices.is_empty());
        let keys = outbound::signing_keys(env, user, first + further, rows).await?;
        told.positions = further;
        told.fact = keys.fact.or(told.fact);
    }
    Ok(told)
}

/// Commits `rows` and tells the users `changed` concerns that its keys are new: by default everybody who shares a room
/// with that user, or else those named.
async fn announce(env: &Env, mut rows: Rows, changed: HashMap<OwnedUserId, Option<OwnedUserId>>) -> Outcome<()> {
    let (mut facts, mut next) = (Vec::with_capacity(changed.len()), 0);
    for (user, only) in changed {
        let at = next;
        next += 1;
        rows.device_list_changes.push(device_list_change::Model {
            pos: at,
            user_id: user.to_string(),
        });
        let users: Arc<[OwnedUserId]> = match only {
            Some(only) => Arc::from([only]),
            None => {
                let told = tell_others(env, &user, at, &mut rows).await?;
                next += told.positions;
                facts.extend(told.fact);
                interested_users(env, &user).await?
            }
        };
        facts.push(Fact {
            pos: StreamPos(at),
            users,
            kind: FactKind::DeviceList { user },
        });
    }
    facts.sort_by_key(|fact| fact.pos);
    env.journal.submit(Submission::telling(rows, next, facts)).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
