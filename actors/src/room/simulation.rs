//! Several servers with one room in memory: events travel late and in any order, and in the end all must agree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ruma::OwnedEventId;
use ruma::room_version_rules::RoomVersionRules;
use ruma::signatures::PublicKeyMap;
use serde_json::{Value, json};

use super::commands::Verdict;
use super::event::Pdu;
use super::ingest::{Scene, choose_prev_events, missing, place};
use super::resolve::{EventMap, StateIds, needed_for_resolution, resolve_state, state_key};
use super::rules::rules_of;
use super::testing::{Origin, create, event, resolve_by_the_book};
use super::{auth, parse};
use crate::rng::Rng;

/// One server's view of the room.
struct Server {
    origin: Origin,
    rules: Arc<RoomVersionRules>,
    events: EventMap,
    after: HashMap<OwnedEventId, StateIds>,
    hidden: HashMap<OwnedEventId, Vec<OwnedEventId>>,
    followed: HashSet<OwnedEventId>,
    extremities: Vec<OwnedEventId>,
    current: StateIds,
    waiting: Vec<Arc<Pdu>>,
    verdicts: HashMap<OwnedEventId, Verdict>,
    /// How often the room's extremities disagreed.
    forks: usize,
}

impl Server {
    fn new(name: &str, rules: &Arc<RoomVersionRules>) -> Self {
        Self {
            origin: Origin::new(name),
            rules: rules.clone(),
            events: EventMap::new(),
            after: HashMap::new(),
            hidden: HashMap::new(),
            followed: HashSet::new(),
            extremities: Vec::new(),
            current: StateIds::new(),
            waiting: Vec::new(),
            verdicts: HashMap::new(),
            forks: 0,
        }
    }

    fn state(&self, kind: &str, key: &str) -> Option<Arc<Pdu>> {
        self.current
            .get(&state_key(kind, key))
            .and_then(|id| self.events.get(id))
            .cloned()
    }

    fn is_joined(&self, user: &str) -> bool {
        self.state("m.room.member", user)
            .and_then(|event| event.membership())
            .as_deref()
            == Some("join")
    }

    /// An event arrives; it waits while its parents are not here.
    fn receive(&mut self, pdu: &Arc<Pdu>) {
        self.waiting.push(pdu.clone());
        while let Some(at) = self
            .waiting
            .iter()
            .position(|pdu| missing(pdu, |id| self.after.contains_key(id)).is_empty())
        {
            let pdu = self.waiting.swap_remove(at);
            if !self.after.contains_key(&pdu.event_id) {
                self.put(&pdu);
            }
        }
    }

    fn put(&mut self, pdu: &Arc<Pdu>) {
        self.events.insert(pdu.event_id.clone(), pdu.clone());
        let placed = place(
            &Scene {
                rules: &self.rules,
                events: &self.events,
                given: None,
                after: &self.after,
                hidden: &self.hidden,
                extremities: &self.extremities,
                current: &self.current,
                has_children: self.followed.contains(&pdu.event_id),
            },
            pdu,
        )
        .expect("every event is here");
        self.check_prefetch(&placed.extremities, &placed.after, pdu);
        match &placed.verdict {
            Verdict::Accepted => self.followed.extend(pdu.prev_events.iter().cloned()),
            Verdict::Rejected(_) => {
                let rejected = Pdu {
                    rejected: true,
                    ..(**pdu).clone()
                };
                self.events.insert(pdu.event_id.clone(), Arc::new(rejected));
                self.hidden.insert(pdu.event_id.clone(), pdu.prev_events.clone());
            }
            _ => drop(self.hidden.insert(pdu.event_id.clone(), pdu.prev_events.clone())),
        }
        self.after.insert(pdu.event_id.clone(), placed.after);
        self.extremities = placed.extremities;
        self.current = placed.current;
        self.verdicts.insert(pdu.event_id.clone(), placed.verdict);
    }

