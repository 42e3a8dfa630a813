//! Getting keys: from the servers themselves, each asked once at a time, and from notaries.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::clock::Millis;
use base::cpu::Class;
use entities::{server_key, server_key_document};
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::stream::iter;
use http::Method;
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::document::{self, Document, MAX_DOCUMENT};
use super::{Ring, ServerKeys, Wanted};
use crate::client::{Limits, WireRequest};
use crate::error::WireError;

/// For one server's document. A server that is slower is asked again later.
const DOCUMENT: Limits = Limits {
    timeout: Duration::from_secs(15),
    max_bytes: MAX_DOCUMENT,
};
/// For a notary's answer.
const ANSWER: Limits = Limits {
    timeout: Duration::from_secs(15),
    max_bytes: 8 * 1024 * 1024,
};
/// Servers that one request to a notary asks for.
const ASKED_AT_ONCE: usize = 100;
/// Servers that one search has asked for at once: no search takes all the places.
const ABREAST: usize = 32;
/// A server is not asked again so soon after it has answered, whatever keys are said to be its.
const MIN_INTERVAL: Millis = 10 * 1_000;
/// Servers that are being asked or wait for that.
const MAX_RUNNING: usize = 10_000;

/// For whom a server is asked. They do not share places, so that nobody can keep this server from its own work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// To check events.
    Events,
    /// To check a request that is waiting: a server that sends one is up, whatever happened before.
    Request,
    /// For somebody who asks this server as a notary.
    Notary,
}

type Fetch = Shared<BoxFuture<'static, ()>>;

/// Fetches under way.
#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<(OwnedServerName, Lane), Fetch>>);

impl Running {
    fn entries(&self) -> MutexGuard<'_, HashMap<(OwnedServerName, Lane), Fetch>> {
        // Each change is one call, so a panic elsewhere cannot have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a fetch off the list, also when it panics.
struct Finished {
    ring: Arc<Ring>,
    entry: (OwnedServerName, Lane),
}

impl Drop for Finished {
    fn drop(&mut self) {
        self.ring.running.entries().remove(&self.entry);
    }
}

#[derive(Deserialize)]
struct NotaryAnswer {
    server_keys: Vec<Box<RawValue>>,
}

impl Ring {
    /// Asks the servers for their documents, unless they were asked just now or are not to be asked.
    pub async fn refresh(self: &Arc<Self>, servers: impl IntoIterator<Item = OwnedServerName>, lane: Lane) {
        let ask = async |server| {
            if let Some(fetch) = self.start(server, lane) {
                fetch.await;
            }
        };
        iter(servers).for_each_concurrent(ABREAST, ask).await;
    }

    /// Whether a server has failed and is not to be asked yet.
    pub fn is_down(&self, server: &OwnedServerName, lane: Lane) -> bool {
        let now = self.tools.clock.now_ms();
        match lane {
            Lane::Request => self.down.has_just_failed(server, now),
            Lane::Events | Lane::Notary => self.down.is_waiting(server, now),
        }
    }

    /// The fetch of a server's document: the one under way, or a new one, which goes on when nobody waits for it any more.
    fn start(self: &Arc<Self>, server: OwnedServerName, lane: Lane) -> Option<Fetch> {
        let now = self.tools.clock.now_ms();
        let fetched = self.known.get(&server).map_or(0, |keys| keys.fetched);
        if server == self.own.server || self.is_down(&server, lane) || now < fetched + MIN_INTERVAL {
            return None;
        }
        let mut running = self.running.entries();
        let entry = (server, lane);
        if let Some(fetch) = running.get(&entry) {
            return Some(fetch.clone());
        }
        if running.len() >= MAX_RUNNING {
            return None;
        }
        let finished = Finished {
            ring: self.clone(),
            entry: entry.clone(),
        };
        let task = self.io.spawn(async move {
            let Finished { ring, entry } = &finished;
            // The semaphores are never closed.
            let _permit = ring.lanes[entry.1 as usize].acquire().await;
            ring.fetch(&entry.0).await;
        });
        let fetch = task.map(|_| ()).boxed().shared();
        running.insert(entry, fetch.clone());
        Some(fetch)
    }

