//! What lies between an event and what this server has of its room: fetched from those who have it, within limits.
//!
//! First the events in between; where they reach too far back, the state before the oldest of them as another server tells
//! it; then whatever their auth chains lack.

mod chain;
mod line;
mod past;
mod state;

pub use past::past;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::order;
use super::verify::verified;
use super::{Effort, ask};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commands::{Incoming, Ingest};
use crate::room::event::Pdu;
use crate::room::snapshot::RoomSnapshot;

/// Events that one gap may fetch one by one.
const MAX_SINGLE: usize = 500;
/// Requests for single events at the same time.
const SINGLE_AT_ONCE: usize = 8;
/// Events in between whose state may be asked for. Where more of them lead into the unknown, the event itself is asked about.
const MAX_ROOTS: usize = 3;

/// A gap while it is being filled.
struct Gap<'a> {
    hub: &'a Hub,
    room: Arc<RoomSnapshot>,
    /// Whom to ask, in order.
    servers: Vec<OwnedServerName>,
    effort: Effort,
    /// What this server has: whether events that were looked up are stored, and whether they have a state of their own.
    known: HashMap<OwnedEventId, Known>,
    /// Fetched and checked events that are not part of the timeline.
    outliers: BTreeMap<OwnedEventId, Pdu>,
    /// Events that somebody gave and that are not good.
    bad: HashSet<OwnedEventId>,
    /// How many events may still be fetched one by one.
    left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Not stored.
    Not,
    /// Stored as part of somebody's state or auth chain.
    Outlier,
    /// It has a state of its own.
    Placed,
}

/// Fetches what has to come before an event; it comes last among the PDUs of the answer, or alone.
///
/// # Errors
/// What the last server answered that was asked in vain; `Unavailable` when the database does not answer.
pub async fn fill(
    hub: &Hub,
    room: Arc<RoomSnapshot>,
    origin: &ServerName,
    event: &Pdu,
    effort: Effort,
) -> Outcome<Ingest> {
    let mut gap = Gap {
        servers: whom_to_ask(&room, origin, event, &hub.env().server_name, effort),
        hub,
        room,
        effort,
        known: HashMap::new(),
        outliers: BTreeMap::new(),
        bad: HashSet::new(),
        left: MAX_SINGLE,
    };
    let line = gap.line(event).await?;
    let (line, states) = match gap.states(&line).await {
        Ok(states) => (line, states),
        // Nearer to the event, its own server knows it.
        Err(_) if line.len() > 1 => {
            let line = vec![event.clone()];
            let states = gap.states(&line).await?;
            (line, states)
        }
        Err(error) => return Err(error),
    };
    gap.chains(&line).await?;
    let outliers = gap.sound_outliers(&line);
    // What is not good, or hangs on what is not good, is no part of a state.
    let sound = |state: &Vec<OwnedEventId>| -> Arc<[OwnedEventId]> {
        state.iter().filter(|id| gap.is_there(id)).cloned().collect()
    };
    let incoming = |pdu: &Pdu| Incoming {
        state_before: states.get(&pdu.event_id).map(sound),
        ..Incoming::of(pdu)
    };
    Ok(Ingest {
        pdus: line.iter().map(incoming).collect(),
        outliers: outliers.iter().map(Incoming::of).collect(),
    })
}

/// Who sent the event, its author's server, then others in the room.
fn whom_to_ask(
    room: &RoomSnapshot,
    origin: &ServerName,
    event: &Pdu,
    us: &ServerName,
    effort: Effort,
) -> Vec<OwnedServerName> {
    let mut servers: Vec<OwnedServerName> = Vec::with_capacity(effort.servers);
    let others = room.joined_servers.iter().map(|server| &**server);
    for server in [origin, event.sender.server_name()].into_iter().chain(others) {
        if servers.len() == effort.servers {
            break;
        }
        if server != us && !servers.iter().any(|other| other == server) {
            servers.push(server.to_owned());
        }
    }
    servers
}

