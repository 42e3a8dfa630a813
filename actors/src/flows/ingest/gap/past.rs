//! What a room needs besides, to take events from before those it has.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ruma::{OwnedEventId, ServerName};

use super::state::States;
use super::{Effort, Gap, MAX_SINGLE, order, whom_to_ask};
use crate::error::Outcome;
use crate::hub::Hub;
use crate::room::commands::{Backfill, Incoming};
use crate::room::event::{Pdu, StoredEvent};
use crate::room::snapshot::RoomSnapshot;

/// Events whose states are asked for.
const MAX_STATES: usize = 5;
/// Events among which one is looked for that follows a missing one.
const NEIGHBOURS: u32 = 50;

/// Puts together what `server` gave of a room's past. `missing`: the events that others here follow; what does not lead up to
/// them is left out.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn past(
    hub: &Hub,
    room: Arc<RoomSnapshot>,
    server: &ServerName,
    missing: &[OwnedEventId],
    events: Vec<Pdu>,
) -> Outcome<Backfill> {
    let Some(newest) = events.iter().find(|pdu| missing.contains(&pdu.event_id)).cloned() else {
        return Ok(Backfill {
            events: Vec::new(),
            outliers: Vec::new(),
        });
    };
    let mut gap = Gap {
        servers: whom_to_ask(&room, server, &newest, &hub.env().server_name, Effort::FULL),
        effort: Effort::FULL,
        hub,
        room,
        known: HashMap::new(),
        outliers: Default::default(),
        bad: HashSet::new(),
        left: MAX_SINGLE,
    };
    gap.look_up(events.iter().map(|pdu| &pdu.event_id)).await?;
    let line = gap.leading_to(missing, events);
    let states = gap.past_states(&line, missing).await?;
    if let Err(error) = gap.chains(&line).await {
        // What lacks an auth event does not get in; the others may.
        gap.note(server, &error);
    }
    let outliers = gap.sound_outliers(&line);
    let incoming = |pdu: &Pdu| Incoming {
        state_before: states.get(&pdu.event_id).map(|ids| Arc::from(gap.sound(ids))),
        ..Incoming::of(pdu)
    };
    Ok(Backfill {
        events: line.iter().map(incoming).collect(),
        outliers: outliers.iter().map(Incoming::of).collect(),
    })
}

impl Gap<'_> {
    /// The events of a state that are there.
    fn sound(&self, ids: &[OwnedEventId]) -> Vec<OwnedEventId> {
        ids.iter().filter(|id| self.is_there(id)).cloned().collect()
    }

    /// The new ones among `events` that some of `missing` follow, and these, parents first.
    fn leading_to(&self, missing: &[OwnedEventId], events: Vec<Pdu>) -> Vec<Pdu> {
        let mut given: HashMap<OwnedEventId, Pdu> = events.into_iter().map(|pdu| (pdu.event_id.clone(), pdu)).collect();
        let mut open: Vec<OwnedEventId> = missing.to_vec();
        let mut line = Vec::new();
        while let Some(pdu) = open.pop().map(|id| given.remove(&id)) {
            let Some(pdu) = pdu.filter(|pdu| !self.is_placed(&pdu.event_id)) else {
                continue;
            };
            open.extend(pdu.prev_events.iter().cloned());
            line.push(pdu);
        }
        order::parents_first(line, |pdu| pdu)
    }

    /// The states before the events that lead into the unknown, as far as they can be had.
    async fn past_states(&mut self, line: &[Pdu], missing: &[OwnedEventId]) -> Outcome<States> {
        let within: HashSet<&OwnedEventId> = line.iter().map(|pdu| &pdu.event_id).collect();
        self.look_up(line.iter().flat_map(|pdu| &pdu.prev_events)).await?;
        let mut states = self.carried_back(line, missing).await?;
        let roots: Vec<&Pdu> = line
            .iter()
            .filter(|pdu| {
                let unknown = |id: &OwnedEventId| !self.is_placed(id) && !within.contains(id);
                pdu.prev_events.iter().any(unknown) && !states.contains_key(&pdu.event_id)
            })
            .collect();
        for pdu in roots.into_iter().take(MAX_STATES) {
            match self.state_before(pdu).await {
                Ok(state) => drop(states.insert(pdu.event_id.clone(), state)),
                Err(error) => {
                    tracing::debug!(event_id = %pdu.event_id, %error, "nobody tells the state before an event");
                }
            }
        }
        Ok(states)
    }

    /// The state before an event is that after its only parent, and that before it if the parent is no state event: so the
    /// states that are here can be carried back along a line of messages.
    async fn carried_back(&mut self, line: &[Pdu], missing: &[OwnedEventId]) -> Outcome<States> {
        let by_id: HashMap<&OwnedEventId, &Pdu> = line.iter().map(|pdu| (&pdu.event_id, pdu)).collect();
        let mut states = States::new();
        for id in missing {
            let mut at = by_id.get(id).copied();
            let mut root = None;
            while let Some(pdu) = at.filter(|pdu| pdu.state_key.is_none()) {
                let [parent] = &*pdu.prev_events else { break };
                at = by_id.get(parent).copied();
                if at.is_none() && !self.is_placed(parent) {
                    root = Some(pdu);
                }
            }
            let Some(root) = root else { continue };
            if let Some(child) = self.only_child(id).await?
                && let Some(group) = child.state_group
            {
                let state = crate::room::read::state_at(self.hub.env(), &self.room, group).await?;
                let ids: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id.clone()).collect();
                self.look_up(&ids).await?;
                states.insert(root.event_id.clone(), ids);
            }
        }
        Ok(states)
    }

    /// An event here that follows this one and no other.
    async fn only_child(&self, id: &OwnedEventId) -> Outcome<Option<Arc<StoredEvent>>> {
        let hole = self.room.gaps.get(id).and_then(|gap| gap.hole);
        let hole = hole.and_then(|hole| self.room.holes.get(&hole));
        let above = hole.map(|hole| hole.next - 1);
        let rooms = &self.hub.env().rooms;
        let near = rooms
            .timeline_range(self.room.nid, above, None, NEIGHBOURS, false)
            .await?;
        let follows = |event: &Arc<StoredEvent>| event.pdu.prev_events == std::slice::from_ref(id);
        Ok(near.into_iter().find(follows))
    }
}
