//! What servers ask each other for: joins, events in between, states, history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruma::OwnedEventId;
use serde_json::json;
use serde_json::value::to_raw_value;

use super::net::Net;
use super::server::{Died, Server, Staged};
use crate::room::commands::{Backfill, Draft, Import, Incoming, Ingest, Verdict};
use crate::room::event::Pdu;
use crate::room::fault::{Rule, is_broken};

/// Events in between whose state may be asked for.
const MAX_ROOTS: usize = 3;
/// Requests for events in between.
const MAX_ROUNDS: usize = 10;
/// Events that are asked for where none may be left out.
const MANY: usize = 50;

impl Net {
    /// A user of a server whose users are not in the room joins by way of another server.
    pub(super) fn join(&mut self, at: usize, user: usize) -> bool {
        let user = self.servers[at].users(user);
        let first = self.pick(self.servers.len());
        let count = self.servers.len();
        for nth in 0..count {
            let host = (first + nth) % count;
            if self.hears(at, host) && self.join_by(at, host, &user) {
                return true;
            }
            // It may have died when it was in.
            if self.servers[at].joined().is_some() {
                return true;
            }
        }
        false
    }

    fn join_by(&mut self, at: usize, host: usize, user: &ruma::UserId) -> bool {
        let Some(room) = self.servers[host].joined().cloned() else {
            return false;
        };
        let mut content = json!({ "membership": "join" });
        let mut way = "joined from outside";
        let rule = room.state_event("m.room.join_rules", "");
        if rule.is_some_and(|rule| rule.pdu.content.get().contains("restricted")) {
            content["join_authorised_via_users_server"] = json!(room.local_joined[0]);
            way = "joined a restricted room";
        }
        let content = to_raw_value(&content).expect("JSON");
        let draft = Draft::state(user.to_owned(), "m.room.member", user.as_str(), content);
        let Some(template) = self.servers[host].template(&draft) else {
            return false;
        };
        let join = Arc::new(self.servers[at].seal(template, self.version));
        self.published.insert(join.event_id.clone(), join.clone());
        let relayed = Incoming {
            relay: true,
            ..Incoming::of(&join)
        };
        let taken = self.take_in(host, vec![relayed], Vec::new());
        self.tell(host);
        if taken.ok() != Some(vec![Verdict::Accepted]) {
            return false;
        }
        let stored = self.servers[host].memory.event(&join.event_id).expect("accepted");
        let state = self.servers[host].state_before(&stored).expect("accepted");
        let needed = state.iter().chain(&join.auth_events).cloned();
        let import = Import {
            version: self.version.to_owned(),
            events: self.servers[host]
                .with_chains(needed)
                .iter()
                .map(|event| Server::incoming(event))
                .collect(),
            state,
            join: Incoming::of(&join),
            partial: None,
        };
        let ended = self.servers[at].import(import, &join);
        let (at_name, id) = (self.servers[at].name.clone(), join.event_id.clone());
        self.say(|| format!("{at_name} joins by s{host} with {id}: {ended:?}"));
        self.note(way);
        self.tell(at);
        ended.is_ok()
    }

    /// Whom a server can ask about an event, the one who sent it first.
    fn whom(&self, at: usize, staged: &Staged) -> Vec<usize> {
        let all = [staged.from].into_iter().chain(0..self.servers.len());
        let mut whom = Vec::new();
        for peer in all {
            if self.hears(at, peer) && self.servers[peer].room.is_some() && !whom.contains(&peer) {
                whom.push(peer);
            }
        }
        whom
    }

    /// Fetches what has to come before an event, from one after the other, and takes all of it in.
    pub(super) fn fill(&mut self, at: usize, staged: &Staged) -> Result<Verdict, Died> {
        if is_broken(Rule::Gaps) {
            return Ok(Verdict::Missing(Vec::new()));
        }
        for peer in self.whom(at, staged) {
            let Some(filled) = self.fill_from(at, peer, &staged.pdu) else {
                continue;
            };
            let last = filled.pdus.len() - 1;
            let verdict = self.take_in(at, filled.pdus, filled.outliers)?.swap_remove(last);
            if !matches!(verdict, Verdict::Missing(_)) {
                self.note("gap filled");
                return Ok(verdict);
            }
        }
        Ok(Verdict::Missing(Vec::new()))
    }

