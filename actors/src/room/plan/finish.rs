//! From offsets to positions, once a plan is committed.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{EventNid, StreamPos};
use ruma::EventId;

use super::Plan;
use crate::room::event::{Pdu, StoredEvent};
use crate::room::snapshot::{RoomSnapshot, StateKey};
use crate::stream::fact::{Fact, FactKind};

/// What readers get to see once a plan is committed.
#[derive(Debug)]
pub struct Published {
    /// The room.
    pub snapshot: Arc<RoomSnapshot>,
    /// The new events.
    pub events: Vec<Arc<StoredEvent>>,
    /// Older events that were pruned.
    pub pruned: Vec<Arc<StoredEvent>>,
    /// State keys whose numbers are stored now.
    pub interned: Vec<StateKey>,
    /// Whether stored events have changed their standing.
    pub updates: bool,
    /// What happened, in order.
    pub facts: Vec<Fact>,
}

impl Plan {
    /// The new events.
    pub(in crate::room) fn made(&self) -> impl Iterator<Item = &Arc<StoredEvent>> {
        self.fresh.values()
    }

    /// Gives a new event another text: itself with one more signature.
    pub(in crate::room) fn countersign(&mut self, event_id: &EventId, json: &Arc<str>) {
        let Some(event) = self.fresh.values_mut().find(|event| event.event_id() == event_id) else {
            return;
        };
        for row in self.rows.events.iter_mut().filter(|row| row.nid == event.nid.0) {
            row.json = json.to_string();
        }
        let pdu = Pdu {
            json: json.clone(),
            ..(*event.pdu).clone()
        };
        *event = Arc::new(StoredEvent {
            pdu: Arc::new(pdu),
            ..(**event).clone()
        });
    }

    /// Gives everything its final position; `base` is that of offset 0.
    #[must_use]
    pub fn publish(self, base: StreamPos) -> Published {
        let place = |pos: StreamPos| StreamPos(pos.0 + base.0);
        let placed: HashMap<EventNid, Arc<StoredEvent>> = self
            .fresh
            .into_iter()
            .map(|(nid, event)| {
                (
                    nid,
                    Arc::new(StoredEvent {
                        pos: event.pos.map(place),
                        ..(*event).clone()
                    }),
                )
            })
            .collect();
        let mut room = self.snapshot;
        if self.positions > 0 {
            room.pos = place(room.pos);
        }
        for hole in &self.opened {
            if let Some(hole) = room.holes.get_mut(hole) {
                hole.low += base.0;
                hole.next += base.0;
            }
        }
        for slot in room.timeline.iter_mut().rev() {
            match placed.get(&slot.nid) {
                Some(event) => *slot = event.clone(),
                None => break,
            }
        }
        // Also those that the state had as outliers.
        placed.values().for_each(|event| replace_entry(&mut room, event));
        let facts = self.facts.into_iter().map(|fact| settle(fact, base, &placed)).collect();
        let mut events: Vec<_> = placed.into_values().collect();
        events.sort_by_key(|event| event.pos);
        Published {
            snapshot: Arc::new(room),
            events,
            pruned: self.pruned,
            interned: self.interned,
            updates: self.updates,
            facts,
        }
    }
}

fn settle(fact: Fact, base: StreamPos, placed: &HashMap<EventNid, Arc<StoredEvent>>) -> Fact {
    let pos = StreamPos(fact.pos.0 + base.0);
    let kind = match fact.kind {
        FactKind::Event {
            room_id,
            event,
            servers,
        } => {
            let event = placed.get(&event.nid).cloned().unwrap_or(event);
            FactKind::Event {
                room_id,
                event,
                servers,
            }
        }
        other => other,
    };
    Fact { pos, kind, ..fact }
}

/// Puts `event` where the room holds an older form of it.
pub(in crate::room) fn replace(room: &mut RoomSnapshot, event: &Arc<StoredEvent>) {
    if let Some(slot) = room.timeline.iter().position(|old| old.nid == event.nid) {
        room.timeline.set(slot, event.clone());
    }
    replace_entry(room, event);
}

fn replace_entry(room: &mut RoomSnapshot, event: &Arc<StoredEvent>) {
    let Some(key) = event.pdu.key() else { return };
    let stands = room.state.get(&key).is_some_and(|entry| entry.event.nid == event.nid);
    if stands && let Some(entry) = room.state.get_mut(&key) {
        entry.event = event.clone();
    }
}
