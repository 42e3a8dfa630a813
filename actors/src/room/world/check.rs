//! The end of a run: peace, and then the questions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruma::OwnedEventId;
use serde_json::value::to_raw_value;

use super::book;
use super::memory::Fate;
use super::net::{Net, USERS};
use super::resolution::{States, Truth};
use super::server::Server;
use crate::room::commands::Draft;
use crate::room::event::{Status, StoredEvent};
use crate::room::resolve::state_key;

/// How often everybody speaks before all must agree.
const ROUNDS: usize = 8;
/// How often everybody then asks for what is missing of the past.
const HISTORY: usize = 3;

impl Net {
    /// Nothing fails any more, and everybody says something, until all agree.
    pub(super) fn settle(&mut self) {
        self.unblock();
        self.servers.iter().for_each(|server| server.set_fate(Fate::Lives));
        self.run_out();
        for _ in 0..ROUNDS {
            self.unblock();
            self.return_lost();
            for nth in 0..self.servers.len() * USERS {
                self.speak(nth);
            }
            if self.disagreement().is_none() {
                break;
            }
        }
        for at in 0..self.servers.len() {
            (0..HISTORY).for_each(|_| self.fetch_history(at));
            self.run_out();
        }
        self.check_rest();
    }

    fn speak(&mut self, nth: usize) {
        let at = nth % self.servers.len();
        let user = self.user(nth);
        if self.servers[at].joined().is_none() {
            return;
        }
        let content = to_raw_value(&serde_json::json!({ "body": "here" })).expect("JSON");
        let spoken = self.servers[at].append(Draft::message(user, "m.room.message", content, None));
        assert!(spoken.is_ok(), "nobody dies any more");
        self.tell(at);
        self.run_out();
    }

    /// A join whose answer never came is tried again, as servers do.
    fn return_lost(&mut self) {
        for at in 0..self.servers.len() {
            let name = &self.servers[at].name;
            let others = self.servers.iter().filter_map(Server::joined);
            let believed = others.clone().any(|room| room.joined_servers.contains(name));
            if believed && self.servers[at].joined().is_none() {
                for user in 0..USERS {
                    if self.join(at, user) {
                        break;
                    }
                }
                self.run_out();
            }
        }
    }

    /// Two servers that are in the room by each other's account and see it differently.
    fn disagreement(&self) -> Option<String> {
        for a in self.servers.iter().filter(|server| server.joined().is_some()) {
            for b in self.servers.iter().filter(|server| server.joined().is_some()) {
                let sees =
                    |a: &Server, b: &Server| a.joined().is_some_and(|room| room.joined_servers.contains(&b.name));
                if !(sees(a, b) && sees(b, a)) {
                    continue;
                }
                if a.ends() != b.ends() {
                    return Some(format!(
                        "extremities: {} {:?}, {} {:?}",
                        a.name,
                        a.ends(),
                        b.name,
                        b.ends()
                    ));
                }
                if a.state() != b.state() {
                    return Some(format!("{} and {} have another state each", a.name, b.name));
                }
            }
        }
        None
    }

    pub(super) fn check(&mut self) {
        assert_eq!(self.disagreement(), None);
        self.servers.iter_mut().for_each(Server::check_rebuilt);
        let truth = Truth::of(&self.rules, &self.published);
        let forked = truth.standing.iter().filter(|(id, standing)| {
            let parents = &self.published[*id].prev_events;
            parents.len() > 1 && parents.iter().any(|id| truth.standing[id].after != standing.before)
        });
        let resolutions = forked.count();
        let forks = self.published.values().filter(|pdu| pdu.prev_events.len() > 1).count();
        for server in self.servers.iter().filter(|server| server.room.is_some()) {
            check_kept(server);
            check_events(server, &truth);
            check_current(server, &truth);
            check_redactions(server, &truth, self);
        }
        *self.seen.entry("resolutions").or_default() += resolutions;
        *self.seen.entry("forks").or_default() += forks;
        *self.seen.entry("events").or_default() += self.published.len();
    }
}

fn ids(state: &BTreeMap<crate::room::snapshot::StateKey, Arc<StoredEvent>>) -> States {
    let entries = state.iter();
    entries
        .map(|(key, event)| (key.clone(), event.pdu.event_id.clone()))
        .collect()
}

/// What somebody was told is taken is in the room for good, whoever died.
fn check_kept(server: &Server) {
    for id in &server.acknowledged {
        let event = server.memory.event(id);
        let kept = event.is_some_and(|event| event.state_group.is_some());
        assert!(kept, "{} has lost {id}, which it had taken", server.name);
    }
}

