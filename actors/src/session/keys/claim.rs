//! Handing out one-time keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::e2ee::ClaimedKey;
use entities::store::rows::Rows;
use ruma::OwnedDeviceId;
use serde_json::value::RawValue;

use super::super::view::UserView;
use super::{Claimed, KeyReply};
use crate::env::Env;
use crate::error::Outcome;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// Keys of one device and algorithm that one request gets.
const MAX_SEVERAL: u32 = 50;

pub(super) async fn run(
    env: &Env,
    view: &UserView,
    wanted: Vec<(OwnedDeviceId, String)>,
) -> Outcome<(KeyReply, Option<UserView>)> {
    let known: BTreeSet<(String, String)> = wanted
        .into_iter()
        .filter(|(device, algorithm)| view.devices.contains_key(device) && !algorithm.contains('\0'))
        .map(|(device, algorithm)| (device.to_string(), algorithm))
        .collect();
    let known: Vec<(String, String)> = known.into_iter().collect();
    if known.is_empty() {
        return Ok((KeyReply::Claimed(Claimed::new()), None));
    }
    let keys = env.store.claim_keys(view.user_id.as_str(), &known).await?;
    Ok(handed_out(env, view, keys, Vec::new()).await)
}

/// Several of each device and algorithm, which are named once each.
pub(super) async fn several(
    env: &Env,
    view: &UserView,
    wanted: Vec<(OwnedDeviceId, String, u32)>,
) -> Outcome<(KeyReply, Option<UserView>)> {
    let known: BTreeMap<(String, String), u32> = wanted
        .into_iter()
        .filter(|(device, algorithm, _)| view.devices.contains_key(device) && !algorithm.contains('\0'))
        .map(|(device, algorithm, number)| ((device.to_string(), algorithm), number.min(MAX_SEVERAL)))
        .collect();
    let known: Vec<(String, String, u32)> = known
        .into_iter()
        .map(|((device, algorithm), number)| (device, algorithm, number))
        .collect();
    if known.is_empty() {
        return Ok((KeyReply::Claimed(Claimed::new()), None));
    }
    let keys = env.store.claim_several(view.user_id.as_str(), &known).await?;
    Ok(handed_out(env, view, keys.claimed, keys.beside).await)
}

async fn handed_out(
    env: &Env,
    view: &UserView,
    keys: Vec<ClaimedKey>,
    beside: Vec<ClaimedKey>,
) -> (KeyReply, Option<UserView>) {
    if keys.is_empty() {
        return (KeyReply::Claimed(Claimed::new()), None);
    }
    let changed = without(view, &keys);
    tell(env, &changed, &keys).await;
    let all = keys.into_iter().chain(beside).collect();
    (KeyReply::Claimed(by_device(all)), Some(changed))
}

/// The view after the keys are gone.
pub(super) fn without(view: &UserView, keys: &[ClaimedKey]) -> UserView {
    let mut changed = view.clone();
    let devices = Arc::make_mut(&mut changed.devices);
    for key in keys {
        let Some(device) = devices.get_mut(key.device_id.as_str()) else {
            continue;
        };
        let algorithm = &key.key.algorithm;
        if key.fallback {
            device.unused_fallback_key_types.retain(|unused| unused != algorithm);
            device.one_time_key_counts.remove(algorithm);
        } else if let Some(count) = device.one_time_key_counts.get_mut(algorithm) {
            *count = count.saturating_sub(1);
        }
    }
    changed
}

/// Publishes the view and wakes the devices. The keys are handed out whether this succeeds or not.
async fn tell(env: &Env, changed: &UserView, keys: &[ClaimedKey]) {
    let (users, user, view) = (env.users.clone(), changed.user_id.clone(), Arc::new(changed.clone()));
    let devices: BTreeSet<OwnedDeviceId> = keys.iter().map(|key| key.device_id.as_str().into()).collect();
    let publish = {
        let (users, user, view) = (users.clone(), user.clone(), view.clone());
        move |base: StreamPos| {
            let told: Arc<[_]> = Arc::from([user.clone()]);
            users.publish(user, view);
            let fact = |device| Fact {
                pos: base,
                users: told.clone(),
                kind: FactKind::KeyCounts { device },
            };
            devices.into_iter().map(fact).collect()
        }
    };
    let submission = Submission {
        rows: Rows::default(),
        positions: 1,
        publish: Box::new(publish),
    };
    if let Err(error) = env.journal.submit(submission).await {
        tracing::debug!(%user, %error, "nobody was told of claimed keys");
        users.publish(user, view);
    }
}

fn by_device(keys: Vec<ClaimedKey>) -> Claimed {
    let mut claimed = Claimed::new();
    for ClaimedKey { device_id, key, .. } in keys {
        match RawValue::from_string(key.json) {
            Ok(json) => {
                let device = claimed.entry(device_id.into()).or_default();
                device.insert(format!("{}:{}", key.algorithm, key.key_id), json);
            }
            Err(error) => tracing::error!(%error, device = device_id, "a stored one-time key is no JSON"),
        }
    }
    claimed
}
