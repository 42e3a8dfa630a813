//! What events are placed with, read for all of them at once.

use std::collections::HashSet;
use std::sync::Arc;

use entities::ids::EventNid;
use ruma::OwnedEventId;

use super::redact::Early;
use super::work::Work;
use super::{Item, Parsed, Receiver};
use crate::error::{DomainError, Outcome};
use crate::room::auth::Power;
use crate::room::event::{Pdu, StoredEvent};
use crate::room::ingest;
use crate::room::library::Library;
use crate::room::resolve::{StateIds, needed_for_resolution, state_key};
use crate::room::snapshot::StateKey;

/// Rounds of looking up what a resolution needs.
const MAX_ROUNDS: usize = 2_000;
/// After so many rounds whole auth chains are read.
const SINGLE_ROUNDS: usize = 2;
/// Events of auth chains that are read at once.
const CHAIN: u32 = 5_000;
/// Internal numbers that one event takes at most: its own, a gap's, those of the state groups before and after it.
const NIDS: usize = 4;

impl<L: Library> Receiver<'_, L> {
    /// Reads events that are not in memory yet. Unknown ones stay unknown.
    pub(super) async fn look_up(&mut self, ids: impl IntoIterator<Item = OwnedEventId>) -> Outcome<()> {
        let work = self.work();
        let mut seen = HashSet::new();
        let missing: Vec<_> = ids
            .into_iter()
            .filter(|id| !work.stored.contains_key(id) && !work.absent.contains(id) && seen.insert(id.clone()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let found = self.library.events_by_id(&missing).await?;
        self.know_all(found.into_values());
        let work = self.work();
        let absent = missing.into_iter().filter(|id| !work.stored.contains_key(id));
        let absent: Vec<_> = absent.collect();
        work.absent.extend(absent);
        Ok(())
    }

    fn know_all(&mut self, events: impl IntoIterator<Item = Arc<StoredEvent>>) {
        let work = self.work();
        let room = work.room.nid;
        for event in events {
            if event.room_nid == room && !work.stored.contains_key(event.event_id()) {
                work.know(event);
            }
        }
    }

    /// Reads what placing the events looks at in the common case, gives state keys their numbers and takes numbers for
    /// what is new.
    pub(super) async fn prefetch(&mut self, items: &[Parsed], outliers: &[Arc<Pdu>]) -> Outcome<()> {
        let items: Vec<&Item> = items.iter().filter_map(|item| item.as_ref().ok()).collect();
        let work = self.work();
        work.know_standing(&items);
        let mut ids: Vec<OwnedEventId> = Vec::new();
        let pdus = items.iter().map(|item| &item.pdu);
        for pdu in pdus.clone().chain(outliers) {
            ids.push(pdu.event_id.clone());
            ids.extend(pdu.auth_events.iter().cloned());
            ids.extend(ingest::create_event_id(pdu, &work.room.rules));
        }
        for pdu in pdus {
            ids.extend(pdu.prev_events.iter().cloned());
            ids.extend(pdu.redacts.clone());
        }
        if work.room.extremities.len() > 1 {
            ids.extend(work.room.extremities.iter().map(|end| end.event_id.clone()));
        }
        let keys = items.iter().filter_map(|item| item.pdu.key());
        let keys: Vec<StateKey> = keys.filter(|key| !work.room.state.contains_key(key)).collect();
        self.look_up(ids).await?;
        if !keys.is_empty() {
            let numbers = self.library.intern(&keys).await?;
            self.work().keys.extend(numbers);
        }
        self.read_redactions(&items).await?;
        let count = items.len() * NIDS + outliers.len();
        let first = self.library.take_nids(count).await?;
        let end = first.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
        self.work().nids = first..end;
        Ok(())
    }

    /// Redactions that wait for one of the events, and what else is told about what is to be redacted.
    async fn read_redactions(&mut self, items: &[&Item]) -> Outcome<()> {
        let work = self.work();
        let targets = items.iter().filter_map(|item| item.pdu.redacts.as_ref());
        let targets: Vec<Arc<StoredEvent>> = targets.filter_map(|id| work.stored.get(id).cloned()).collect();
        let (room, early) = (work.room.nid, work.room.early_redactions);
        for target in targets {
            let successors = self.library.successors(&target).await?;
            self.work().successors.extend(successors);
        }
        if !early {
            return Ok(());
        }
        let ids: Vec<&str> = items.iter().map(|item| item.pdu.event_id.as_str()).collect();
        let rows = self.library.early_redactions(room, &ids).await?;
        let nids: Vec<EventNid> = rows.iter().map(|row| EventNid(row.redaction_nid)).collect();
        let redactions = self.library.events(&nids).await?;
        let decisive = ["m.room.create", "m.room.power_levels"].map(|kind| state_key(kind, ""));
        for row in rows {
            let Some(redaction) = redactions.get(&EventNid(row.redaction_nid)) else {
                continue;
            };
            let Some(group) = redaction.state_group else { continue };
            let state = self.library.state_events_at(group, &decisive).await?;
            let state = |kind: &str, _: &str| {
                let at = decisive.iter().position(|key| *key.0 == *kind)?;
                Some(state.get(at)?.as_ref()?.pdu.clone())
            };
            let work = self.work();
            let power = Power::of(&work.room.rules, state);
            let (Ok(power), Ok(id)) = (power, OwnedEventId::try_from(row.target_event_id)) else {
                continue;
            };
            let redaction = redaction.clone();
            work.early.entry(id).or_default().push(Early { redaction, power });
        }
        Ok(())
    }

    /// What resolving these states needs.
    pub(super) async fn read_chains(&mut self, states: &[StateIds]) -> Outcome<()> {
        for round in 0..MAX_ROUNDS {
            let work = self.work();
            let needed = needed_for_resolution(&work.room.rules, states, work, &work.absent);
            if needed.is_empty() {
                return Ok(());
            }
            if round >= SINGLE_ROUNDS {
                let events = self.library.chains(&needed, CHAIN).await?;
                self.know_all(events);
            }
            self.look_up(needed).await?;
        }
        Err(DomainError::unavailable("an auth chain is too long to resolve"))
    }
}

impl Work {
    /// The state events that are likely to authorize the events, and the newest of the timeline, are at hand.
    fn know_standing(&mut self, items: &[&Item]) {
        let always = ["m.room.create", "m.room.power_levels"].map(|kind| state_key(kind, ""));
        let keys = items.iter().flat_map(|item| &item.keys).chain(&always);
        let standing: Vec<_> = keys.filter_map(|key| self.room.state.get(key)).collect();
        let standing: Vec<_> = standing.into_iter().map(|entry| entry.event.clone()).collect();
        for event in standing.into_iter().chain(self.room.timeline.clone()) {
            self.stored.insert(event.pdu.event_id.clone(), event);
        }
    }
}