    /// Resolution from nothing but what `needed_for_resolution` asks for gives what everything gives.
    fn check_prefetch(&mut self, extremities: &[OwnedEventId], after: &StateIds, pdu: &Pdu) {
        let state = |id: &OwnedEventId| {
            if *id == pdu.event_id {
                after.clone()
            } else {
                self.after[id].clone()
            }
        };
        let states: Vec<StateIds> = extremities.iter().map(state).collect();
        self.forks += usize::from(states.iter().any(|state| *state != states[0]));
        let mut fetched = EventMap::new();
        loop {
            let needed = needed_for_resolution(&self.rules, &states, &fetched, &HashSet::new());
            if needed.is_empty() {
                break;
            }
            fetched.extend(needed.into_iter().map(|id| (id.clone(), self.events[&id].clone())));
        }
        let all = resolve_state(&self.rules, &states, &self.events).expect("every event is here");
        let few = resolve_state(&self.rules, &states, &fetched).expect("enough was fetched");
        assert_eq!(
            all,
            few,
            "of {} events, {} were fetched",
            self.events.len(),
            fetched.len()
        );
        assert_eq!(all, resolve_by_the_book(&self.rules, &states, &self.events));
    }

    /// A new event of a local user after all extremities, if the room's state allows it.
    fn draft(&self, kind: &str, sender: &str, key: Option<&str>, content: Value, ts: i64, nth: usize) -> Option<Pdu> {
        let user = <&ruma::UserId>::try_from(sender).expect("a user");
        let raw = serde_json::value::to_raw_value(&content).expect("JSON");
        let keys = auth::auth_keys(kind, user, key, &raw, &self.rules).expect("enough content");
        let auth: Vec<Arc<Pdu>> = keys.iter().filter_map(|(kind, key)| self.state(kind, key)).collect();
        let prev = choose_prev_events(&self.extremities, |id| self.events[id].depth);
        let prev: Vec<&Pdu> = prev.into_iter().map(|id| &*self.events[id]).collect();
        let auth: Vec<&Pdu> = auth.iter().map(AsRef::as_ref).collect();
        let mut json = event(&self.rules, kind, sender, key, content, (&prev, &auth), ts);
        json["room_id"] = json!(prev.first()?.room_id.as_str());
        if self.rules.event_format.require_event_id {
            json["event_id"] = json!(format!("$n{nth}:{}", self.origin.name));
        }
        let pdu = self.origin.pdu(&json, &self.rules);
        auth::check_auth(&pdu, &self.rules, |kind, key| self.state(kind, key)).ok()?;
        Some(pdu)
    }
}

/// All servers, the clock they disagree about, and what has not arrived yet.
struct Net {
    rng: Rng,
    rules: Arc<RoomVersionRules>,
    keys: PublicKeyMap,
    servers: Vec<Server>,
    /// `(receiver, event)`
    travelling: Vec<(usize, Arc<Pdu>)>,
    /// Everything that was ever sent.
    published: Vec<Arc<Pdu>>,
    sent: usize,
}

const SERVERS: usize = 3;
const USERS: usize = 2;

/// The first server is called as the one is that other tests give these events.
fn server(nth: usize) -> String {
    ["x", "s1", "s2"][nth].to_owned()
}

fn user(nth: usize) -> String {
    format!("@u{}:{}", nth / SERVERS, server(nth % SERVERS))
}

impl Net {
    fn new(version: &str, seed: u64) -> Self {
        let rules = rules_of(version).expect("supported");
        let servers: Vec<Server> = (0..SERVERS).map(|nth| Server::new(&server(nth), &rules)).collect();
        let mut keys = PublicKeyMap::new();
        servers.iter().for_each(|server| server.origin.publish(&mut keys));
        let mut net = Self {
            rng: Rng::seeded(seed),
            rules,
            keys,
            servers,
            travelling: Vec::new(),
            published: Vec::new(),
            sent: 0,
        };
        let first = create(&net.servers[0].origin, &net.rules, version, &user(0));
        net.publish(0, first);
        let join = || json!({ "membership": "join" });
        net.send("m.room.member", 0, Some(&user(0)), join());
        let mut users = json!({ user(1): 50, user(2): 50 });
        if !net.rules.authorization.explicitly_privilege_room_creators {
            users[user(0)] = json!(100);
        }
        net.send("m.room.power_levels", 0, Some(""), json!({ "users": users }));
        net.send("m.room.join_rules", 0, Some(""), json!({ "join_rule": "public" }));
        net.deliver_all();
        for nth in 1..SERVERS * USERS {
            net.send("m.room.member", nth, Some(&user(nth)), join());
            if nth % 2 == 0 {
                net.deliver_all();
            }
        }
        net.deliver_all();
        net
    }

