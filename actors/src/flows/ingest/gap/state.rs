//! The state before an event whose parents are not known, as another server tells it.

use std::collections::{HashMap, HashSet};

use ruma::{OwnedEventId, ServerName};

use super::{Gap, ask};
use crate::error::{DomainError, Outcome};
use crate::room::event::Pdu;

/// Events of a state and its auth chains.
const MAX_STATE: usize = 100_000;
/// Where more of them are missing, the state is fetched whole.
const MANY: usize = 100;

/// By event, the ids of the state before it.
pub(super) type States = HashMap<OwnedEventId, Vec<OwnedEventId>>;

impl Gap<'_> {
    /// The states that the line needs: those before the events whose parents are neither known nor in the line.
    ///
    /// # Errors
    /// What the last server answered that was asked in vain.
    pub(super) async fn states(&mut self, line: &[Pdu]) -> Outcome<States> {
        let within: HashSet<&OwnedEventId> = line.iter().map(|pdu| &pdu.event_id).collect();
        self.look_up(line.iter().flat_map(|pdu| &pdu.prev_events)).await?;
        let mut states = States::new();
        for pdu in line {
            let unknown = |id: &OwnedEventId| !self.is_placed(id) && !within.contains(id);
            if pdu.prev_events.iter().any(unknown) {
                states.insert(pdu.event_id.clone(), self.state_before(pdu).await?);
            }
        }
        Ok(states)
    }

    pub(super) async fn state_before(&mut self, pdu: &Pdu) -> Outcome<Vec<OwnedEventId>> {
        let mut last = DomainError::not_found("there is nobody to ask");
        for server in self.servers.clone() {
            match self.state_from(&server, pdu).await {
                Ok(state) => return Ok(state),
                Err(error) => {
                    self.note(&server, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn state_from(&mut self, server: &ServerName, pdu: &Pdu) -> Outcome<Vec<OwnedEventId>> {
        let room = self.room.clone();
        let (state, chain) = ask::state_ids(self.hub, server, &room.room_id, &pdu.event_id).await?;
        if state.len() + chain.len() > MAX_STATE {
            return Err(DomainError::too_large("a state with too many events"));
        }
        if state.is_empty() {
            return Err(DomainError::not_found("an empty state"));
        }
        let all: HashSet<&OwnedEventId> = state.iter().chain(&chain).collect();
        self.look_up(all.iter().copied()).await?;
        let missing = |gap: &Self| -> Vec<OwnedEventId> {
            let missing = all.iter().filter(|id| !gap.is_there(id));
            missing.map(|id| (*id).clone()).collect()
        };
        if missing(self).len() > MANY {
            let raw = ask::state(self.hub, server, &room.room_id, &pdu.event_id).await?;
            for event in self.check(server, raw).await? {
                if all.contains(&event.event_id) && !self.is_there(&event.event_id) {
                    self.outliers.insert(event.event_id.clone(), event);
                }
            }
        }
        let wanted = missing(self);
        let nobodys = self.fetch(wanted).await?;
        // Events that are not good are no part of the state; without one that nobody gave it would be another state.
        if let Some(id) = state.iter().find(|id| nobodys.contains(id)) {
            return Err(DomainError::not_found(format!("nobody has {id}, a part of the state")));
        }
        Ok(state)
    }
}
