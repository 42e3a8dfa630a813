//! The other cases: events that stand beside others, behind refused ones, or behind what is not known.

use std::sync::Arc;

use ruma::OwnedEventId;

use super::work::Work;
use super::{Item, Receiver, apply::Change};
use crate::cpu::Class;
use crate::error::{DomainError, Outcome};
use crate::room::cache::Reset;
use crate::room::commands::Verdict;
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::ingest::{self, Judged, Scene};
use crate::room::library::Library;
use crate::room::resolve::{ResolveError, StateIds, differing, resolve_state, state_key};
use crate::room::snapshot::StateKey;

/// Hidden events that are followed backwards from one event.
const MAX_HIDDEN: usize = 200;

impl<L: Library> Receiver<'_, L> {
    /// Places one event, whatever it stands beside.
    pub(super) async fn branch(&mut self, item: &Item) -> Outcome<Verdict> {
        let given = match &item.state_before {
            Some(ids) => match self.given(ids).await? {
                Ok(state) => Some(state),
                Err(missing) => return Ok(Verdict::Missing(missing)),
            },
            None => None,
        };
        if let Some(missing) = self.missing(&item.pdu, given.is_some()) {
            return Ok(missing);
        }
        let before = self.state_before(&item.pdu, given).await?;
        let ends: Vec<OwnedEventId> = self.ends();
        for id in &ends {
            self.read_after(id).await?;
        }
        self.read_hidden(&item.pdu).await?;
        let current = self.work().current();
        self.read_authorizing(item, &[&before, &current]).await?;
        let work = self.work();
        let scene = Scene {
            rules: &work.room.rules.clone(),
            events: &*work,
            given: None,
            after: &work.after,
            hidden: &work.hidden,
            extremities: &ends,
            current: &current,
            // A parent that was missing has been followed already; others are accepted before their children.
            has_children: work.room.gaps.contains_key(&item.pdu.event_id),
        };
        let mut judged = ingest::weigh(&scene, &item.pdu, &before);
        if item.withheld {
            judged.withhold(&ends);
        }
        self.apply(item, before, judged).await
    }

    fn ends(&mut self) -> Vec<OwnedEventId> {
        let ends = self.work().room.extremities.clone();
        ends.iter().map(|end| end.event_id.clone()).collect()
    }

    /// The parents and auth events that must be known first. A parent must have a state of its own, unless the state is
    /// given.
    pub(super) fn missing(&mut self, pdu: &Pdu, given: bool) -> Option<Verdict> {
        let work = self.work();
        let missing = ingest::missing(pdu, |id| {
            let parent = pdu.prev_events.iter().any(|prev| prev == id);
            let auth = pdu.auth_events.iter().any(|auth| auth == id);
            let event = work.stored.get(id);
            let stands = given || event.is_some_and(|event| event.state_group.is_some());
            (!parent || stands) && (!auth || event.is_some())
        });
        (!missing.is_empty()).then_some(Verdict::Missing(missing))
    }

    /// The state before an event: by its known parents, and as it is given.
    pub(super) async fn state_before(&mut self, pdu: &Pdu, given: Option<StateIds>) -> Outcome<StateIds> {
        for id in &pdu.prev_events {
            self.read_after(id).await?;
        }
        let work = self.work();
        let parents = pdu.prev_events.iter().filter_map(|id| work.after.get(id));
        let states: Vec<StateIds> = given.iter().chain(parents).cloned().collect();
        self.resolve(states, pdu).await
    }

    /// One state from several.
    async fn resolve(&mut self, states: Vec<StateIds>, pdu: &Pdu) -> Outcome<StateIds> {
        if states.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(states.into_iter().next().unwrap_or_default());
        }
        self.read_chains(&states).await?;
        let job = move |work: &mut Work| resolve_state(&work.room.rules, &states, work);
        let resolved = self.on_cpu(Class::StateRes, job).await?;
        let failed = |error: ResolveError| DomainError::internal(format!("{}: {error}", pdu.event_id));
        resolved.map_err(failed)
    }

    /// The events that authorize an event in some states.
    pub(super) async fn read_authorizing(&mut self, item: &Item, states: &[&StateIds]) -> Outcome<()> {
        let always = ["m.room.create", "m.room.power_levels"].map(|kind| state_key(kind, ""));
        let keys: Vec<StateKey> = item.keys.iter().cloned().chain(item.pdu.key()).chain(always).collect();
        let ids = states.iter().flat_map(|state| super::groups::under(state, &keys));
        let ids: Vec<OwnedEventId> = ids.collect();
        self.look_up(ids).await
    }

    /// Soft-failed and rejected parents, and those behind them.
    async fn read_hidden(&mut self, pdu: &Pdu) -> Outcome<()> {
        let mut open: Vec<OwnedEventId> = pdu.prev_events.clone();
        while !open.is_empty() && self.work().hidden.len() < MAX_HIDDEN {
            self.look_up(open.iter().cloned()).await?;
            let work = self.work();
            let mut behind = Vec::new();
            for id in open {
                let Some(event) = work.stored.get(&id) else { continue };
                let hidden = matches!(event.status, Status::SoftFailed | Status::Rejected);
                if hidden && !work.hidden.contains_key(&id) {
                    behind.extend(event.pdu.prev_events.iter().cloned());
                    work.hidden.insert(id, event.pdu.prev_events.clone());
                }
            }
            open = behind;
        }
        Ok(())
    }

    async fn apply(&mut self, item: &Item, before: StateIds, judged: Judged) -> Outcome<Verdict> {
        let pdu = &item.pdu;
        let (group, _) = self.group_of(&before).await?;
        let work = self.work();
        work.after.insert(pdu.event_id.clone(), judged.after.clone());
        let status = match &judged.verdict {
            Verdict::Accepted => Status::Accepted,
            Verdict::SoftFailed => Status::SoftFailed,
            Verdict::Rejected(_) => Status::Rejected,
            Verdict::Duplicate | Verdict::Missing(_) => return Ok(judged.verdict),
        };
        let unknown = work.unknown_parents(pdu);
        let gap = work.fill_gap(pdu);
        if status != Status::Accepted {
            work.hide(pdu, status, Some(group))?;
            // Behind it lies what its children follow.
            if let Some(gap) = gap {
                work.open_gaps(pdu, &unknown, gap.hole);
            }
            return Ok(judged.verdict);
        }
        if !unknown.is_empty() {
            let hole = work.open_hole()?;
            work.open_gaps(pdu, &unknown, Some(hole));
        }
        let replaced = pdu.key().and_then(|key| before.get(&key));
        let replaced = replaced.and_then(|id| work.stored.get(id)).cloned();
        let event = work.enter(pdu, group, replaced.as_deref())?;
        work.set_extremities(&event, &judged.extremities);
        let (users, servers) = (work.room.local_joined.clone(), work.other_servers(pdu));
        let current = self.resolve(judged.ends, pdu).await?;
        let changed = self.set_current(&current, &event).await?;
        let work = self.work();
        let servers = if item.relay { servers } else { Arc::from([]) };
        work.announce(&event, &users, &changed, servers);
        let events = |id: &OwnedEventId| work.stored.get(id).map(|event| event.pdu.clone());
        let decisive = ["m.room.create", "m.room.power_levels"].map(|kind| {
            let id = before.get(&state_key(kind, ""));
            (kind, id.and_then(events))
        });
        let state = |kind: &str, _: &str| decisive.iter().find(|(name, _)| *name == kind)?.1.clone();
        work.redact(&event, state)?;
        work.redact_early(&event)?;
        Ok(judged.verdict)
    }

    /// Moves the room's current state. Answers the local users whose membership changed.
    async fn set_current(&mut self, current: &StateIds, event: &Arc<StoredEvent>) -> Outcome<Vec<ruma::OwnedUserId>> {
        let (old, now) = (self.work().current(), self.library.now_ms());
        let keys: Vec<StateKey> = differing(&old, current).cloned().collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.number(&keys, &[current]).await?;
        self.look_up(super::groups::under(current, &keys).collect::<Vec<_>>())
            .await?;
        let (group, chain) = self.group_of(current).await?;
        let work = self.work();
        let own = event.pdu.key();
        let others = keys.iter().filter(|key| own.as_ref() != Some(key)).count();
        if others > 0 {
            work.reset = Some(Reset {
                event_id: event.pdu.event_id.clone(),
                keys: others,
                at_ms: now,
            });
        }
        let mut users = Vec::new();
        for key in keys {
            let event_of = |id: &OwnedEventId| {
                let missing = || DomainError::internal(format!("resolved to {id}, which is not stored"));
                work.stored.get(id).cloned().ok_or_else(missing)
            };
            let new = current.get(&key).map(event_of).transpose()?;
            let change = Change { key, event: new };
            work.put(change, event.pos.unwrap_or_default(), &mut users)?;
        }
        work.set_group(group, chain);
        Ok(users)
    }
}

impl Work {
    /// Parents that have no state here: nobody has seen them, or only as part of a state.
    pub(super) fn unknown_parents(&self, pdu: &Pdu) -> Vec<OwnedEventId> {
        let known = |id: &&OwnedEventId| self.stored.get(*id).is_some_and(|event| event.state_group.is_some());
        pdu.prev_events.iter().filter(|id| !known(id)).cloned().collect()
    }
}
