//! Events from before those that are here: they take places in the timeline below what follows them, and change nothing
//! else.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use entities::ids::{StateGroupId, StreamPos};
use ruma::OwnedEventId;

use super::work::Work;
use super::{Item, Parsed, Receiver};
use crate::error::Outcome;
use crate::room::commands::{Backfill, Verdict};
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::ingest;
use crate::room::library::Library;
use crate::room::plan::{replace, replaced_unsigned};
use crate::room::resolve::{StateIds, state_key};
use crate::room::snapshot::TIMELINE_TAIL;

/// Where an event goes.
#[derive(Clone, Copy)]
struct Place {
    pos: StreamPos,
    /// The hole that its own missing parents belong in.
    hole: Option<i64>,
}

impl<L: Library> Receiver<'_, L> {
    pub(super) async fn history(&mut self, backfill: Backfill) -> Outcome<Vec<Verdict>> {
        let staged: Vec<Option<i64>> = backfill.events.iter().map(|incoming| incoming.staged).collect();
        let (items, outliers) = self.parse(backfill.events, backfill.outliers).await?;
        self.prefetch(&items, &outliers).await?;
        self.outliers(&outliers)?;
        let order = oldest_first(&items);
        let places = self.places(&items, &order).await?;
        let mut verdicts: Vec<Verdict> = items
            .iter()
            .map(|item| match item {
                Err(reason) => Verdict::Rejected(reason.clone()),
                Ok(_) => Verdict::Duplicate,
            })
            .collect();
        for at in order {
            let place = places.get(&at).copied();
            if let (Ok(item), Some(place)) = (&items[at], place) {
                verdicts[at] = self.past(item, place).await?;
            }
        }
        let done = staged.iter().zip(&verdicts);
        let done = done.filter_map(|(staged, verdict)| staged.filter(|_| !matches!(verdict, Verdict::Missing(_))));
        self.work().out.rows.staged_done.extend(done);
        self.work().close_holes();
        Ok(verdicts)
    }

    /// Gives every event that is new to the timeline its place. `order`: oldest first.
    async fn places(&mut self, items: &[Parsed], order: &[usize]) -> Outcome<HashMap<usize, Place>> {
        let work = self.work();
        let mut holes: HashMap<&OwnedEventId, Option<i64>> = HashMap::new();
        let mut by_hole: HashMap<Option<i64>, Vec<usize>> = HashMap::new();
        // From child to parent: what lies behind an event belongs into the same hole.
        for at in order.iter().rev() {
            let Ok(item) = &items[*at] else { continue };
            let id = &item.pdu.event_id;
            let known = work.stored.get(id);
            if known.is_some_and(|event| event.status != Status::Outlier) {
                continue;
            }
            let gap = work.room.gaps.get(id).map(|gap| gap.hole);
            let hole = gap.or_else(|| holes.get(id).copied()).unwrap_or_default();
            item.pdu.prev_events.iter().for_each(|id| {
                holes.entry(id).or_insert(hole);
            });
            by_hole.entry(hole).or_default().push(*at);
        }
        let mut places = HashMap::new();
        for (hole, newest_first) in by_hole {
            let count = newest_first.len();
            let wide = i64::try_from(count).unwrap_or(i64::MAX);
            let taken = hole.and_then(|hole| self.work().take_from_hole(hole, wide));
            let highest = match taken {
                Some(lowest) => lowest + wide - 1,
                // Below everything: positions fall with age.
                None => -self.library.take_history(count).await?,
            };
            for (at, pos) in newest_first.into_iter().zip((i64::MIN..=highest).rev()) {
                let pos = StreamPos(pos);
                places.insert(at, Place { pos, hole });
            }
        }
        Ok(places)
    }

    async fn past(&mut self, item: &Item, place: Place) -> Outcome<Verdict> {
        let pdu = &item.pdu;
        let given = match &item.state_before {
            Some(ids) => match self.given(ids).await? {
                Ok(state) => Some(state),
                Err(missing) => return Ok(Verdict::Missing(missing)),
            },
            None => None,
        };
        if let Some(missing) = self.missing(pdu, given.is_some()) {
            return Ok(missing);
        }
        let before = self.state_before(pdu, given).await?;
        self.read_authorizing(item, &[&before]).await?;
        let (group, _) = self.group_of(&before).await?;
        let work = self.work();
        let event = |id: &ruma::EventId| work.stored.get(id).map(|event| event.pdu.clone());
        let state = |kind: &str, key: &str| before.get(&state_key(kind, key)).and_then(|id| event(id));
        let verdict = match ingest::check_past(pdu, &work.room.rules, event, state) {
            Ok(()) => Verdict::Accepted,
            Err(reason) => Verdict::Rejected(reason),
        };
        let unknown = work.unknown_parents(pdu);
        work.fill_gap(pdu);
        work.open_gaps(pdu, &unknown, place.hole);
        if verdict == Verdict::Accepted {
            work.after
                .insert(pdu.event_id.clone(), ingest::state_after(&before, pdu));
            work.enter_past(pdu, group, place.pos, &before)?;
        } else {
            work.after.insert(pdu.event_id.clone(), before);
            work.hide(pdu, Status::Rejected, Some(group))?;
        }
        Ok(verdict)
    }
}

