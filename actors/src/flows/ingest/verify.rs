//! The checks of a PDU that need no room: format, signatures, content hash. In bulk, with the keys of all signers fetched
//! together, and away from the io runtime.
//!
//! Spec: server-server API, "Checks performed on receipt of a PDU" (steps 1 to 3), "Validating hashes and signatures on received
//! events".

use std::sync::Arc;
use std::time::Duration;

use federation::{Keys, Wanted};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ruma::canonical_json::CanonicalJsonValue;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use serde_json::value::RawValue;

use crate::clock::Millis;
use crate::cpu::Class;
use crate::env::Env;
use crate::error::Outcome;
use crate::hub::Hub;
use crate::room::commands::Incoming;
use crate::room::event::Pdu;
use crate::room::parse;

/// PDUs of one job.
const CHUNK: usize = 64;
/// Jobs of one call that wait or run.
const JOBS: usize = 8;
/// How long keys are waited for. Events whose keys come later are dropped; who sent them may send them again.
const PATIENCE: Duration = Duration::from_secs(20);

/// A PDU that cannot be used.
#[derive(Clone, Debug)]
pub struct Flaw {
    /// Its id, where that can be told.
    pub event_id: Option<OwnedEventId>,
    /// What is wrong.
    pub reason: String,
}

/// A well-formed PDU whose signatures have not been looked at.
#[derive(Clone, Debug)]
pub struct Named {
    json: Box<RawValue>,
    /// Its id.
    pub event_id: OwnedEventId,
    /// The servers that must have signed it.
    signers: Vec<OwnedServerName>,
    /// The keys they did it with.
    wanted: Vec<Wanted>,
    /// When the keys must have been valid, if that matters.
    at: Option<Millis>,
}

/// Checks PDUs of a room version and drops those that are not good. The order stays.
///
/// `origin` is the server they came from; it is for the log.
///
/// # Errors
/// `Overloaded` and `Unavailable` when nothing could be checked.
pub async fn verify(
    hub: &Hub,
    rules: &Arc<RoomVersionRules>,
    pdus: Vec<Box<RawValue>>,
    origin: &ServerName,
) -> Outcome<Vec<Incoming>> {
    let pdus = verified(hub.env(), rules, pdus, origin).await?;
    Ok(pdus.iter().map(Incoming::of).collect())
}

/// [`verify`], with the events as they were read.
///
/// # Errors
/// As [`verify`].
pub async fn verified(
    env: &Arc<Env>,
    rules: &Arc<RoomVersionRules>,
    pdus: Vec<Box<RawValue>>,
    origin: &ServerName,
) -> Outcome<Vec<Pdu>> {
    let mut good = Vec::with_capacity(pdus.len());
    let mut named = Vec::with_capacity(pdus.len());
    let drop_it = |flaw: Flaw| {
        let event_id = flaw.event_id.as_deref().map_or("?", |id| id.as_str());
        tracing::debug!(%origin, event_id, reason = flaw.reason, "an event was dropped");
    };
    for one in name(env, rules, pdus).await? {
        match one {
            Ok(one) => named.push(one),
            Err(flaw) => drop_it(flaw),
        }
    }
    for one in prove(env, rules, named).await? {
        match one {
            Ok(pdu) => good.push(pdu),
            Err(flaw) => drop_it(flaw),
        }
    }
    Ok(good)
}

/// Format and ids, in the order of the PDUs.
///
/// # Errors
/// `Overloaded` when too much waits to be checked.
pub async fn name(
    env: &Env,
    rules: &Arc<RoomVersionRules>,
    pdus: Vec<Box<RawValue>>,
) -> Outcome<Vec<Result<Named, Flaw>>> {
    let rules = rules.clone();
    in_chunks(env, pdus, move |pdu| name_one(pdu, &rules)).await
}

/// Signatures and content hashes, in the order of the PDUs.
///
/// # Errors
/// `Overloaded` when too much waits to be checked; `Unavailable` when the database does not answer.
pub async fn prove(env: &Env, rules: &Arc<RoomVersionRules>, named: Vec<Named>) -> Outcome<Vec<Result<Pdu, Flaw>>> {
    let mut wanted: Vec<Wanted> = named.iter().flat_map(|one| one.wanted.iter().cloned()).collect();
    wanted.sort_unstable_by(|a, b| (&a.server, &a.key_id, a.at).cmp(&(&b.server, &b.key_id, b.at)));
    wanted.dedup();
    let keys = Arc::new(env.keyring.keys_within(&wanted, PATIENCE).await?);
    let rules = rules.clone();
    in_chunks(env, named, move |one| prove_one(one, &rules, &keys)).await
}

async fn in_chunks<T, U>(env: &Env, items: Vec<T>, job: impl Fn(T) -> U + Clone + Send + 'static) -> Outcome<Vec<U>>
where
    T: Send + 'static,
    U: Send + 'static,
{
    let mut chunks = Vec::with_capacity(items.len().div_ceil(CHUNK));
    let mut rest = items.into_iter().peekable();
    while rest.peek().is_some() {
        chunks.push(rest.by_ref().take(CHUNK).collect::<Vec<T>>());
    }
    let run = |chunk: Vec<T>| {
        let job = job.clone();
        env.cpu
            .run(Class::Verify, move || chunk.into_iter().map(job).collect::<Vec<U>>())
    };
    let done: Vec<Vec<U>> = stream::iter(chunks).map(run).buffered(JOBS).try_collect().await?;
    Ok(done.into_iter().flatten().collect())
}

fn name_one(json: Box<RawValue>, rules: &RoomVersionRules) -> Result<Named, Flaw> {
    let nameless = |reason: String| Flaw { event_id: None, reason };
    let mut object = parse::canonical(json.get()).map_err(|error| nameless(error.to_string()))?;
    object.remove("unsigned");
    let event_id = parse::event_id_of(&object, rules).map_err(|error| nameless(error.to_string()))?;
    let flaw = |reason: String| Flaw {
        event_id: Some(event_id.clone()),
        reason,
    };
    parse::check_format(&object, rules).map_err(|error| flaw(error.to_string()))?;
    let signers = parse::required_servers(&object, rules).map_err(|error| flaw(error.to_string()))?;
    let signers: Vec<OwnedServerName> = signers.into_iter().collect();
    let at = match object.get("origin_server_ts") {
        Some(CanonicalJsonValue::Integer(ts)) => rules.enforce_key_validity.then_some(i64::from(*ts)),
        _ => return Err(flaw("`origin_server_ts` is not an integer".to_owned())),
    };
    let wanted = Wanted::of_signatures(&object, signers.iter().map(|server| &**server), at);
    if let Some(server) = signers
        .iter()
        .find(|server| wanted.iter().all(|wanted| wanted.server != **server))
    {
        return Err(flaw(format!("{server} has not signed it")));
    }
    Ok(Named {
        json,
        event_id,
        signers,
        wanted,
        at,
    })
}

fn prove_one(named: Named, rules: &RoomVersionRules, keys: &Keys) -> Result<Pdu, Flaw> {
    let keys = keys.of(named.signers.iter().map(|server| &**server), named.at);
    match parse::check_incoming(named.json.get(), rules, &keys) {
        Ok(checked) => Ok(checked.pdu),
        Err(error) => Err(Flaw {
            event_id: Some(named.event_id),
            reason: error.to_string(),
        }),
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