/// What is stored of every event is what is true of it.
fn check_events(server: &Server, truth: &Truth<'_>) {
    for event in server.memory.everything() {
        let id = &event.pdu.event_id;
        let standing = &truth.standing[id];
        if event.status == Status::Outlier {
            continue;
        }
        let Some(group) = event.state_group else {
            assert!(
                standing.rejected.is_some(),
                "{id} is an outlier of {} that is rejected",
                server.name
            );
            continue;
        };
        let rejected = event.status == Status::Rejected;
        assert_eq!(
            rejected,
            standing.rejected.is_some(),
            "{} has {id} as {:?}, and truly: {:?}",
            server.name,
            event.status,
            standing.rejected
        );
        assert_eq!(
            ids(&server.memory.state_at(group)),
            standing.before,
            "the state before {id} on {}",
            server.name
        );
    }
}

/// The current state is that after the forward extremities.
fn check_current(server: &Server, truth: &Truth<'_>) {
    let Some(room) = server.joined() else { return };
    let states: Vec<States> = room
        .extremities
        .iter()
        .map(|end| truth.standing[&end.event_id].after.clone())
        .collect();
    let current: States = server.state().into_iter().collect();
    assert_eq!(current, truth.resolve(&states), "the current state of {}", server.name);
    check_ends(server, true);
}

/// Forward extremities are accepted, and nothing accepted follows them. What is fetched of the past changes nothing about them, so
/// only `at_rest`, when everybody has spoken, all counts.
pub(super) fn check_ends(server: &Server, at_rest: bool) {
    let Some(room) = server.joined() else { return };
    let events = server.memory.everything();
    let accepted = events.iter().filter(|event| event.status == Status::Accepted);
    let mut followed: BTreeSet<OwnedEventId> = BTreeSet::new();
    let mut open: Vec<Arc<StoredEvent>> = accepted.cloned().collect();
    let order = |event: &StoredEvent| server.order.get(&event.pdu.event_id);
    while let Some(child) = open.pop() {
        for parent in child.pdu.prev_events.iter().filter_map(|id| server.memory.event(id)) {
            let was_first = order(&parent)
                .zip(order(&child))
                .is_some_and(|(parent, child)| parent < child);
            let is_refused = matches!(parent.status, Status::SoftFailed | Status::Rejected);
            let is_new = (at_rest || was_first) && followed.insert(parent.pdu.event_id.clone());
            // What refused events follow is followed by those behind them, if they were there first.
            if is_new && is_refused && was_first {
                open.push(parent);
            }
        }
    }
    for end in room.extremities.iter() {
        let event = server.memory.event(&end.event_id).expect("stored");
        assert_eq!(
            event.status,
            Status::Accepted,
            "{} is a forward extremity",
            end.event_id
        );
        assert!(
            !followed.contains(&end.event_id),
            "{} is followed by others",
            end.event_id
        );
    }
}

/// Redactions have pruned what they may prune, and nothing else.
fn check_redactions(server: &Server, truth: &Truth<'_>, net: &Net) {
    let events = server.memory.everything();
    let shown = |event: &&Arc<StoredEvent>| event.status == Status::Accepted && event.pos.is_some();
    let (mut due, mut open): (BTreeSet<&OwnedEventId>, BTreeSet<&OwnedEventId>) = Default::default();
    for redaction in events.iter().filter(shown) {
        let original = &truth.events[&redaction.pdu.event_id];
        let Some(target) = original.redacts.as_ref().and_then(|id| truth.events.get(id)) else {
            continue;
        };
        let before = &truth.standing[&redaction.pdu.event_id].before;
        let state = |kind: &str, key: &str| truth.events.get(before.get(&state_key(kind, key))?).cloned();
        if !book::prunes(original, target, &net.rules, &state) {
            continue;
        }
        // A redaction that came after it had been redacted itself does not tell what it redacts.
        if redaction.pdu.redacts.is_some() {
            due.insert(&target.event_id);
        } else {
            open.insert(&target.event_id);
        }
    }
    let decided = |event: &&Arc<StoredEvent>| {
        let id = &event.pdu.event_id;
        due.contains(id) || !open.contains(id)
    };
    for event in events.iter().filter(shown).filter(decided) {
        assert_eq!(
            event.redacted_by.is_some(),
            due.contains(&event.pdu.event_id),
            "{} on {}: is it pruned, must it be?",
            event.pdu.event_id,
            server.name
        );
    }
}