impl Gap<'_> {
    /// Looks up what this server has of these events.
    async fn look_up<'i>(&mut self, ids: impl IntoIterator<Item = &'i OwnedEventId>) -> Outcome<()> {
        let unknown = |id: &&OwnedEventId| !self.known.contains_key(*id);
        let wanted: Vec<OwnedEventId> = ids.into_iter().filter(unknown).cloned().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let stored = self.hub.env().store.standing_of(self.room.nid.0, &wanted).await?;
        self.known.extend(wanted.into_iter().map(|id| (id, Known::Not)));
        for (id, placed) in stored {
            if let Ok(id) = OwnedEventId::try_from(id) {
                self.known
                    .insert(id, if placed { Known::Placed } else { Known::Outlier });
            }
        }
        Ok(())
    }

    fn is_placed(&self, id: &OwnedEventId) -> bool {
        self.known.get(id) == Some(&Known::Placed)
    }

    /// Whether the event is stored, or in hand.
    fn is_there(&self, id: &OwnedEventId) -> bool {
        self.outliers.contains_key(id) || !matches!(self.known.get(id), None | Some(Known::Not))
    }

    /// Checks what a server sent; events of other rooms are dropped.
    async fn check(&self, server: &ServerName, raw: ask::Raw) -> Outcome<Vec<Pdu>> {
        let mut pdus = verified(self.hub.env(), &self.room.rules, raw, server).await?;
        pdus.retain(|pdu| pdu.room_id == self.room.room_id);
        Ok(pdus)
    }

    /// A server that was asked in vain.
    fn note(&self, server: &ServerName, error: &DomainError) {
        tracing::debug!(room_id = %self.room.room_id, %server, %error, "a server could not help");
    }

    /// The outliers that have all of their auth events, these first; the others are forgotten.
    fn sound_outliers(&mut self, line: &[Pdu]) -> Vec<Pdu> {
        let within: HashSet<&OwnedEventId> = line.iter().map(|pdu| &pdu.event_id).collect();
        let outliers = std::mem::take(&mut self.outliers).into_values().collect();
        let mut sound = Vec::new();
        for pdu in order::auth_first(outliers, |pdu: &Pdu| pdu) {
            if pdu
                .auth_events
                .iter()
                .all(|id| self.is_there(id) || within.contains(id))
            {
                self.outliers.insert(pdu.event_id.clone(), pdu.clone());
                sound.push(pdu);
            }
        }
        sound
    }

    /// Fetches events one by one and keeps them as outliers. Answers those that nobody has; the ones that are not good are
    /// noted as such.
    ///
    /// # Errors
    /// `M_TOO_LARGE` when there are too many; what the last server answered when it could not be asked.
    async fn fetch(&mut self, mut wanted: Vec<OwnedEventId>) -> Outcome<Vec<OwnedEventId>> {
        if wanted.len() > self.left {
            return Err(DomainError::too_large(format!(
                "{} events more are missing",
                wanted.len()
            )));
        }
        self.left -= wanted.len();
        let mut failed = None;
        let mut given = HashSet::new();
        for server in self.servers.clone() {
            if wanted.is_empty() {
                return Ok(wanted);
            }
            let mut raw = Vec::new();
            for (id, answer) in self.ask_for(&server, &wanted).await {
                match answer {
                    Ok(pdu) => {
                        raw.push(pdu);
                        given.insert(id);
                    }
                    // A refusal is an answer: the server does not have it.
                    Err(DomainError::Matrix { .. }) => {}
                    Err(error) => failed = Some(error),
                }
            }
            let good = self.check(&server, raw).await?;
            let good = good.into_iter().filter(|pdu| wanted.contains(&pdu.event_id));
            self.outliers.extend(good.map(|pdu| (pdu.event_id.clone(), pdu)));
            wanted.retain(|id| !self.outliers.contains_key(id));
        }
        let (bad, nobodys): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|id| given.contains(id));
        self.bad.extend(bad);
        match failed {
            Some(error) if !nobodys.is_empty() => Err(error),
            _ => Ok(nobodys),
        }
    }

    async fn ask_for(
        &self,
        server: &ServerName,
        wanted: &[OwnedEventId],
    ) -> Vec<(OwnedEventId, Outcome<Box<RawValue>>)> {
        let hub = self.hub;
        let ask = |id: OwnedEventId| async move {
            let answer = ask::event(hub, server, &id).await;
            (id, answer)
        };
        let asked = stream::iter(wanted.to_vec()).map(ask).buffered(SINGLE_AT_ONCE);
        asked.collect().await
    }
}
