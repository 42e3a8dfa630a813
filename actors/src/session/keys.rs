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
use super::view::UserView;
use super::{load, outbound};
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
    /// To `Claim`.
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

/// Tells other servers of the user's keys among `rows`: of one device where only that changed, or else of the cross-signing
/// keys, which makes them look at everything.
async fn tell_others(env: &Env, user: &UserId, at: i64, rows: &mut Rows) -> Outcome<Option<Fact>> {
    let view = load::view(env, user).await?;
    let is_device = |id: &String| view.as_ref().is_some_and(|view| view.devices.contains_key(id.as_str()));
    let of_user = rows
        .key_signatures
        .iter()
        .filter(|row| row.target_user == user.as_str());
    let signed = of_user.map(|row| row.target_key.clone());
    let uploaded = rows.device_keys.iter().map(|row| row.device_id.clone());
    let named: BTreeSet<String> = signed.chain(uploaded).collect();
    let one = named.first().filter(|id| named.len() == 1 && is_device(id)).cloned();
    let told = match one.filter(|_| rows.cross_signing_keys.is_empty()) {
        Some(device) => outbound::devices(env, user, &[device], at, rows).await?,
        None => outbound::signing_keys(env, user, at, rows).await?,
    };
    Ok(told.fact)
}

/// Commits `rows` and tells the users `changed` concerns that its keys are new: by default everybody who shares a room
/// with that user, or else those named.
async fn announce(env: &Env, mut rows: Rows, changed: HashMap<OwnedUserId, Option<OwnedUserId>>) -> Outcome<()> {
    let (mut facts, mut wakes) = (Vec::with_capacity(changed.len()), Vec::new());
    for (at, (user, only)) in (0i64..).zip(changed) {
        rows.device_list_changes.push(device_list_change::Model {
            pos: at,
            user_id: user.to_string(),
        });
        let users_everywhere = only.is_none();
        let users: Arc<[OwnedUserId]> = match only {
            Some(only) => Arc::from([only]),
            None => interested_users(env, &user).await?,
        };
        if users_everywhere {
            wakes.extend(tell_others(env, &user, at, &mut rows).await?);
        }
        let kind = FactKind::DeviceList { user };
        facts.push(Fact {
            pos: StreamPos(at),
            users,
            kind,
        });
    }
    let positions = u32::try_from(facts.len()).unwrap_or(u32::MAX);
    facts.extend(wakes);
    let publish = move |base: StreamPos| {
        for fact in &mut facts {
            fact.pos = StreamPos(fact.pos.0 + base.0);
        }
        facts
    };
    env.journal
        .submit(Submission {
            rows,
            positions,
            publish: Box::new(publish),
        })
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