    fn pick(&self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).expect("small")
    }

    /// Checks the event as its receivers would, shows it to its sender and puts it on its way to the others.
    fn publish(&mut self, from: usize, pdu: Pdu) {
        let checked = parse::check_incoming(&pdu.json, &self.rules, &self.keys).expect("honest servers");
        assert!(!checked.redacted && checked.pdu.event_id == pdu.event_id);
        let pdu = Arc::new(checked.pdu);
        self.published.push(pdu.clone());
        self.servers[from].receive(&pdu);
        self.travelling
            .extend((0..SERVERS).filter(|to| *to != from).map(|to| (to, pdu.clone())));
    }

    fn send(&mut self, kind: &str, sender: usize, key: Option<&str>, content: Value) -> Option<OwnedEventId> {
        self.sent += 1;
        // Clocks go wrong by more than the time between events, and several events share a time.
        let ts = 1_000 + self.sent as i64 * 3 + self.rng.below(20) as i64;
        let from = sender % SERVERS;
        let pdu = self.servers[from].draft(kind, &user(sender), key, content, ts, self.sent)?;
        let id = pdu.event_id.clone();
        self.publish(from, pdu);
        Some(id)
    }

    fn act(&mut self) {
        let sender = self.pick(SERVERS * USERS);
        let other = user(self.pick(SERVERS * USERS));
        let me = user(sender);
        let member = |membership: &str| json!({ "membership": membership });
        match self.pick(12) {
            0..3 => self.send("m.room.message", sender, None, json!({ "body": "x" })),
            3 => self.send(
                "m.room.topic",
                sender,
                Some(""),
                json!({ "topic": format!("t{}", self.sent) }),
            ),
            4 => self.send(
                "m.room.name",
                sender,
                Some(""),
                json!({ "name": format!("n{}", self.sent) }),
            ),
            5 | 6 => {
                let current = self.servers[sender % SERVERS].state("m.room.power_levels", "");
                let mut levels: Value = current.map_or(json!({}), |event| {
                    serde_json::from_str(event.content.get()).expect("JSON")
                });
                levels["users"][other] = json!([0, 50, 75][self.pick(3)]);
                self.send("m.room.power_levels", sender, Some(""), levels)
            }
            7 => self.send("m.room.member", sender, Some(&other), member("ban")),
            8 => self.send("m.room.member", sender, Some(&other), member("leave")),
            9 => self.send("m.room.member", sender, Some(&me), member("join")),
            10 => self.send("m.room.member", sender, Some(&other), member("invite")),
            _ => {
                let rule = ["public", "invite"][self.pick(2)];
                self.send("m.room.join_rules", sender, Some(""), json!({ "join_rule": rule }))
            }
        };
    }

    fn deliver_one(&mut self) {
        if !self.travelling.is_empty() {
            let at = self.pick(self.travelling.len());
            let (to, pdu) = self.travelling.swap_remove(at);
            self.servers[to].receive(&pdu);
        }
    }

    fn deliver_all(&mut self) {
        while !self.travelling.is_empty() {
            self.deliver_one();
        }
        assert!(
            self.servers.iter().all(|server| server.waiting.is_empty()),
            "every parent has arrived"
        );
    }

    /// Each server whose users are joined says something that everybody hears at once: it follows all that the server
    /// has accepted.
    fn speak_up(&mut self) {
        for nth in 0..SERVERS * USERS {
            let server = &self.servers[nth % SERVERS];
            if server.is_joined(&user(nth)) {
                self.send("m.room.message", nth, None, json!({ "body": "here" }));
                self.deliver_all();
            }
        }
    }
}

