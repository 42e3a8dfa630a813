//! The servers, the network between them and the time: everything follows from the steps and one generator.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ruma::OwnedEventId;
use ruma::room_version_rules::RoomVersionRules;
use serde_json::value::to_raw_value;

use super::book;
use super::check::check_ends;
use super::server::{Died, Server, Staged};
use crate::rng::Rng;
use crate::room::commands::{Draft, Incoming, Ingest, Verdict};
use crate::room::event::Pdu;
use crate::room::rules::rules_of;
use crate::stream::fact::FactKind;

/// Users of each server.
pub(super) const USERS: usize = 2;
/// Longest way of a message, milliseconds.
const SLOW: u64 = 400;
/// Before another attempt, milliseconds.
const AGAIN: i64 = 700;
/// More than a run takes.
const MAX_MESSAGES: usize = 20_000;
/// How often a server tries in peace to find a place for what is stuck.
const MAX_IDLE: usize = 12;

/// What happens next.
enum Message {
    /// Events reach a server.
    Events {
        from: usize,
        to: usize,
        pdus: Vec<Arc<Pdu>>,
    },
    /// A server sends what waits.
    Send { from: usize, to: usize },
    /// A server works on what it was given.
    Work { at: usize },
}

pub(super) struct Net {
    pub rng: Rng,
    pub version: &'static str,
    pub rules: Arc<RoomVersionRules>,
    pub servers: Vec<Server>,
    /// Every event that was ever made, as it was made.
    pub published: BTreeMap<OwnedEventId, Arc<Pdu>>,
    clock: Arc<AtomicI64>,
    /// By time, then in the order in which they were put there.
    queue: BTreeMap<(i64, u64), Message>,
    count: u64,
    /// What a server still has to tell another; survives crashes.
    outbox: BTreeMap<(usize, usize), Vec<Arc<Pdu>>>,
    /// How often a server has worked since something new came.
    idle: HashMap<usize, usize>,
    /// Until when two servers do not hear each other.
    blocked: HashMap<(usize, usize), i64>,
    /// Whether what happens is written down.
    talks: bool,
    /// What happened, for whoever looks into a failure.
    pub log: Vec<String>,
    /// How often each kind of thing happened.
    pub seen: BTreeMap<&'static str, usize>,
}

impl Net {
    pub(super) fn new(version: &'static str, seed: u64, talks: bool) -> Self {
        let rng = Rng::seeded(seed);
        let clock = Arc::new(AtomicI64::new(1_000_000));
        let count = 2 + usize::try_from(rng.below(3)).expect("small");
        let servers = (0..count).map(|nth| Server::new(&format!("s{nth}"), clock.clone(), rng.clone()));
        Self {
            servers: servers.collect(),
            version,
            rules: rules_of(version).expect("supported"),
            published: BTreeMap::new(),
            clock,
            queue: BTreeMap::new(),
            count: 0,
            outbox: BTreeMap::new(),
            idle: HashMap::new(),
            blocked: HashMap::new(),
            log: Vec::new(),
            seen: BTreeMap::new(),
            talks,
            rng,
        }
    }

    /// The room is made, and every server joins it.
    pub(super) fn begin(&mut self) {
        let creator = self.user(0);
        let state = |kind: &str, key: &str, content: serde_json::Value| {
            Draft::state(creator.clone(), kind, key, to_raw_value(&content).expect("JSON"))
        };
        let mut users = serde_json::json!({ self.user(1).as_str(): 50 });
        if !self.rules.authorization.explicitly_privilege_room_creators {
            users[creator.as_str()] = serde_json::json!(100);
        }
        let drafts = vec![
            state(
                "m.room.member",
                creator.as_str(),
                serde_json::json!({ "membership": "join" }),
            ),
            state("m.room.power_levels", "", serde_json::json!({ "users": users })),
            state("m.room.join_rules", "", serde_json::json!({ "join_rule": "public" })),
        ];
        let mut creators = vec![creator.clone()];
        if self.rules.authorization.additional_room_creators && self.pick(2) == 0 {
            creators.push(self.user(2));
        }
        self.servers[0].create(self.version, &creators, drafts);
        self.tell(0);
        for nth in 1..self.servers.len() {
            self.join(nth, 0);
        }
    }

