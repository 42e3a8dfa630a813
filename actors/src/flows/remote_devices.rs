//! Keys of other servers' users (server-server API, "End-to-End Encryption" and "Device Management").
//!
//! What their servers told is kept for users who share a room with a local one, since their servers then say when it
//! changes. Wherever a change may have been missed the copy counts as old and is asked for again before use.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::remote_cross_signing_key;
use entities::remote_device;
use entities::store::remote_devices::RemoteList;
use futures_util::StreamExt as _;
use ruma::api::federation::device::get_devices;
use ruma::api::federation::keys::{claim_keys, get_keys};
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::handle::Pace;
use crate::session::keys::query::{Found, Wanted, local_keys, merge_signatures, public_key};
use crate::stream::fact::{Fact, FactKind};

/// Servers that are asked at the same time for one request.
const SERVERS: usize = 16;
/// Users of one server whose lists are fetched at the same time.
const LISTS: usize = 8;
/// Bytes of one device's keys, or of a cross-signing key.
const MAX_KEY: usize = 64 * 1024;
/// Devices of one user.
const MAX_DEVICES: usize = 1_000;

/// The keys of the wanted users as `reader` may see them; other servers are waited for up to `patience` each.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn query(hub: &Arc<Hub>, reader: &UserId, wanted: Wanted, patience: Duration) -> Outcome<Found> {
    let env = hub.env();
    let (local, remote): (Wanted, Wanted) = wanted.into_iter().partition(|(user, _)| env.is_local(user));
    let mut found = local_keys(env, Some(reader), &local).await?;
    if remote.is_empty() {
        return Ok(found);
    }
    let (known, by_server) = sort(env, &remote).await?;
    add(&mut found, known_keys(env, &known).await?, &remote);
    let asks = by_server.into_iter().map(|(server, asked)| async move {
        let answer = timeout(patience, ask(hub, &server, asked)).await;
        let late = |_| Err(DomainError::unavailable(format!("{server} did not answer in time")));
        (server.clone(), answer.unwrap_or_else(late))
    });
    let mut asks = futures_util::stream::iter(asks).buffer_unordered(SERVERS);
    while let Some((server, answer)) = asks.next().await {
        match answer {
            Ok(keys) => add(&mut found, keys, &remote),
            Err(error) => drop(found.failures.insert(server, failure(&error))),
        }
    }
    sign(env, reader, &remote, &mut found).await?;
    Ok(found)
}

/// What a client is told of a server that gave nothing.
#[must_use]
pub fn failure(error: &DomainError) -> Value {
    match error {
        DomainError::Matrix { errcode, message, .. } => json!({ "errcode": errcode, "error": message }),
        _ => {
            json!({ "errcode": "M_UNKNOWN", "error": "the server cannot be reached", "message": "the server cannot be reached" })
        }
    }
}

/// Sorts what is to be asked about users by the servers that know.
pub(super) fn by_server<T>(
    wanted: impl IntoIterator<Item = (OwnedUserId, T)>,
) -> BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>> {
    let mut by_server: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for (user, wanted) in wanted {
        let of_server = by_server.entry(user.server_name().to_owned()).or_default();
        of_server.insert(user, wanted);
    }
    by_server
}

/// What one server is asked.
#[derive(Default)]
struct Asked {
    /// Users whose lists are kept, with the numbers of the old ones.
    lists: Vec<(OwnedUserId, i64)>,
    /// Others.
    keys: Wanted,
}

/// Tells those whose copies are good from those who have to be asked for.
async fn sort(env: &Env, remote: &Wanted) -> Outcome<(Vec<OwnedUserId>, BTreeMap<OwnedServerName, Asked>)> {
    let users: Vec<&str> = remote.keys().map(|user| user.as_str()).collect();
    let (lists, in_sight) = tokio::try_join!(
        env.store.remote_device_lists(&users),
        env.store.remote_users_in_sight(&users)
    )?;
    let lists: HashMap<String, _> = lists.into_iter().map(|list| (list.user_id.clone(), list)).collect();
    let in_sight: HashSet<String> = in_sight.into_iter().collect();
    let mut known = Vec::new();
    let mut by_server: BTreeMap<OwnedServerName, Asked> = BTreeMap::new();
    for (user, devices) in remote {
        let list = lists.get(user.as_str());
        if !in_sight.contains(user.as_str()) {
            let asked = by_server.entry(user.server_name().to_owned()).or_default();
            asked.keys.insert(user.clone(), devices.clone());
        } else if list.is_some_and(|list| !list.stale) {
            known.push(user.clone());
        } else {
            let asked = by_server.entry(user.server_name().to_owned()).or_default();
            asked.lists.push((user.clone(), list.map_or(0, |list| list.stream_id)));
        }
    }
    Ok((known, by_server))
}

