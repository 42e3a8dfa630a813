//! The peer actor: what must be done one after the other for a server.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::ServerName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::handle::Shared;
use super::stage::{self, Staging};
use super::view::PeerView;
use crate::error::Outcome;
use crate::supervisor::{Kind, Managed, Ran};

/// The kind of actor; the key is the server's name.
pub struct PeerKind;

/// A peer's state: what its tasks share.
pub struct Peer {
    view: Arc<PeerView>,
    shared: Arc<Shared>,
}

/// What a peer can be asked. Messages are data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerCommand {
    /// This server begins to have to do with it.
    Meet,
    /// An operator wants it to be tried at once.
    Reset,
    /// It sent a transaction.
    Stage(Box<Staging>),
    /// Staged events, by row, are given up.
    Discard(Vec<i64>),
}

/// The answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerReply {
    /// It is done.
    Done,
}

impl Managed for PeerKind {
    const KIND: Kind = Kind::Peer;
    type Env = Shared;
    type State = Peer;
    type Command = PeerCommand;
    type Reply = PeerReply;

    fn load(shared: Arc<Shared>, key: Arc<str>) -> BoxFuture<'static, Outcome<Option<Arc<Peer>>>> {
        Box::pin(async move {
            let Ok(server) = <&ServerName>::try_from(&*key) else {
                return Ok(None);
            };
            let view = shared.open(server).await?;
            Ok(Some(Arc::new(Peer { view, shared })))
        })
    }

    fn run(
        shared: Arc<Shared>,
        key: Arc<str>,
        state: Arc<Peer>,
        batch: Vec<PeerCommand>,
    ) -> BoxFuture<'static, Ran<Self>> {
        Box::pin(async move {
            let mut replies = Vec::with_capacity(batch.len());
            for command in batch {
                let done = match command {
                    PeerCommand::Meet => Ok(()),
                    PeerCommand::Reset => {
                        shared.reset(&state.view);
                        Ok(())
                    }
                    PeerCommand::Stage(staging) => stage::stage(&shared.env, &key, *staging).await,
                    PeerCommand::Discard(staged) => stage::discard(&shared.env, &staged).await,
                };
                replies.push(done.map(|()| PeerReply::Done));
            }
            Ran::Done { state, replies }
        })
    }

    fn pinned(_: &Arc<Shared>, _: &Arc<str>, state: &Peer) -> bool {
        state.view.is_wanted()
    }

    fn observe(state: &Peer) -> Value {
        serde_json::to_value(state.view.info(state.shared.now())).unwrap_or_default()
    }
}