    async fn fetch(&self, server: &ServerName) {
        let outcome = self.ask(server).await;
        let now = self.tools.clock.now_ms();
        match outcome {
            Ok(document) => {
                self.down.succeeded(&server.to_owned());
                self.learn(document, true).await;
            }
            Err(error) => {
                tracing::debug!(%server, %error, "keys not fetched");
                self.down.failed(server.to_owned(), now);
            }
        }
    }

    async fn ask(&self, server: &ServerName) -> Result<Document, WireError> {
        let request = WireRequest {
            signed: false,
            ..WireRequest::get("/_matrix/key/v2/server", DOCUMENT)
        };
        let answer = self.wire.send(server, request).await?;
        let invalid = |error: &dyn std::fmt::Display| WireError::Invalid(format!("key document: {error}"));
        let json: CanonicalJsonObject = serde_json::from_slice(&answer.body).map_err(|error| invalid(&error))?;
        let document = self.read(json).await?;
        if document.server != server {
            return Err(invalid(&format_args!("it is that of {}", document.server)));
        }
        Ok(document)
    }

    async fn read(&self, json: CanonicalJsonObject) -> Result<Document, WireError> {
        let now = self.tools.clock.now_ms();
        let read = self
            .tools
            .cpu
            .run(Class::Verify, move || document::read(json, now))
            .await;
        let read = read.map_err(|error| WireError::Unreachable(error.to_string()))?;
        read.map_err(|error| WireError::Invalid(format!("key document: {error}")))
    }

    /// Asks the notaries, one after the other, for the keys that are still lacking.
    pub async fn ask_notaries(self: &Arc<Self>, mut lacking: Vec<Wanted>) {
        for notary in &self.notaries {
            lacking.retain(|wanted| wanted.server != *notary);
            if lacking.is_empty() {
                return;
            }
            if self.is_down(notary, Lane::Events) || !self.has_key_of(notary).await {
                continue;
            }
            let mut queries: BTreeMap<&ServerName, BTreeMap<&str, Millis>> = BTreeMap::new();
            for wanted in &lacking {
                let keys = queries.entry(&wanted.server).or_default();
                let at = keys.entry(&wanted.key_id).or_default();
                *at = wanted.at.unwrap_or(0).max(*at);
            }
            let queries: Vec<_> = queries.into_iter().collect();
            for some in queries.chunks(ASKED_AT_ONCE) {
                if let Err(error) = self.ask_notary(notary, some).await {
                    tracing::debug!(%notary, %error, "notary without an answer");
                    self.down.failed(notary.clone(), self.tools.clock.now_ms());
                    break;
                }
            }
            match self.lacking(&lacking).await {
                Ok(still) => lacking = still,
                Err(_) => return,
            }
        }
    }

    /// Whether a notary's signature can be checked.
    async fn has_key_of(self: &Arc<Self>, notary: &OwnedServerName) -> bool {
        let now = Some(self.tools.clock.now_ms());
        let valid = |keys: &ServerKeys| keys.keys.values().any(|key| !key.expired && key.is_valid_at(now));
        for again in [true, false] {
            let known = self.stored([notary.clone()].into()).await.unwrap_or_default();
            if known.get(notary).is_some_and(|keys| valid(keys)) {
                return true;
            }
            if again {
                self.refresh([notary.clone()], Lane::Events).await;
            }
        }
        false
    }

