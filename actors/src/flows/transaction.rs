//! A transaction of another server (server-server API, "Transactions"): each is worked on once, what it brings is durable before
//! it is answered, and what is wrong with one of its parts is that part's alone.
//!
//! Events are only checked and staged here; [`super::ingest`] finds them their place.

mod edus;
mod gate;
mod pdus;

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::{OwnedEventId, OwnedServerName};
use serde_json::json;
use serde_json::value::RawValue;

pub use self::gate::{Answer, Gate};
use super::ingest;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::stage::{Staged, Staging};
use crate::room::event::Pdu;

/// Events of one transaction.
pub const MAX_PDUS: usize = 50;
/// Ephemeral messages of one transaction.
pub const MAX_EDUS: usize = 100;
/// Bytes of a transaction's id.
const MAX_ID: usize = 255;
/// Staged events of one server. Whoever has more is told to wait.
const MAX_STAGED: u32 = 5_000;
/// For how long.
const STAGED_RETRY_MS: u64 = 10_000;

/// What a server sent.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Who signed the request.
    pub origin: OwnedServerName,
    /// Its name for the transaction.
    pub txn_id: String,
    /// Who the body says it is from.
    pub claimed_origin: OwnedServerName,
    /// Events.
    pub pdus: Vec<Box<RawValue>>,
    /// Ephemeral messages.
    pub edus: Vec<Box<RawValue>>,
}

/// Takes a transaction. The answer is the response's body.
///
/// # Errors
/// `M_INVALID_PARAM` for one that is too large, `M_FORBIDDEN` for one of another server; `Overloaded` when the server has too
/// many under way or its events are not worked off, `Unavailable` when nothing was stored: the server has to send it again.
pub async fn receive(hub: &Arc<Hub>, txn: Transaction) -> Outcome<Answer> {
    check(&txn)?;
    let (first, waiter) = hub.env().gate.enter(&txn.origin, &txn.txn_id)?;
    if let Some(first) = first {
        let hub = hub.clone();
        // Goes on when nobody waits for it any more: the next copy finds it done.
        hub.env().io.clone().spawn(async move {
            let turn = first.turn().await;
            let answer = work(&hub, txn).await;
            drop(turn);
            first.finish(answer);
        });
    }
    waiter.answer().await
}

fn check(txn: &Transaction) -> Outcome<()> {
    if txn.claimed_origin != txn.origin {
        return Err(DomainError::forbidden(format!(
            "the transaction of {} was signed by {}",
            txn.claimed_origin, txn.origin
        )));
    }
    if txn.pdus.len() > MAX_PDUS || txn.edus.len() > MAX_EDUS {
        return Err(DomainError::invalid_param(format!(
            "a transaction has at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs"
        )));
    }
    if txn.txn_id.len() > MAX_ID || txn.txn_id.contains('\0') {
        return Err(DomainError::invalid_param(format!(
            "a transaction id has at most {MAX_ID} bytes, and no U+0000"
        )));
    }
    Ok(())
}

async fn work(hub: &Arc<Hub>, txn: Transaction) -> Outcome<Answer> {
    let env = hub.env();
    let (origin, id) = (&txn.origin, txn.txn_id.as_str());
    if let Some(answer) = env.gate.answered(origin, id) {
        return Ok(answer);
    }
    let answer = if txn.pdus.is_empty() {
        // Nothing to remember for longer than in memory: the same messages once more change nothing.
        edus::apply(hub, origin, &txn.edus).await?.apply(hub).await;
        answer_of(&BTreeMap::new())
    } else {
        with_pdus(hub, txn.origin.clone(), id, txn.pdus, &txn.edus).await?
    };
    env.gate.remember(origin, id, answer.clone());
    Ok(answer)
}

async fn with_pdus(
    hub: &Arc<Hub>,
    origin: OwnedServerName,
    id: &str,
    pdus: Vec<Box<RawValue>>,
    edus: &[Box<RawValue>],
) -> Outcome<Answer> {
    let env = hub.env();
    let (answered, staged) = env.store.inbound_standing(origin.as_str(), id, MAX_STAGED).await?;
    if let Some(answer) = answered {
        return Ok(answer.into());
    }
    if staged >= u64::from(MAX_STAGED) {
        return Err(DomainError::Overloaded {
            retry_after_ms: STAGED_RETRY_MS,
        });
    }
    let sorted = pdus::sort(hub, &origin, pdus).await?;
    // Before the answer is stored: a copy after a crash does them again.
    let gathered = edus::apply(hub, &origin, edus).await?;
    let answer = answer_of(&sorted.results);
    let staging = Staging {
        txn_id: id.to_owned(),
        answer: answer.to_string(),
        pdus: sorted.good.iter().map(row_of).collect(),
    };
    hub.peers().stage(&origin, staging).await?;
    let mut rooms: Vec<_> = sorted.good.iter().map(|pdu| &pdu.room_id).collect();
    rooms.dedup();
    for room in rooms {
        ingest::wake(hub, room);
    }
    gathered.apply(hub).await;
    Ok(answer)
}

fn answer_of(results: &BTreeMap<OwnedEventId, Result<(), String>>) -> Answer {
    let one = |result: &Result<(), String>| match result {
        Ok(()) => json!({}),
        Err(error) => json!({ "error": error }),
    };
    let pdus: BTreeMap<_, _> = results.iter().map(|(id, result)| (id, one(result))).collect();
    json!({ "pdus": pdus }).to_string().into()
}

fn row_of(pdu: &Pdu) -> Staged {
    Staged {
        room_id: pdu.room_id.to_string(),
        event_id: pdu.event_id.to_string(),
        json: pdu.json.to_string(),
    }
}

#[cfg(test)]
mod tests;