    /// The users of all servers, those of one after another.
    pub(super) fn user(&self, nth: usize) -> ruma::OwnedUserId {
        let servers = self.servers.len();
        self.servers[nth % servers].users(nth / servers % USERS)
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    pub(super) fn pick(&self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).expect("small")
    }

    pub(super) fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(super) fn say(&mut self, text: impl FnOnce() -> String) {
        if self.talks {
            let now = self.now();
            self.log.push(format!("{now} {}", text()));
        }
    }

    fn put(&mut self, after: i64, message: Message) {
        self.count += 1;
        self.queue.insert((self.now() + after, self.count), message);
    }

    fn delay(&self) -> i64 {
        1 + i64::try_from(self.rng.below(SLOW)).expect("small")
    }

    pub(super) fn hears(&self, a: usize, b: usize) -> bool {
        let until = self.blocked.get(&(a.min(b), a.max(b)));
        a != b && until.is_none_or(|until| *until <= self.now())
    }

    pub(super) fn block(&mut self, a: usize, b: usize, millis: i64) {
        let until = self.now() + millis;
        self.blocked.insert((a.min(b), a.max(b)), until);
    }

    /// Everybody hears everybody, and tries once more what was in vain.
    pub(super) fn unblock(&mut self) {
        self.blocked.clear();
        self.idle.clear();
        for at in 0..self.servers.len() {
            self.put(0, Message::Work { at });
        }
    }

    /// What a server has not told another is lost, but for the last of it.
    pub(super) fn lose(&mut self, from: usize, to: usize) {
        if let Some(waiting) = self.outbox.get_mut(&(from, to)) {
            // Nobody else has what was forged in a server's name.
            let own = |pdu: &Arc<Pdu>| pdu.sender.server_name() == self.servers[to].name;
            let last = waiting.last().map(|pdu| pdu.event_id.clone());
            waiting.retain(|pdu| own(pdu) || Some(&pdu.event_id) == last.as_ref());
        }
    }

    /// Passes on what a server has committed.
    pub(super) fn tell(&mut self, from: usize) {
        for fact in self.servers[from].memory.take_facts() {
            let FactKind::Event { event, servers, .. } = fact.kind else {
                continue;
            };
            let id = &event.pdu.event_id;
            let pdu = self
                .published
                .entry(id.clone())
                .or_insert_with(|| event.pdu.clone())
                .clone();
            for to in 0..self.servers.len() {
                if servers.contains(&self.servers[to].name) {
                    self.send(from, to, pdu.clone());
                }
            }
        }
    }

