//! The auth events that fetched events need.

use std::collections::HashSet;

use ruma::{OwnedEventId, ServerName};

use super::{Gap, ask};
use crate::error::{DomainError, Outcome};
use crate::room::event::Pdu;

/// Events of one auth chain.
const MAX_CHAIN: usize = 20_000;
/// How far chains are followed event by event.
const MAX_ROUNDS: usize = 50;

impl Gap<'_> {
    /// Fetches the auth events of the line and of the outliers in hand, as far as they can be had.
    ///
    /// # Errors
    /// `M_NOT_FOUND` when nobody has one of them; `M_TOO_LARGE` when there are too many; what the last server answered when it
    /// could not be asked.
    pub(super) async fn chains(&mut self, line: &[Pdu]) -> Outcome<()> {
        for round in 0..MAX_ROUNDS {
            let open = self.open_auth(line).await?;
            if open.is_empty() {
                return Ok(());
            }
            let last = line.last().filter(|_| round == 0);
            if let Some(event) = last {
                self.whole_chain(event).await;
                continue;
            }
            if let Some(id) = self.fetch(open).await?.first() {
                return Err(DomainError::not_found(format!("nobody has the auth event {id}")));
            }
        }
        Err(DomainError::too_large("an auth chain is too long"))
    }

    /// Auth events that are not there and might be had.
    async fn open_auth(&mut self, line: &[Pdu]) -> Outcome<Vec<OwnedEventId>> {
        let needed: HashSet<OwnedEventId> = line
            .iter()
            .chain(self.outliers.values())
            .flat_map(|pdu| pdu.auth_events.iter().cloned())
            .collect();
        self.look_up(&needed).await?;
        let within: HashSet<&OwnedEventId> = line.iter().map(|pdu| &pdu.event_id).collect();
        let missing = needed
            .into_iter()
            .filter(|id| !self.is_there(id) && !within.contains(id));
        Ok(missing.filter(|id| !self.bad.contains(id)).collect())
    }

    /// What a server gives as the event's auth chain. What it does not give is fetched event by event.
    async fn whole_chain(&mut self, event: &Pdu) {
        for server in self.servers.clone() {
            match self.chain_from(&server, event).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => self.note(&server, &error),
            }
        }
    }

    /// Whether there was anything new in it.
    async fn chain_from(&mut self, server: &ServerName, event: &Pdu) -> Outcome<bool> {
        let raw = ask::event_auth(self.hub, server, &self.room.room_id, &event.event_id).await?;
        if raw.len() > MAX_CHAIN {
            return Err(DomainError::too_large("an auth chain is too long"));
        }
        let chain = self.check(server, raw).await?;
        self.look_up(chain.iter().map(|pdu| &pdu.event_id)).await?;
        let before = self.outliers.len();
        for pdu in chain {
            if !self.is_there(&pdu.event_id) {
                self.outliers.insert(pdu.event_id.clone(), pdu);
            }
        }
        Ok(self.outliers.len() > before)
    }
}
