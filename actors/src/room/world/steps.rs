//! What happens to a room, one step after the other. Each step carries its own numbers, so that a run without some of its
//! steps is a run as well: failures are shrunk that way.

use std::sync::Arc;

use entities::ids::{EventNid, RoomNid};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use super::memory::Fate;
use super::net::Net;
use super::server::Died;
use crate::rng::Rng;
use crate::room::commands::Draft;
use crate::room::event::{Pdu, Status, StoredEvent};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Say,
    Topic,
    Name,
    Levels,
    JoinRule,
    Join,
    Leave,
    Kick,
    Ban,
    Invite,
    Knock,
    Redact,
    /// Something is said, taken back, and both are lost but for the last.
    Retract,
    /// The room is replaced by another.
    Tombstone,
    /// An event that its own server would refuse.
    Forge,
    /// An event that follows an old one.
    Stale,
    /// An event that names the wrong auth events.
    Misquote,
    /// An event that an old state authorizes.
    Outdated,
    /// A bad event, and one that follows it.
    Behind,
    Partition,
    DieBefore,
    DieAfter,
    Restart,
    Lose,
    FetchHistory,
    Wait,
}

/// How often each kind of step comes.
const OFTEN: &[(Kind, usize)] = &[
    (Kind::Say, 8),
    (Kind::Topic, 4),
    (Kind::Name, 3),
    (Kind::Levels, 6),
    (Kind::JoinRule, 4),
    (Kind::Join, 6),
    (Kind::Leave, 3),
    (Kind::Kick, 3),
    (Kind::Ban, 4),
    (Kind::Invite, 4),
    (Kind::Knock, 2),
    (Kind::Redact, 4),
    (Kind::Retract, 3),
    (Kind::Tombstone, 1),
    (Kind::Forge, 3),
    (Kind::Stale, 4),
    (Kind::Misquote, 3),
    (Kind::Outdated, 5),
    (Kind::Behind, 4),
    (Kind::Partition, 5),
    (Kind::DieBefore, 2),
    (Kind::DieAfter, 2),
    (Kind::Restart, 2),
    (Kind::Lose, 4),
    (Kind::FetchHistory, 2),
    (Kind::Wait, 3),
];

impl Kind {
    /// How often users did this is counted under this name.
    fn name(self) -> &'static str {
        match self {
            Self::Levels => "levels changed",
            Self::JoinRule => "join rule changed",
            Self::Join => "joined",
            Self::Leave => "left",
            Self::Kick => "kicked",
            Self::Ban => "banned",
            Self::Invite => "invited",
            Self::Knock => "knocked",
            Self::Redact => "redacted",
            Self::Tombstone => "upgraded",
            _ => "said",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub kind: Kind,
    pub a: usize,
    pub b: usize,
    /// How much time passes before the next step, milliseconds.
    pub pause: i64,
}

/// The steps of a run.
pub(super) fn steps(seed: u64, count: usize) -> Vec<Step> {
    let rng = Rng::seeded(seed ^ 0x5745_4154_4845_5221);
    let pick = |bound: usize| usize::try_from(rng.below(bound as u64)).expect("small");
    let all: usize = OFTEN.iter().map(|(_, often)| often).sum();
    let kind = || {
        let mut left = pick(all);
        let found = OFTEN.iter().find(|(_, often)| {
            let here = left < *often;
            left = left.saturating_sub(*often);
            here
        });
        found.expect("within the sum").0
    };
    let step = |_| Step {
        kind: kind(),
        a: pick(1_000),
        b: pick(1_000),
        pause: i64::try_from(rng.below(250)).expect("small"),
    };
    (0..count).map(step).collect()
}

fn refused(pdu: &Arc<Pdu>) -> StoredEvent {
    StoredEvent {
        nid: EventNid(0),
        room_nid: RoomNid(0),
        pos: None,
        state_group: None,
        status: Status::Rejected,
        redacted_by: None,
        txn: None,
        unsigned: None,
        pdu: pdu.clone(),
    }
}

fn member(membership: &str) -> Value {
    json!({ "membership": membership })
}

impl Net {
    pub(super) fn step(&mut self, step: &Step) {
        self.say(|| format!("{step:?}"));
        let (at, other) = (step.a % self.servers.len(), step.b % self.servers.len());
        match step.kind {
            Kind::Partition => {
                let millis = 200 + i64::try_from(step.b % 40 * 50).expect("small");
                self.block(at, other, millis);
            }
            Kind::DieBefore => self.servers[at].set_fate(Fate::DiesBefore),
            Kind::DieAfter => self.servers[at].set_fate(Fate::DiesAfter),
            Kind::Restart => self.servers[at].check_rebuilt(),
            Kind::Lose => self.lose(at, other),
            Kind::FetchHistory => self.fetch_history(at),
            Kind::Wait => self.run(1_000),
            Kind::Forge | Kind::Stale | Kind::Misquote | Kind::Outdated => self.cheat(step),
            Kind::Retract => self.retract(step),
            Kind::Behind => self.hide_behind(step),
            Kind::Join if self.servers[at].joined().is_none() => {
                self.join(at, step.b % super::net::USERS);
            }
            _ => self.act(step),
        }
        self.run(step.pause);
    }