async fn known_keys(env: &Env, users: &[OwnedUserId]) -> Outcome<Found> {
    let users: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
    if users.is_empty() {
        return Ok(Found::default());
    }
    let list = env.store.remote_devices(&users).await?;
    let mut found = as_found(&list);
    for user in users.iter().filter_map(|user| OwnedUserId::try_from(*user).ok()) {
        found.device_keys.entry(user).or_default();
    }
    Ok(found)
}

fn as_found(list: &RemoteList) -> Found {
    let mut found = Found::default();
    for device in &list.devices {
        let keys = device
            .json
            .as_deref()
            .and_then(|json| serde_json::from_str::<Value>(json).ok());
        let user = OwnedUserId::try_from(device.user_id.as_str());
        let (Some(mut keys), Ok(user)) = (keys.filter(Value::is_object), user) else {
            continue;
        };
        keys["unsigned"] = match &device.display_name {
            Some(name) => json!({ "device_display_name": name }),
            None => json!({}),
        };
        let devices = found.device_keys.entry(user).or_default();
        devices.insert(device.device_id.clone(), keys);
    }
    for key in &list.keys {
        let parsed = serde_json::from_str::<Value>(&key.json);
        let user = OwnedUserId::try_from(key.user_id.as_str());
        let (Ok(parsed), Ok(user)) = (parsed, user) else {
            continue;
        };
        match key.usage.as_str() {
            "master" => drop(found.master_keys.insert(user, parsed)),
            _ => drop(found.self_signing_keys.insert(user, parsed)),
        }
    }
    found
}

/// Takes over what was wanted.
fn add(found: &mut Found, keys: Found, wanted: &Wanted) {
    for (user, mut devices) in keys.device_keys {
        let Some(named) = wanted.get(&user) else { continue };
        devices.retain(|id, _| named.is_empty() || named.iter().any(|named| named.as_str() == id));
        found.device_keys.insert(user, devices);
    }
    let in_question = |(user, _): &(OwnedUserId, Value)| wanted.contains_key(user);
    found
        .master_keys
        .extend(keys.master_keys.into_iter().filter(in_question));
    found
        .self_signing_keys
        .extend(keys.self_signing_keys.into_iter().filter(in_question));
}

/// Adds the reader's own signatures, which only this server has.
async fn sign(env: &Env, reader: &UserId, remote: &Wanted, found: &mut Found) -> Outcome<()> {
    let users: Vec<&str> = remote.keys().map(|user| user.as_str()).collect();
    for signature in env.store.key_signatures_for(&users, reader.as_str()).await? {
        let Some((user, _)) = remote.get_key_value(signature.target_user.as_str()) else {
            continue;
        };
        if let Some(master) = found.master_keys.get_mut(user)
            && public_key(master).as_deref() == Some(signature.target_key.as_str())
        {
            merge_signatures(master, std::slice::from_ref(&signature));
        }
    }
    Ok(())
}

