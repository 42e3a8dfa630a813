//! The events between what this server has and an event: `get_missing_events`, a few at a time.

use std::collections::{BTreeMap, HashSet};

use ruma::{OwnedEventId, ServerName};

use super::{Gap, MAX_ROOTS, ask, order};
use crate::error::Outcome;
use crate::room::event::Pdu;

/// Events asked for at once.
const PAGE: u32 = 20;
/// Events that one answer may hold; the rest is not looked at.
const MAX_ANSWER: usize = 100;
/// Events whose parents are asked for at once.
const MAX_LATEST: usize = 10;
/// Forward extremities that are named in a request.
const MAX_EARLIEST: usize = 20;

impl Gap<'_> {
    /// The event, and those before it that could be fetched, parents first. Its auth events may be missing as well as the
    /// parents of some.
    pub(super) async fn line(&mut self, event: &Pdu) -> Outcome<Vec<Pdu>> {
        let mut line = BTreeMap::from([(event.event_id.clone(), event.clone())]);
        for _ in 0..self.effort.rounds {
            let open = self.open_ends(&line).await?;
            if open.is_empty() {
                break;
            }
            let found = self.earlier(&line, open).await;
            let before = line.len();
            for pdu in found {
                line.entry(pdu.event_id.clone()).or_insert(pdu);
            }
            if line.len() == before {
                break;
            }
        }
        let roots = self.open_ends(&line).await?;
        if roots.len() > MAX_ROOTS {
            return Ok(vec![event.clone()]);
        }
        self.only_below(event, line)
    }

    /// The events of the line that lead into the unknown.
    async fn open_ends(&mut self, line: &BTreeMap<OwnedEventId, Pdu>) -> Outcome<Vec<OwnedEventId>> {
        self.look_up(line.values().flat_map(|pdu| &pdu.prev_events)).await?;
        let unknown = |id: &OwnedEventId| !self.is_placed(id) && !line.contains_key(id);
        let open = line.values().filter(|pdu| pdu.prev_events.iter().any(unknown));
        Ok(open.map(|pdu| pdu.event_id.clone()).collect())
    }

    /// Events before `open` that are not known. Nobody has to have any.
    async fn earlier(&mut self, line: &BTreeMap<OwnedEventId, Pdu>, open: Vec<OwnedEventId>) -> Vec<Pdu> {
        let room = self.room.clone();
        let named = room.extremities.iter().take(MAX_EARLIEST);
        let earliest: Vec<OwnedEventId> = named.map(|end| end.event_id.clone()).collect();
        let latest: Vec<OwnedEventId> = open.into_iter().take(MAX_LATEST).collect();
        // What lies before the newest events of the room branched off long ago: its state is asked for instead.
        let min_depth = match room.timeline_complete {
            true => 0,
            false => room.timeline.iter().map(|event| event.pdu.depth).min().unwrap_or(0),
        };
        for server in self.servers.clone() {
            let ends = (earliest.clone(), latest.clone());
            let asked = ask::missing_events(self.hub, &server, &room.room_id, ends, (PAGE, min_depth)).await;
            match self.fresh(&server, asked, line).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return found,
                // The next one may help, or the state does.
                Err(error) => self.note(&server, &error),
            }
        }
        Vec::new()
    }

    /// What is good and new of an answer.
    async fn fresh(
        &mut self,
        server: &ServerName,
        answer: Outcome<ask::Raw>,
        line: &BTreeMap<OwnedEventId, Pdu>,
    ) -> Outcome<Vec<Pdu>> {
        let mut raw = answer?;
        raw.truncate(MAX_ANSWER);
        let mut found = self.check(server, raw).await?;
        self.look_up(found.iter().map(|pdu| &pdu.event_id)).await?;
        found.retain(|pdu| !self.is_placed(&pdu.event_id) && !line.contains_key(&pdu.event_id));
        Ok(found)
    }

    /// The part of the line that the event follows: nobody asked for anything else.
    fn only_below(&self, event: &Pdu, mut line: BTreeMap<OwnedEventId, Pdu>) -> Outcome<Vec<Pdu>> {
        let mut below = HashSet::from([event.event_id.clone()]);
        let mut open = vec![event];
        while let Some(pdu) = open.pop() {
            for id in &pdu.prev_events {
                if let Some(parent) = line.get(id).filter(|_| !below.contains(id)) {
                    below.insert(id.clone());
                    open.push(parent);
                }
            }
        }
        line.retain(|id, _| below.contains(id));
        Ok(order::parents_first(line.into_values().collect(), |pdu| pdu))
    }
}