    /// Something that a user does.
    fn act(&mut self, step: &Step) {
        let at = step.a % self.servers.len();
        let Some(draft) = self.draft(step) else { return };
        if self.servers[at].joined().is_none() {
            return;
        }
        let ended = self.servers[at].append(draft);
        if ended == Ok(true) {
            self.note("sent");
            self.note(step.kind.name());
        } else if ended == Err(Died) {
            self.note("died");
        }
        let name = self.servers[at].name.clone();
        self.say(|| format!("{name}: {ended:?}"));
        self.tell(at);
    }

    fn retract(&mut self, step: &Step) {
        let at = step.a % self.servers.len();
        for kind in [Kind::Say, Kind::Redact] {
            // Number 0 is the newest.
            self.act(&Step {
                kind,
                b: 0,
                ..step.clone()
            });
        }
        (0..self.servers.len()).for_each(|to| self.lose(at, to));
    }

    /// Whether others judge by what a redaction takes from the event, so that it depends on when they see it.
    fn is_needed_whole(&self, pdu: &Pdu) -> bool {
        let (auth, redaction) = (&self.rules.authorization, &self.rules.redaction);
        // Room version 8 forgets who authorised a join that is redacted, and so what it rests on.
        pdu.content.get().contains("join_authorised_via")
            || match &*pdu.kind.to_string() {
                "m.room.create" => true,
                "m.room.power_levels" => !redaction.keep_room_power_levels_invite,
                "m.room.redaction" => auth.special_case_room_redaction,
                _ => false,
            }
    }

    fn draft(&self, step: &Step) -> Option<Draft> {
        let sender = self.user(step.a);
        let other = self.user(step.b);
        let at = step.a % self.servers.len();
        let room = self.servers[at].room.as_ref()?;
        let state = |kind: &str, key: &str, content: Value| {
            Draft::state(sender.clone(), kind, key, to_raw_value(&content).expect("JSON"))
        };
        Some(match step.kind {
            Kind::Topic => state("m.room.topic", "", json!({ "topic": step.b })),
            Kind::Name => state("m.room.name", "", json!({ "name": step.b })),
            Kind::Levels => {
                let levels = room.state_event("m.room.power_levels", "")?;
                let mut levels: Value = serde_json::from_str(levels.pdu.content.get()).ok()?;
                match step.b % 9 {
                    0 => levels["events"]["m.room.name"] = json!(step.b % 3 * 40),
                    1 => levels["kick"] = json!(step.b % 4 * 25),
                    2 => levels["users_default"] = json!(step.b % 2 * 10),
                    3 => levels["invite"] = json!(step.b / 9 % 2 * 50),
                    4 => levels["notifications"]["room"] = json!(step.b / 9 % 3 * 50),
                    _ => levels["users"][other.as_str()] = json!([0, 50, 75, 100][step.b / 9 % 4]),
                }
                state("m.room.power_levels", "", levels)
            }
            Kind::JoinRule => {
                let auth = &self.rules.authorization;
                let mut rules = vec!["public", "invite"];
                rules.extend(auth.knocking.then_some("knock"));
                rules.extend(auth.restricted_join_rule.then_some("restricted"));
                rules.extend(auth.knock_restricted_join_rule.then_some("knock_restricted"));
                state(
                    "m.room.join_rules",
                    "",
                    json!({ "join_rule": rules[step.b % rules.len()] }),
                )
            }
            Kind::Tombstone => state(
                "m.room.tombstone",
                "",
                json!({ "body": step.b, "replacement_room": "!next:s0" }),
            ),
            Kind::Join => state("m.room.member", sender.as_str(), member("join")),
            Kind::Leave => state("m.room.member", sender.as_str(), member("leave")),
            Kind::Knock => state("m.room.member", sender.as_str(), member("knock")),
            Kind::Kick => state("m.room.member", other.as_str(), member("leave")),
            Kind::Ban => state("m.room.member", other.as_str(), member("ban")),
            Kind::Invite => state("m.room.member", other.as_str(), member("invite")),
            Kind::Redact => {
                let events = &room.timeline;
                // New ones are not everywhere yet.
                let all = events.len();
                let back = 1 + step.b / 2 % if step.b.is_multiple_of(2) { 3 } else { all.max(1) };
                let target = events.get(all.checked_sub(back)?)?;
                if self.is_needed_whole(&target.pdu) {
                    return None;
                }
                let content = to_raw_value(&json!({})).expect("JSON");
                Draft {
                    redacts: Some(target.pdu.event_id.clone()),
                    ..Draft::message(sender, "m.room.redaction", content, None)
                }
            }
            _ => {
                let content = to_raw_value(&json!({ "body": step.b })).expect("JSON");
                Draft::message(sender, "m.room.message", content, None)
            }
        })
    }