    /// Server-server API, "Query for several server's keys".
    async fn ask_notary(
        &self,
        notary: &OwnedServerName,
        queries: &[(&ServerName, BTreeMap<&str, Millis>)],
    ) -> Result<(), WireError> {
        let criteria = |keys: &BTreeMap<&str, Millis>| -> serde_json::Map<String, serde_json::Value> {
            let one = |(id, at): (&&str, &Millis)| ((*id).to_owned(), json!({ "minimum_valid_until_ts": at }));
            keys.iter().map(one).collect()
        };
        let wanted: serde_json::Map<_, _> = queries
            .iter()
            .map(|(server, keys)| (server.to_string(), criteria(keys).into()))
            .collect();
        let invalid = |error: &dyn std::fmt::Display| WireError::Invalid(format!("notary: {error}"));
        let body = to_raw_value(&json!({ "server_keys": wanted })).map_err(|error| invalid(&error))?;
        let request = WireRequest {
            signed: false,
            ..WireRequest::with_body(Method::POST, "/_matrix/key/v2/query", body, ANSWER)
        };
        let answer = self.wire.send(notary, request).await?;
        let answer: NotaryAnswer = serde_json::from_slice(&answer.body).map_err(|error| invalid(&error))?;
        let asked: BTreeSet<&ServerName> = queries.iter().map(|(server, _)| *server).collect();
        // A server may have several documents, with different keys.
        for json in answer.server_keys.iter().take(4 * ASKED_AT_ONCE) {
            match self.notarized(json, notary, &asked).await {
                Ok(document) => self.learn(document, false).await,
                Err(error) => tracing::debug!(%notary, %error, "a notary's document is of no use"),
            }
        }
        Ok(())
    }

    /// A document that its server and the notary have signed.
    async fn notarized(
        &self,
        json: &RawValue,
        notary: &OwnedServerName,
        asked: &BTreeSet<&ServerName>,
    ) -> Result<Document, WireError> {
        let invalid = |error: &dyn std::fmt::Display| WireError::Invalid(error.to_string());
        if json.get().len() > MAX_DOCUMENT {
            return Err(invalid(&"too large"));
        }
        let json: CanonicalJsonObject = serde_json::from_str(json.get()).map_err(|error| invalid(&error))?;
        let document = self.read(json).await?;
        if !asked.contains(&*document.server) {
            return Err(invalid(&format_args!("nobody asked for {}", document.server)));
        }
        let now = Some(self.tools.clock.now_ms());
        let keys = self.known.get(notary);
        let signed = document::signing_keys(&document.json, notary).any(|id| {
            let key = keys.as_ref().and_then(|keys| keys.keys.get(id));
            key.is_some_and(|key| {
                !key.expired && key.is_valid_at(now) && document::is_signed(&document.json, notary, id, &key.public_key)
            })
        });
        if signed {
            Ok(document)
        } else {
            Err(invalid(&"the notary's signature is missing or wrong"))
        }
    }

    /// Takes a document over, in memory and in the database.
    async fn learn(&self, document: Document, by_itself: bool) {
        // One at a time: what is known is read, changed and written.
        let _learning = self.learning.lock().await;
        let server = &document.server;
        let Ok(mut known) = self.stored([server.clone()].into()).await else {
            // Nothing is learned without the database, or older keys would be forgotten.
            return;
        };
        let now = self.tools.clock.now_ms();
        let mut known = known
            .remove(server)
            .map_or_else(ServerKeys::default, |keys| (*keys).clone());
        let mut rows = Vec::new();
        for (id, told) in &document.keys {
            let key = known
                .keys
                .get(id)
                .map_or_else(|| told.clone(), |key| key.or_newer(told, by_itself));
            if known.keys.get(id) != Some(&key) {
                rows.push(server_key::Model {
                    server_name: server.to_string(),
                    key_id: id.clone(),
                    public_key: key.public_key.to_vec(),
                    valid_until_ts: key.until,
                    expired: key.expired,
                    fetched_ts: now,
                });
                known.keys.insert(id.clone(), key);
            }
        }
        if by_itself {
            known.fetched = now;
        }
        self.known.publish(server.clone(), Arc::new(known));
        let Ok(json) = serde_json::to_string(&document.json) else {
            return;
        };
        let kept = server_key_document::Model {
            server_name: server.to_string(),
            json,
            valid_until_ts: document.valid_until,
            fetched_ts: now,
        };
        let newest = by_itself || self.is_newest(&document).await;
        let kept = newest.then_some(&kept);
        if let Err(error) = self.store.save_server_keys(server.as_str(), kept, &rows).await {
            tracing::warn!(%server, %error, "keys not saved");
        }
    }

    /// Whether no document is stored that is good for longer.
    async fn is_newest(&self, document: &Document) -> bool {
        let stored = self.store.server_key_documents(&[document.server.to_string()]).await;
        let newer = |row: &server_key_document::Model| row.valid_until_ts >= document.valid_until;
        stored.is_ok_and(|rows| !rows.iter().any(newer))
    }
}