/// What happened in a room, as its servers agree on it in the end.
pub struct History {
    /// In the order in which they were sent.
    pub events: Vec<Arc<Pdu>>,
    /// How many of them came before the servers agreed.
    pub wild: usize,
    /// The states after them.
    pub after: HashMap<OwnedEventId, StateIds>,
    /// Those that are not authorized.
    pub rejected: HashSet<OwnedEventId>,
    /// The forward extremities.
    pub extremities: HashSet<OwnedEventId>,
    /// The current state.
    pub current: StateIds,
}

/// A room that `@u0:x` made, with bad weather.
pub fn history(version: &str, seed: u64, steps: usize) -> History {
    let mut net = Net::new(version, seed);
    for _ in 0..steps {
        net.act();
        for _ in 0..net.pick(4) {
            net.deliver_one();
        }
    }
    net.deliver_all();
    let wild = net.published.len();
    net.speak_up();
    net.speak_up();
    let first = &net.servers[0];
    let rejected = first.verdicts.iter().filter(|(_, v)| matches!(v, Verdict::Rejected(_)));
    History {
        wild,
        after: first.after.clone(),
        rejected: rejected.map(|(id, _)| id.clone()).collect(),
        extremities: first.extremities.iter().cloned().collect(),
        current: first.current.clone(),
        events: net.published,
    }
}

/// Answers how many events were not accepted, and how many forks had to be resolved.
fn run(version: &str, seed: u64, steps: usize) -> (usize, usize) {
    let mut net = Net::new(version, seed);
    for _ in 0..steps {
        net.act();
        for _ in 0..net.pick(4) {
            net.deliver_one();
        }
    }
    net.deliver_all();
    let first = &net.servers[0];
    assert!(
        net.servers
            .iter()
            .all(|server| server.events.len() == first.events.len()),
        "all was exchanged"
    );
    // Same graph and same ends, same state, whatever the order of arrival.
    for server in &net.servers[1..] {
        let ends = |server: &Server| server.extremities.iter().cloned().collect::<HashSet<_>>();
        if ends(server) == ends(first) {
            assert_eq!(server.current, first.current, "room version {version}, seed {seed}");
        }
        for (id, state) in &server.after {
            assert_eq!(
                Some(state),
                first.after.get(id),
                "state after {id}, room version {version}, seed {seed}"
            );
        }
    }
    net.speak_up();
    net.speak_up();
    let first = &net.servers[0];
    for nth in 0..SERVERS * USERS {
        let server = &net.servers[nth % SERVERS];
        if first.is_joined(&user(nth)) || server.is_joined(&user(nth)) {
            assert_eq!(
                server.extremities, first.extremities,
                "room version {version}, seed {seed}"
            );
            assert_eq!(server.current, first.current, "room version {version}, seed {seed}");
        }
    }
    let refused = first
        .verdicts
        .values()
        .filter(|verdict| **verdict != Verdict::Accepted)
        .count();
    (refused, net.servers.iter().map(|server| server.forks).sum())
}

/// Runs a few seeds and demands that bad weather occurred at all.
fn check(version: &str) {
    let runs: Vec<(usize, usize)> = (1..=4).map(|seed| run(version, seed, 40)).collect();
    assert!(
        runs.iter().any(|(refused, _)| *refused > 0),
        "nothing was refused: the test is too tame"
    );
    assert!(
        runs.iter().all(|(_, forks)| *forks > 10),
        "the servers hardly disagreed: the test is too tame"
    );
}

#[test]
fn servers_agree_in_version_1() {
    check("1");
}

#[test]
fn servers_agree_in_version_2() {
    check("2");
}

#[test]
fn servers_agree_in_version_6() {
    check("6");
}

#[test]
fn servers_agree_in_version_10() {
    check("10");
}

#[test]
fn servers_agree_in_version_11() {
    check("11");
}

#[test]
fn servers_agree_in_version_12() {
    check("12");
}
