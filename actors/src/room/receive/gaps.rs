//! Where the known history ends: parents that are not known, and free positions for what will be fetched.

use entities::{backward_extremity, history_hole};
use ruma::OwnedEventId;

use super::work::Work;
use crate::error::Outcome;
use crate::room::event::Pdu;
use crate::room::snapshot::{Gap, Hole};

/// How many events of a gap in the middle of a timeline can be filled in.
const HOLE: i64 = 1 << 16;

impl Work {
    /// The event is here: it is no longer missing. Answers the hole that it belongs in, if it was missing.
    pub(super) fn fill_gap(&mut self, pdu: &Pdu) -> Option<Gap> {
        let gap = self.room.gaps.remove(&pdu.event_id)?;
        let (room, id) = (self.room.nid.0, pdu.event_id.to_string());
        let rows = &mut self.out.rows;
        rows.backward_extremities.retain(|row| row.event_id != id);
        rows.backward_extremities_removed.push((room, id));
        Some(gap)
    }

    /// Notes the parents of an event that are not known.
    pub(super) fn open_gaps(&mut self, pdu: &Pdu, missing: &[OwnedEventId], hole: Option<i64>) {
        for id in missing {
            let gap = Gap { depth: pdu.depth, hole };
            // The first hole is the right one: that of the newest event that follows.
            if self.room.gaps.contains_key(id) {
                continue;
            }
            self.room.gaps.insert(id.clone(), gap);
            self.out.rows.backward_extremities.push(backward_extremity::Model {
                room_nid: self.room.nid.0,
                event_id: id.to_string(),
                depth: gap.depth,
                hole,
            });
        }
    }

    /// Reserves positions before the next event. Answers the hole's number.
    pub(super) fn open_hole(&mut self) -> Outcome<i64> {
        let id = self.nid()?;
        let hole = Hole {
            low: self.out.next,
            next: self.out.next + HOLE,
        };
        self.out.next = hole.next;
        self.room.holes.insert(id, hole);
        self.out.opened.push(id);
        self.out.rows.history_holes.push(history_hole::Model {
            id,
            room_nid: self.room.nid.0,
            low: hole.low,
            next: hole.next,
        });
        Ok(id)
    }

    /// Takes `count` positions from a hole, the highest first; `None` when there are not so many left.
    pub(super) fn take_from_hole(&mut self, id: i64, count: i64) -> Option<i64> {
        let hole = self.room.holes.get_mut(&id)?;
        if hole.next - hole.low < count {
            return None;
        }
        hole.next -= count;
        self.out.rows.history_holes_left.push((id, hole.next));
        Some(hole.next)
    }

    /// Forgets holes that nothing is missing in.
    pub(super) fn close_holes(&mut self) {
        let gaps = &self.room.gaps;
        let is_done = |id: &i64| gaps.values().all(|gap| gap.hole != Some(*id));
        let done: Vec<i64> = self.room.holes.keys().copied().filter(is_done).collect();
        for id in done {
            self.room.holes.remove(&id);
            let rows = &mut self.out.rows;
            rows.history_holes_left.retain(|(other, _)| *other != id);
            rows.history_holes.retain(|row| row.id != id);
            rows.history_holes_removed.push(id);
        }
    }
}