impl Work {
    /// Stores an event at its place in the past.
    fn enter_past(&mut self, pdu: &Arc<Pdu>, group: StateGroupId, pos: StreamPos, before: &StateIds) -> Outcome<()> {
        let replaced = pdu.key().and_then(|key| before.get(&key));
        let replaced = replaced.and_then(|id| self.stored.get(id));
        let unsigned = replaced.map(|event| replaced_unsigned(event));
        let event = self.event_of(pdu, Status::Accepted, Some(group), Some(pos), unsigned)?;
        self.write(&event, true);
        replace(&mut self.room, &event);
        self.insert_into_tail(&event);
        let events = |id: &OwnedEventId| self.stored.get(id).map(|event| event.pdu.clone());
        let decisive = ["m.room.create", "m.room.power_levels"].map(|kind| {
            let id = before.get(&state_key(kind, ""));
            (kind, id.and_then(events))
        });
        let state = |kind: &str, _: &str| decisive.iter().find(|(name, _)| *name == kind)?.1.clone();
        self.redact(&event, state)?;
        self.redact_early(&event)
    }

    /// The tail of the timeline is without holes.
    fn insert_into_tail(&mut self, event: &Arc<StoredEvent>) {
        if event.pdu.is_dummy() {
            return;
        }
        let room = &mut self.room;
        let front = room.timeline.front().and_then(|front| front.pos);
        if !room.timeline_complete && front.is_none_or(|front| event.pos < Some(front)) {
            return;
        }
        let at = room.timeline.iter().rposition(|other| other.pos < event.pos);
        room.timeline.insert(at.map_or(0, |at| at + 1), event.clone());
        if room.timeline.len() > TIMELINE_TAIL {
            room.timeline.pop_front();
            room.timeline_complete = false;
        }
    }
}

/// The order in which events are placed: by depth, but none before a parent that is among them.
fn oldest_first(items: &[Parsed]) -> Vec<usize> {
    let pdus: Vec<(usize, &Pdu)> = items
        .iter()
        .enumerate()
        .filter_map(|(at, item)| Some((at, &*item.as_ref().ok()?.pdu)))
        .collect();
    let at: HashMap<&OwnedEventId, usize> = pdus.iter().map(|(at, pdu)| (&pdu.event_id, *at)).collect();
    let mut waits_for: HashMap<usize, usize> = HashMap::new();
    let mut followed_by: HashMap<usize, Vec<usize>> = HashMap::new();
    for (child, pdu) in &pdus {
        for parent in pdu.prev_events.iter().filter_map(|id| at.get(id)) {
            *waits_for.entry(*child).or_default() += 1;
            followed_by.entry(*parent).or_default().push(*child);
        }
    }
    let depths: HashMap<usize, i64> = pdus.iter().map(|(at, pdu)| (*at, pdu.depth)).collect();
    let ready = pdus.iter().filter(|(at, _)| !waits_for.contains_key(at));
    let mut ready: BinaryHeap<Reverse<(i64, usize)>> = ready.map(|(at, pdu)| Reverse((pdu.depth, *at))).collect();
    let mut order = Vec::with_capacity(pdus.len());
    while let Some(Reverse((_, at))) = ready.pop() {
        order.push(at);
        for child in followed_by.get(&at).into_iter().flatten() {
            let Some(left) = waits_for.get_mut(child) else { continue };
            *left -= 1;
            if *left == 0 {
                ready.push(Reverse((depths[child], *child)));
            }
        }
    }
    order
}