    /// What has to come before an event; the event comes last.
    fn fill_from(&self, at: usize, peer: usize, pdu: &Arc<Pdu>) -> Option<Ingest> {
        let (us, them) = (&self.servers[at], &self.servers[peer]);
        let mut line = BTreeMap::from([(pdu.event_id.clone(), pdu.clone())]);
        let unknown =
            |id: &OwnedEventId, line: &BTreeMap<OwnedEventId, Arc<Pdu>>| !line.contains_key(id) && !us.has_placed(id);
        let roots = |line: &BTreeMap<OwnedEventId, Arc<Pdu>>| -> Vec<OwnedEventId> {
            let open = line
                .values()
                .filter(|pdu| pdu.prev_events.iter().any(|id| unknown(id, line)));
            open.map(|pdu| pdu.event_id.clone()).collect()
        };
        // The state before an event is resolved from the one that is told and those after its known parents. Where that is
        // not what all parents make (room version 12), servers differ: such events are not asked about here.
        let is_mixed = |line: &BTreeMap<OwnedEventId, Arc<Pdu>>| {
            let mixed = |pdu: &Arc<Pdu>| {
                let missing = pdu.prev_events.iter().filter(|id| unknown(id, line)).count();
                missing > 0 && missing < pdu.prev_events.len()
            };
            line.values().any(mixed)
        };
        let rounds = self.pick(4);
        for round in 0..MAX_ROUNDS {
            if round >= rounds && !is_mixed(&line) {
                break;
            }
            let latest = roots(&line);
            let limit = if round < rounds { 1 + self.pick(5) } else { MANY };
            let found = them.missing_events(&us.ends(), &latest, limit);
            let found = found.into_iter().filter(|event| !us.has_placed(&event.pdu.event_id));
            line.extend(found.map(|event| (event.pdu.event_id.clone(), event.pdu.clone())));
        }
        if roots(&line).len() > MAX_ROOTS {
            line.retain(|id, _| *id == pdu.event_id);
        }
        if is_mixed(&line) {
            return None;
        }
        let mut outside = BTreeSet::new();
        let mut states: BTreeMap<OwnedEventId, Arc<[OwnedEventId]>> = BTreeMap::new();
        for id in roots(&line) {
            let state = them.state_before(&*them.memory.event(&id)?)?;
            outside.extend(state.iter().cloned());
            states.insert(id, Arc::from(state));
        }
        outside.extend(line.values().flat_map(|pdu| pdu.auth_events.iter().cloned()));
        let chain = them.with_chains(outside);
        let new = |id: &OwnedEventId| us.memory.event(id).is_none();
        let outliers = chain.iter().filter(|event| new(&event.pdu.event_id));
        let outliers = outliers.map(|event| Server::incoming(event)).collect();
        let incoming = |pdu: &Arc<Pdu>| Incoming {
            state_before: states.get(&pdu.event_id).cloned(),
            ..Incoming::of(pdu)
        };
        Some(Ingest {
            pdus: parents_first(&line, &pdu.event_id).iter().map(incoming).collect(),
            outliers,
        })
    }

    /// A server fetches some of the history that it lacks.
    pub(super) fn fetch_history(&mut self, at: usize) {
        let Some(room) = self.servers[at].joined().cloned() else {
            return;
        };
        let first = self.pick(self.servers.len());
        let peer = (0..self.servers.len()).map(|nth| (first + nth) % self.servers.len());
        let mut peers = peer.filter(|peer| self.hears(at, *peer) && self.servers[*peer].joined().is_some());
        let Some(peer) = peers.next() else { return };
        let (us, them) = (&self.servers[at], &self.servers[peer]);
        let placed = |id: &&OwnedEventId| them.has_placed(id);
        let latest: Vec<OwnedEventId> = room.gaps.keys().filter(placed).cloned().collect();
        if latest.is_empty() {
            return;
        }
        let mut found = them.missing_events(&us.ends(), &latest, self.pick(4));
        found.extend(latest.iter().filter_map(|id| them.memory.event(id)));
        found.retain(|event| !us.has_placed(&event.pdu.event_id));
        let mut outside = BTreeSet::new();
        let mut events = Vec::new();
        for event in &found {
            let Some(state) = them.state_before(event) else {
                continue;
            };
            outside.extend(state.iter().chain(&event.pdu.auth_events).cloned());
            let known = |id: &OwnedEventId| us.has_placed(id) || found.iter().any(|other| other.pdu.event_id == *id);
            let incoming = Server::incoming(event);
            let known = event.pdu.prev_events.iter().filter(|id| known(id)).count();
            if known == event.pdu.prev_events.len() {
                events.push(incoming);
            } else if known == 0 {
                events.push(incoming.with_state(Arc::from(state)));
            }
        }
        let chain = them.with_chains(outside);
        let outliers = chain
            .iter()
            .filter(|event| us.memory.event(&event.pdu.event_id).is_none());
        let outliers = outliers.map(|event| Server::incoming(event)).collect();
        let ids: Vec<OwnedEventId> = events.iter().map(|event| event.event_id.clone()).collect();
        let ended = self.servers[at].backfill(Backfill { events, outliers });
        let name = self.servers[at].name.clone();
        self.say(|| format!("{name} fetches {ids:?}: {ended:?}"));
        self.note("history fetched");
        self.tell(at);
    }
}

/// What an event follows within the line, parents first.
fn parents_first(line: &BTreeMap<OwnedEventId, Arc<Pdu>>, last: &OwnedEventId) -> Vec<Arc<Pdu>> {
    fn visit(
        line: &BTreeMap<OwnedEventId, Arc<Pdu>>,
        id: &OwnedEventId,
        seen: &mut BTreeSet<OwnedEventId>,
        sorted: &mut Vec<Arc<Pdu>>,
    ) {
        let Some(pdu) = line.get(id) else { return };
        if seen.insert(id.clone()) {
            pdu.prev_events.iter().for_each(|id| visit(line, id, seen, sorted));
            sorted.push(pdu.clone());
        }
    }
    let (mut seen, mut sorted) = (BTreeSet::new(), Vec::new());
    visit(line, last, &mut seen, &mut sorted);
    sorted
}