/// Asks one server.
async fn ask(hub: &Arc<Hub>, server: &OwnedServerName, asked: Asked) -> Outcome<Found> {
    let keys = async {
        if asked.keys.is_empty() {
            return Ok(Found::default());
        }
        let wanted: BTreeSet<OwnedUserId> = asked.keys.keys().cloned().collect();
        let request = get_keys::v1::Request::new(asked.keys);
        let answer = hub.peers().call(server, request, Pace::Patient).await?;
        Ok(checked(answer, &wanted))
    };
    let lists = async {
        let fetches = asked.lists.into_iter().map(|(user, number)| fetch(hub, user, number));
        let mut fetches = futures_util::stream::iter(fetches).buffer_unordered(LISTS);
        let (mut all, mut failed) = (Found::default(), None);
        while let Some(fetched) = fetches.next().await {
            match fetched {
                Ok(found) => {
                    all.device_keys.extend(found.device_keys);
                    all.master_keys.extend(found.master_keys);
                    all.self_signing_keys.extend(found.self_signing_keys);
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if all.device_keys.is_empty() => Err(error),
            _ => Ok(all),
        }
    };
    let (keys, lists): (Outcome<Found>, Outcome<Found>) = tokio::join!(keys, lists);
    let mut found = keys?;
    let lists = lists?;
    found.device_keys.extend(lists.device_keys);
    found.master_keys.extend(lists.master_keys);
    found.self_signing_keys.extend(lists.self_signing_keys);
    Ok(found)
}

/// Keeps of an answer what belongs to those asked for.
fn checked(answer: get_keys::v1::Response, wanted: &BTreeSet<OwnedUserId>) -> Found {
    let mut found = Found::default();
    for (user, devices) in answer.device_keys {
        if !wanted.contains(&user) {
            continue;
        }
        let devices = devices.into_iter().take(MAX_DEVICES);
        let good = devices.filter_map(|(id, keys)| {
            let keys = device_keys(keys.json().get(), &user, id.as_str())?;
            Some((id.to_string(), keys))
        });
        let good = good.collect();
        found.device_keys.insert(user, good);
    }
    let own = |user: OwnedUserId, json: &str| {
        let key = cross_signing_key(json, &user)?;
        wanted.contains(&user).then_some((user, key))
    };
    let group = |keys: BTreeMap<OwnedUserId, ruma::serde::Raw<ruma::encryption::CrossSigningKey>>| {
        let keys = keys.into_iter().filter_map(|(user, key)| own(user, key.json().get()));
        keys.collect()
    };
    found.master_keys = group(answer.master_keys);
    found.self_signing_keys = group(answer.self_signing_keys);
    found
}

/// The keys of a device, if they are that device's.
pub(super) fn device_keys(json: &str, user: &UserId, device: &str) -> Option<Value> {
    let keys: Value = serde_json::from_str(json).ok().filter(|_| json.len() <= MAX_KEY)?;
    (keys["user_id"] == user.as_str() && keys["device_id"] == device).then_some(keys)
}

/// A cross-signing key, if it is that user's.
fn cross_signing_key(json: &str, user: &UserId) -> Option<Value> {
    let key: Value = serde_json::from_str(json).ok().filter(|_| json.len() <= MAX_KEY)?;
    (key["user_id"] == user.as_str() && public_key(&key).is_some()).then_some(key)
}

/// Fetches a user's list and keeps it.
async fn fetch(hub: &Arc<Hub>, user: OwnedUserId, number: i64) -> Outcome<Found> {
    let env = hub.env();
    let server = user.server_name().to_owned();
    let request = get_devices::v1::Request::new(user.clone());
    let answer = match hub.peers().call(&server, request, Pace::Patient).await {
        // Nobody of that name, or no longer.
        Err(DomainError::Matrix { status: 404, .. }) => get_devices::v1::Response::new(user.clone(), 0_u32.into()),
        answer => answer?,
    };
    let remote_id = i64::try_from(u64::from(answer.stream_id)).unwrap_or(0);
    let list = to_list(&user, answer);
    env.store
        .keep_remote_list(user.as_str(), number, env.clock.now_ms(), remote_id, &list)
        .await?;
    let mut found = as_found(&list);
    found.device_keys.entry(user).or_default();
    Ok(found)
}

fn to_list(user: &UserId, answer: get_devices::v1::Response) -> RemoteList {
    let mut seen = HashSet::new();
    let devices = answer.devices.into_iter().take(MAX_DEVICES).filter_map(|device| {
        let keys = device_keys(device.keys.json().get(), user, device.device_id.as_str())?;
        seen.insert(device.device_id.clone()).then(|| remote_device::Model {
            user_id: user.to_string(),
            device_id: device.device_id.to_string(),
            json: Some(keys.to_string()),
            display_name: device.device_display_name,
        })
    });
    let devices = devices.collect();
    let keys = [("master", answer.master_key), ("self_signing", answer.self_signing_key)];
    let keys = keys.into_iter().filter_map(|(usage, key)| {
        Some(remote_cross_signing_key::Model {
            user_id: user.to_string(),
            usage: usage.to_owned(),
            json: cross_signing_key(key?.json().get(), user)?.to_string(),
        })
    });
    RemoteList {
        keys: keys.collect(),
        devices,
    }
}

/// Devices and algorithms by user.
pub type Claims = BTreeMap<OwnedUserId, Vec<(OwnedDeviceId, String)>>;

/// Claims keys of other servers' users: what was got, and the servers that gave nothing.
pub async fn claim(
    hub: &Arc<Hub>,
    wanted: Claims,
    patience: Duration,
) -> (BTreeMap<OwnedUserId, Value>, BTreeMap<OwnedServerName, Value>) {
    let typed = |(user, devices): (_, Vec<(OwnedDeviceId, String)>)| {
        let devices = devices.into_iter();
        let devices = devices.map(|(id, algorithm)| (id, algorithm.as_str().into()));
        (user, devices.collect())
    };
    let asks = by_server(wanted.into_iter().map(typed)).into_iter();
    let asks = asks.map(|(server, claims): (_, claim_keys::v1::OneTimeKeyClaims)| async move {
        let users: BTreeSet<OwnedUserId> = claims.keys().cloned().collect();
        let request = claim_keys::v1::Request::new(claims);
        let answer = timeout(patience, hub.peers().call(&server, request, Pace::Patient)).await;
        let late = |_| Err(DomainError::unavailable(format!("{server} did not answer in time")));
        (server.clone(), users, answer.unwrap_or_else(late))
    });
    let (mut keys, mut failures) = (BTreeMap::new(), BTreeMap::new());
    let mut asks = futures_util::stream::iter(asks).buffer_unordered(SERVERS);
    while let Some((server, users, answer)) = asks.next().await {
        match answer {
            Ok(answer) => {
                let own = answer
                    .one_time_keys
                    .into_iter()
                    .filter(|(user, _)| users.contains(user));
                keys.extend(own.filter_map(|(user, devices)| Some((user, serde_json::to_value(devices).ok()?))));
            }
            Err(error) => drop(failures.insert(server, failure(&error))),
        }
    }
    (keys, failures)
}

/// Follows who comes out of sight: their servers do not tell any more what changes.
pub fn start(env: &Arc<Env>) {
    env.io.spawn(follow(Arc::downgrade(env), env.journal.subscribe()));
}

async fn follow(env: Weak<Env>, mut facts: tokio::sync::broadcast::Receiver<Arc<[Fact]>>) {
    // What happened while the server was away is not known.
    let mut missed = true;
    loop {
        let batch = if missed { None } else { Some(facts.recv().await) };
        let Some(env) = env.upgrade() else { return };
        let noted = match batch {
            None | Some(Err(RecvError::Lagged(_))) => env.store.mark_all_remote_lists_stale().await.map_err(Into::into),
            Some(Err(RecvError::Closed)) => return,
            Some(Ok(batch)) => note(&env, &batch).await,
        };
        missed = noted.is_err();
        if let Err(error) = noted {
            tracing::warn!(%error, "who comes out of sight could not be noted");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn note(env: &Env, batch: &[Fact]) -> Outcome<()> {
    let mut gone = BTreeSet::new();
    for fact in batch {
        let FactKind::Event { room_id, event, .. } = &fact.kind else {
            continue;
        };
        let left = event.pdu.has_membership("leave") || event.pdu.has_membership("ban");
        let user = event
            .pdu
            .state_key
            .as_deref()
            .and_then(|key| OwnedUserId::try_from(key).ok());
        let Some(user) = user.filter(|_| left) else { continue };
        if !env.is_local(&user) {
            gone.insert(user.to_string());
        } else if let Some(room) = env.rooms.view(room_id).await?
            && room.local_joined.is_empty()
        {
            env.store.mark_remote_lists_stale_in(room.nid.0).await?;
        }
    }
    let gone: Vec<String> = gone.into_iter().collect();
    if gone.is_empty() {
        return Ok(());
    }
    Ok(env.store.mark_remote_lists_stale(&gone).await?)
}
