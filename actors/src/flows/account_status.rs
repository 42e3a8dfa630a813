//! Whether accounts exist, and are in use (MSC3720).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::Method;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use tokio::time::timeout;

use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::handle::Pace;
use crate::peer::transport::WireRequest;

/// Where other servers are asked: the path of the proposal, and the one of servers that were there before it changed.
const PATHS: [&str; 2] = [
    "/_matrix/federation/unstable/org.matrix.msc3720/account_status",
    "/_matrix/federation/unstable/org.matrix.msc3720/query/account_status",
];
/// How long all other servers together are waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// Users and servers asked about at the same time.
const AT_ONCE: usize = 16;

/// What is known of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether there is such an account.
    pub exists: bool,
    /// Whether it was deactivated; left out where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deactivated: Option<bool>,
}

/// The answer. Every user asked about stands on one side or the other.
#[derive(Debug, Default, Serialize)]
pub struct Statuses {
    /// What could be found out.
    pub account_statuses: BTreeMap<OwnedUserId, Status>,
    /// Of whom nothing could be found out.
    pub failures: BTreeSet<OwnedUserId>,
}

/// The accounts of users of this server.
pub async fn local(hub: &Hub, users: BTreeSet<OwnedUserId>) -> Statuses {
    let mut found = Statuses::default();
    let asks = users
        .into_iter()
        .map(|user| async move { (status(hub, &user).await, user) });
    let mut asks = stream::iter(asks).buffer_unordered(AT_ONCE);
    while let Some((status, user)) = asks.next().await {
        match status {
            Ok(status) => drop(found.account_statuses.insert(user, status)),
            Err(error) => {
                tracing::debug!(%user, %error, "an account could not be looked up");
                found.failures.insert(user);
            }
        }
    }
    found
}

async fn status(hub: &Hub, user: &UserId) -> Outcome<Status> {
    let view = hub.sessions().view(user).await?;
    Ok(Status {
        exists: view.is_some(),
        deactivated: view.map(|view| view.deactivated),
    })
}

/// Anybody's accounts: other servers are asked about theirs.
pub async fn anybodys(hub: &Arc<Hub>, users: BTreeSet<OwnedUserId>) -> Statuses {
    let (own, others): (BTreeSet<_>, BTreeSet<_>) = users.into_iter().partition(|user| hub.env().is_local(user));
    let mut by_server: BTreeMap<OwnedServerName, BTreeSet<OwnedUserId>> = BTreeMap::new();
    for user in others {
        by_server.entry(user.server_name().to_owned()).or_default().insert(user);
    }
    let asks = by_server.into_iter().map(|(server, users)| async move {
        let late = |_| Err(DomainError::unavailable(format!("{server} did not answer in time")));
        let told = timeout(PATIENCE, ask(hub, &server, &users)).await.unwrap_or_else(late);
        if let Err(error) = &told {
            tracing::debug!(%server, %error, "a server does not tell of its accounts");
        }
        (users, told.unwrap_or_default())
    });
    let remote = stream::iter(asks).buffer_unordered(AT_ONCE).collect::<Vec<_>>();
    let (mut found, remote) = tokio::join!(local(hub, own), remote);
    for (users, mut told) in remote {
        // What a server says of others' users does not count.
        for user in users {
            match told.remove(&user) {
                Some(status) => drop(found.account_statuses.insert(user, status)),
                None => drop(found.failures.insert(user)),
            }
        }
    }
    found
}

async fn ask(hub: &Hub, server: &ServerName, users: &BTreeSet<OwnedUserId>) -> Outcome<BTreeMap<OwnedUserId, Status>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        account_statuses: BTreeMap<OwnedUserId, Status>,
    }
    let body = to_raw_value(&json!({ "user_ids": users }))
        .map_err(|error| DomainError::internal(format!("a list of users: {error}")))?;
    let mut refused = DomainError::not_found("the server was not asked");
    for path in PATHS {
        let request = WireRequest::with_body(Method::POST, path, body.clone(), federation::Limits::QUERY);
        match hub.peers().send(server, request, Pace::Patient).await {
            Ok(answer) => {
                let bad = |error| DomainError::matrix(502, "M_UNKNOWN", format!("an answer about accounts: {error}"));
                return Ok(serde_json::from_slice::<Answer>(&answer.body)
                    .map_err(bad)?
                    .account_statuses);
            }
            Err(error @ DomainError::Matrix { status: 404 | 405, .. }) => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}
