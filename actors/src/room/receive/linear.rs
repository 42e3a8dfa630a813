//! The common case: an event that follows the room as it is. The state before it is the room's current state, so there is
//! nothing to read, to compare or to resolve, however large the room.

use std::collections::HashSet;
use std::sync::Arc;

use ruma::{EventId, OwnedEventId};

use super::work::Work;
use super::{Item, apply::Change};
use crate::error::Outcome;
use crate::room::commands::Verdict;
use crate::room::event::{Pdu, Status};
use crate::room::{auth, ingest};

impl Work {
    /// Places an event that follows what the room is now; `None` where it takes more than that.
    pub(super) fn linear(&mut self, item: &Item) -> Outcome<Option<Verdict>> {
        let pdu = &item.pdu;
        if item.state_before.is_some() || item.withheld || !self.is_level(pdu) {
            return Ok(None);
        }
        if let Err(reason) = self.check(item) {
            self.hide(pdu, Status::Rejected, Some(self.room.state_group))?;
            return Ok(Some(Verdict::Rejected(reason)));
        }
        self.accept_linear(item)?;
        Ok(Some(Verdict::Accepted))
    }

    /// Whether the state after every parent and after every forward extremity is the room's current state, and stays so
    /// but for the event itself.
    fn is_level(&self, pdu: &Pdu) -> bool {
        let (ends, group) = (&self.room.extremities, self.room.state_group);
        let is_only_end = |id: &EventId| ends.len() == 1 && *ends[0].event_id == *id;
        let is_level = |id: &EventId| {
            is_only_end(id)
                || self.find(id).is_some_and(|event| {
                    let accepted = event.status == Status::Accepted && event.pdu.state_key.is_none();
                    accepted && event.state_group == Some(group)
                })
        };
        let prev = &pdu.prev_events;
        let joins_all = ends.iter().all(|end| prev.contains(&end.event_id));
        !prev.is_empty()
            && prev.iter().all(|id| is_level(id))
            && (joins_all || pdu.state_key.is_none())
            && ends.iter().all(|end| is_level(&end.event_id))
            && !self.room.gaps.contains_key(&pdu.event_id)
            && pdu.auth_events.iter().all(|id| self.stored.contains_key(id))
    }

    /// The checks at all three points, of which the last two are one here.
    fn check(&self, item: &Item) -> Result<(), String> {
        let pdu = &item.pdu;
        let rules = &self.room.rules;
        let event = |id: &EventId| self.stored.get(id).map(|event| event.pdu.clone());
        let state = |kind: &str, key: &str| self.room.state_event(kind, key).map(|event| event.pdu.clone());
        let standing = item.keys.iter().filter_map(|key| self.room.state.get(key));
        let selected: HashSet<&OwnedEventId> = standing.map(|entry| &entry.event.pdu.event_id).collect();
        let named: HashSet<&OwnedEventId> = pdu.auth_events.iter().collect();
        if selected == named {
            // The auth events are the state: what holds by the one holds by the other.
            auth::check_auth_events(pdu, rules, event)?;
            return auth::check_against(pdu, rules, state).map_err(|reason| format!("by its auth events: {reason}"));
        }
        ingest::check_past(pdu, rules, event, state)
    }

    fn accept_linear(&mut self, item: &Item) -> Outcome<()> {
        let pdu = &item.pdu;
        let before = self.room.state.clone();
        let servers = if item.relay {
            self.other_servers(pdu)
        } else {
            Arc::from([])
        };
        let replaced = pdu.state_key.as_deref().and_then(|key| {
            let kind = pdu.kind.to_string();
            self.room.state_event(&kind, key).cloned()
        });
        let group = self.room.state_group;
        let event = self.enter(pdu, group, replaced.as_deref())?;
        let followed = |id: &OwnedEventId| pdu.prev_events.contains(id);
        let left = self.room.extremities.iter().map(|end| &end.event_id);
        let left = left.filter(|id| !followed(id)).cloned();
        let ends: Vec<_> = left.chain([pdu.event_id.clone()]).collect();
        self.set_extremities(&event, &ends);
        let users = self.room.local_joined.clone();
        let changes = match pdu.key() {
            Some(key) => {
                let change = Change {
                    key,
                    event: Some(event.clone()),
                };
                self.step(change, &event)?
            }
            None => Vec::new(),
        };
        self.announce(&event, &users, &changes, servers);
        let state = |kind: &str, key: &str| {
            let key = crate::room::resolve::state_key(kind, key);
            before.get(&key).map(|entry| entry.event.pdu.clone())
        };
        self.redact(&event, state)?;
        self.redact_early(&event)
    }
}