    /// Puts an event into the way from one server to another.
    pub(super) fn send(&mut self, from: usize, to: usize, pdu: Arc<Pdu>) {
        self.published
            .entry(pdu.event_id.clone())
            .or_insert_with(|| pdu.clone());
        self.outbox.entry((from, to)).or_default().push(pdu);
        let delay = self.delay();
        self.put(delay, Message::Send { from, to });
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, millis: i64) {
        let end = self.now() + millis;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), message) = entry.remove_entry();
            self.clock.fetch_max(at, Ordering::Relaxed);
            self.happen(message);
        }
        self.clock.fetch_max(end, Ordering::Relaxed);
    }

    /// Lets everything happen that is under way.
    pub(super) fn run_out(&mut self) {
        for _ in 0..MAX_MESSAGES {
            let Some(((at, _), message)) = self.queue.pop_first() else {
                return;
            };
            self.clock.fetch_max(at, Ordering::Relaxed);
            self.happen(message);
        }
        panic!("the servers never come to rest");
    }

    fn happen(&mut self, message: Message) {
        match message {
            Message::Send { from, to } => self.transact(from, to),
            Message::Events { from, to, pdus } => {
                if !self.hears(from, to) {
                    self.note("not heard");
                    return;
                }
                // The answer is lost now and then: they will come again.
                if self.pick(8) == 0 {
                    self.note("answer lost");
                    self.put(AGAIN, Message::Send { from, to });
                } else if let Some(waiting) = self.outbox.get_mut(&(from, to)) {
                    waiting.retain(|other| pdus.iter().all(|pdu| pdu.event_id != other.event_id));
                }
                let server = &mut self.servers[to];
                if server.room.is_some() {
                    server.staged.extend(pdus.into_iter().map(|pdu| Staged { from, pdu }));
                    let delay = self.delay();
                    self.idle.remove(&to);
                    self.put(delay, Message::Work { at: to });
                }
            }
            Message::Work { at } => {
                if self.work(at) == Err(Died) {
                    self.note("died");
                    self.tell(at);
                }
                // In peace, what nobody could help with some times is hopeless.
                let idle = self.idle.entry(at).or_default();
                *idle += usize::from(self.blocked.is_empty());
                if !self.servers[at].staged.is_empty() && *idle < MAX_IDLE {
                    self.put(AGAIN, Message::Work { at });
                }
            }
        }
    }

    /// Some of what waits sets out; what is not acknowledged sets out again.
    fn transact(&mut self, from: usize, to: usize) {
        let waiting = self.outbox.get(&(from, to)).cloned().unwrap_or_default();
        if waiting.is_empty() {
            return;
        }
        let count = 1 + self.pick(waiting.len());
        let first = self.pick(waiting.len() - count + 1);
        let mut pdus: Vec<Arc<Pdu>> = waiting[first..first + count].to_vec();
        if self.pick(4) == 0 {
            pdus.reverse();
            self.note("out of order");
        }
        let delay = self.delay();
        self.put(delay, Message::Events { from, to, pdus });
        self.put(AGAIN, Message::Send { from, to });
    }

    /// Works on what a server was given, some events at a time.
    fn work(&mut self, at: usize) -> Result<(), Died> {
        let mut stuck = Vec::new();
        while !self.servers[at].staged.is_empty() {
            let count = (1 + self.pick(4)).min(self.servers[at].staged.len());
            let batch: Vec<Staged> = self.servers[at].staged.iter().take(count).cloned().collect();
            let mut verdicts = self.take_in(
                at,
                batch.iter().map(|staged| Incoming::of(&staged.pdu)).collect(),
                Vec::new(),
            )?;
            for (nth, staged) in batch.iter().enumerate() {
                if matches!(verdicts[nth], Verdict::Missing(_)) {
                    verdicts[nth] = self.fill(at, staged)?;
                }
                if matches!(verdicts[nth], Verdict::Missing(_)) {
                    stuck.push(staged.clone());
                }
            }
            self.servers[at].staged.drain(..count);
        }
        self.servers[at].staged.extend(stuck);
        Ok(())
    }

    /// A server takes events; where it is one, the judgement on it is checked.
    pub(super) fn take_in(
        &mut self,
        at: usize,
        pdus: Vec<Incoming>,
        outliers: Vec<Incoming>,
    ) -> Result<Vec<Verdict>, Died> {
        let before = self.servers[at].state();
        let ids: Vec<OwnedEventId> = pdus.iter().map(|pdu| pdu.event_id.clone()).collect();
        let ended = self.servers[at].ingest(Ingest { pdus, outliers });
        let server = self.servers[at].name.clone();
        self.say(|| format!("{server} takes {ids:?}: {ended:?}"));
        let verdicts = ended?;
        for verdict in &verdicts {
            self.note(match verdict {
                Verdict::Accepted => "accepted",
                Verdict::SoftFailed => "soft-failed",
                Verdict::Rejected(_) => "rejected",
                Verdict::Duplicate => "duplicate",
                Verdict::Missing(_) => "missing",
            });
        }
        if let ([id], [verdict @ (Verdict::Accepted | Verdict::SoftFailed)]) = (&*ids, &*verdicts) {
            let event = |id: &OwnedEventId| self.published.get(id).cloned();
            let state = |kind: &str, key: &str| before.get(&crate::room::resolve::state_key(kind, key)).and_then(event);
            let allowed = book::allowed(&self.published[id], &self.rules, &state);
            assert_eq!(
                allowed.is_ok(),
                *verdict == Verdict::Accepted,
                "{id} by the current state of {server}: {allowed:?}"
            );
        }
        check_ends(&self.servers[at], false);
        self.tell(at);
        Ok(verdicts)
    }

    /// Whether nothing is left to be told or to be worked on.
    pub(super) fn check_rest(&self) {
        for server in &self.servers {
            let stuck: BTreeSet<&OwnedEventId> = server.staged.iter().map(|staged| &staged.pdu.event_id).collect();
            assert!(stuck.is_empty(), "{} never finds a place for {stuck:?}", server.name);
        }
    }
}