    /// A server sends what others must judge for themselves, not the same to all at the same time.
    fn cheat(&mut self, step: &Step) {
        let at = step.a % self.servers.len();
        let kinds = [
            Kind::Say,
            Kind::Levels,
            Kind::Ban,
            Kind::Kick,
            Kind::Join,
            Kind::JoinRule,
            Kind::Topic,
            Kind::Invite,
            Kind::Leave,
        ];
        let kind = kinds[step.b % kinds.len()];
        let cheat = step.clone();
        let step = Step {
            kind,
            b: step.b / kinds.len(),
            ..step.clone()
        };
        let Some(draft) = self.draft(&step) else { return };
        let server = &self.servers[at];
        let mut events = server.memory.everything();
        events.retain(|event| event.state_group.is_some());
        if events.is_empty() {
            return;
        }
        let old = &events[step.b % events.len()];
        let end = cheat.kind == Kind::Stale;
        let by = end || cheat.kind == Kind::Outdated;
        let Some(pdu) = server.forge(&draft, end.then_some(old), by.then_some(old)) else {
            return;
        };
        let misquoted = || {
            let stands = |event: &&Arc<StoredEvent>| event.pdu.state_key.is_some() && event.status == Status::Accepted;
            let standing: Vec<_> = events.iter().filter(stands).collect();
            let other = standing.get(cheat.b % standing.len().max(1))?;
            server.misquote(&pdu, other, cheat.a / self.servers.len())
        };
        let pdu = match cheat.kind {
            Kind::Misquote => misquoted().unwrap_or(pdu),
            _ => pdu,
        };
        self.say(|| format!("forged {}: {}", pdu.event_id, pdu.json));
        self.spread(at, Arc::new(pdu));
    }

    /// Somebody who never was in the room says something, and somebody else answers.
    fn hide_behind(&mut self, step: &Step) {
        let at = step.a % self.servers.len();
        let server = &self.servers[at];
        let topic = to_raw_value(&json!({ "topic": "nobody" })).expect("JSON");
        let bad = Draft::state(server.users(9), "m.room.topic", "", topic);
        let kind = [Kind::Say, Kind::Topic, Kind::Name, Kind::Invite][step.b % 4];
        let answer = self.draft(&Step { kind, ..step.clone() });
        let Some((bad, answer)) = server.forge(&bad, None, None).zip(answer) else {
            return;
        };
        let bad = Arc::new(bad);
        let Some(answer) = server.forge(&answer, Some(&refused(&bad)), None) else {
            return;
        };
        self.say(|| format!("{} hides behind {}", answer.event_id, bad.event_id));
        self.spread(at, bad);
        self.spread(at, Arc::new(answer));
    }

    /// Everybody in the room gets an event, its own server too.
    fn spread(&mut self, at: usize, pdu: Arc<Pdu>) {
        self.note("forged");
        for to in 0..self.servers.len() {
            if self.servers[to].room.is_some() {
                // By way of somebody else, its own server learns of it as well.
                let from = if to == at { (at + 1) % self.servers.len() } else { at };
                self.send(from, to, pdu.clone());
            }
        }
    }
}
