//! What a server sent, made durable before it is answered.

use entities::{inbound_pdu, inbound_txn};
use ruma::ServerName;
use serde::{Deserialize, Serialize};

use super::handle::Peers;
use super::kind::PeerCommand;
use crate::env::Env;
use crate::error::Outcome;

/// A transaction that was checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Staging {
    /// The server's name for it.
    pub txn_id: String,
    /// The body of the answer that it gets, now and whenever it comes again.
    pub answer: String,
    /// Its events that can be taken.
    pub pdus: Vec<Staged>,
}

/// An event whose format, signatures and hashes were checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Staged {
    /// Its room.
    pub room_id: String,
    /// Its id.
    pub event_id: String,
    /// The PDU as text.
    pub json: String,
}

impl Peers {
    /// Stages the events of a transaction of `origin` and notes it as answered; durable when this returns. Events that are
    /// staged already stay as they are.
    ///
    /// # Errors
    /// `Overloaded`; `Unavailable` when it is not known whether it was written.
    pub async fn stage(&self, origin: &ServerName, staging: Staging) -> Outcome<()> {
        let command = PeerCommand::Stage(Box::new(staging));
        self.actors().ask(origin.as_str(), command).await.map(|_| ())
    }

    /// Gives up staged events of `origin`, by row.
    ///
    /// # Errors
    /// As [`Self::stage`].
    pub async fn discard(&self, origin: &ServerName, staged: Vec<i64>) -> Outcome<()> {
        let command = PeerCommand::Discard(staged);
        self.actors().ask(origin.as_str(), command).await.map(|_| ())
    }
}

pub(super) async fn stage(env: &Env, origin: &str, staging: Staging) -> Outcome<()> {
    let now = env.clock.now_ms();
    let txn = inbound_txn::Model {
        origin: origin.to_owned(),
        txn_id: staging.txn_id,
        response: staging.answer,
        received_ts: now,
    };
    let first = env.ids.take(staging.pdus.len()).await?;
    let row = |(nid, staged): (i64, Staged)| inbound_pdu::Model {
        nid,
        origin: origin.to_owned(),
        room_id: staged.room_id,
        event_id: staged.event_id,
        json: staged.json,
        received_ts: now,
    };
    let rows: Vec<_> = (first..).zip(staging.pdus).map(row).collect();
    Ok(env.store.stage(&txn, &rows).await?)
}

pub(super) async fn discard(env: &Env, staged: &[i64]) -> Outcome<()> {
    env.store.discard_staged(staged).await?;
    Ok(())
}
