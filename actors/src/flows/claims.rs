//! One-time keys, several for a device at once (MSC3983).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::Method;
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::remote_devices::{self, failure};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::handle::Pace;
use crate::peer::transport::WireRequest;
use crate::session::keys::Claimed;

const PATH: &str = "/_matrix/federation/unstable/user/keys/claim";
/// Users and servers that are asked at the same time.
const AT_ONCE: usize = 16;
/// Algorithms named for one device.
const MAX_ALGORITHMS: usize = 100;

/// For each user's devices the algorithms, one as often as keys of it are wanted.
pub type Several = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Algorithms>>;

/// One algorithm, as the stable endpoint has it, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Algorithms {
    /// One key.
    One(String),
    /// As many keys as names.
    Several(Vec<String>),
}

impl Algorithms {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }

    /// Each algorithm, and how many keys are wanted of it.
    fn counted(&self) -> BTreeMap<&str, u32> {
        let mut counted = BTreeMap::new();
        for name in self.names().iter().take(MAX_ALGORITHMS) {
            *counted.entry(name.as_str()).or_default() += 1;
        }
        counted
    }
}

/// Keys of anybody's users, and the servers that gave none.
pub async fn anybodys(
    hub: &Arc<Hub>,
    wanted: Several,
    patience: Duration,
) -> (BTreeMap<OwnedUserId, Value>, BTreeMap<OwnedServerName, Value>) {
    let (own, others): (Several, Several) = wanted.into_iter().partition(|(user, _)| hub.env().is_local(user));
    let (own, (mut keys, failures)) = tokio::join!(local(hub, own), remote(hub, others, patience));
    keys.extend(own.into_iter().map(|(user, claimed)| (user, json!(claimed))));
    (keys, failures)
}

/// Keys of local users. Users without any are left out.
pub async fn local(hub: &Arc<Hub>, wanted: Several) -> BTreeMap<OwnedUserId, Claimed> {
    let claims = wanted.into_iter().map(|(user, devices)| async move {
        let counted = devices.iter().flat_map(|(device, algorithms)| {
            let counted = algorithms.counted().into_iter();
            counted.map(|(name, number)| (device.clone(), name.to_owned(), number))
        });
        let claimed = hub.sessions().claim_several(&user, counted.collect()).await;
        (user, claimed)
    });
    let mut keys = BTreeMap::new();
    let mut claims = stream::iter(claims).buffer_unordered(AT_ONCE);
    while let Some((user, claimed)) = claims.next().await {
        match claimed {
            Ok(claimed) if claimed.is_empty() => {}
            Ok(claimed) => drop(keys.insert(user, claimed)),
            // What the others gave is gone already: it must reach the asker.
            Err(error) => tracing::debug!(%user, %error, "no keys claimed"),
        }
    }
    keys
}

async fn remote(
    hub: &Arc<Hub>,
    wanted: Several,
    patience: Duration,
) -> (BTreeMap<OwnedUserId, Value>, BTreeMap<OwnedServerName, Value>) {
    let asks = remote_devices::by_server(wanted)
        .into_iter()
        .map(|(server, wanted)| async move {
            let late = |_| Err(DomainError::unavailable(format!("{server} did not answer in time")));
            let given = timeout(patience, ask(hub, &server, &wanted)).await.unwrap_or_else(late);
            (server, wanted, given)
        });
    let (mut keys, mut failures) = (BTreeMap::new(), BTreeMap::new());
    let mut asks = stream::iter(asks).buffer_unordered(AT_ONCE);
    let mut older = Vec::new();
    while let Some((server, wanted, given)) = asks.next().await {
        match given {
            Ok(given) => keys.extend(given.into_iter().filter(|(user, _)| wanted.contains_key(user))),
            Err(DomainError::Matrix {
                status: 400 | 404 | 405,
                ..
            }) => older.extend(wanted),
            Err(error) => drop(failures.insert(server, failure(&error))),
        }
    }
    // Servers that give one key at a time.
    let (given, refused) = remote_devices::claim(hub, one_each(older), patience).await;
    keys.extend(given);
    failures.extend(refused);
    (keys, failures)
}

fn one_each(wanted: Vec<(OwnedUserId, BTreeMap<OwnedDeviceId, Algorithms>)>) -> remote_devices::Claims {
    let first = |(device, algorithms): (OwnedDeviceId, Algorithms)| {
        let name = algorithms.names().first()?.clone();
        Some((device, name))
    };
    let of_user = |(user, devices): (_, BTreeMap<_, _>)| (user, devices.into_iter().filter_map(first).collect());
    wanted.into_iter().map(of_user).collect()
}

async fn ask(hub: &Hub, server: &ServerName, wanted: &Several) -> Outcome<BTreeMap<OwnedUserId, Value>> {
    #[derive(Deserialize)]
    struct Answer {
        one_time_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    }
    let names = |devices: &BTreeMap<OwnedDeviceId, Algorithms>| -> BTreeMap<OwnedDeviceId, Vec<String>> {
        let of_device =
            |(device, algorithms): (&OwnedDeviceId, &Algorithms)| (device.clone(), algorithms.names().to_vec());
        devices.iter().map(of_device).collect()
    };
    let wanted: BTreeMap<_, _> = wanted.iter().map(|(user, devices)| (user, names(devices))).collect();
    let body = to_raw_value(&json!({ "one_time_keys": wanted }))
        .map_err(|error| DomainError::internal(format!("a claim of keys: {error}")))?;
    let request = WireRequest::with_body(Method::POST, PATH, body, federation::Limits::QUERY);
    let answer = hub.peers().send(server, request, Pace::Patient).await?;
    let bad = |error| DomainError::matrix(502, "M_UNKNOWN", format!("an answer to a claim of keys: {error}"));
    let answer: Answer = serde_json::from_slice(&answer.body).map_err(bad)?;
    let keys = answer.one_time_keys.into_iter();
    Ok(keys
        .filter_map(|(user, keys)| Some((user, serde_json::from_str(keys.get()).ok()?)))
        .collect())
}
