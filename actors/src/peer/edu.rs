//! Ephemeral events on their way to a server that nobody misses for long: typing, receipts, presence. They live in memory;
//! the newest of a kind replaces the older. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use crate::clock::Millis;

/// So many wait for one server.
pub const MAX_WAITING: usize = 1_000;
/// Users in one EDU of presence.
const PRESENCE_AT_ONCE: usize = 50;
/// Receipts in one EDU.
const RECEIPTS_AT_ONCE: usize = 200;

/// What is told about a local user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransientEdu {
    /// `m.typing`
    Typing {
        /// Where.
        room_id: OwnedRoomId,
        /// Who.
        user_id: OwnedUserId,
        /// Or no longer.
        typing: bool,
    },
    /// `m.receipt`, the public kind.
    Receipt {
        /// Where.
        room_id: OwnedRoomId,
        /// Who.
        user_id: OwnedUserId,
        /// `None` unthreaded, `main`, or the thread root's id.
        thread_id: Option<String>,
        /// The event read up to.
        event_id: OwnedEventId,
        /// When, Unix milliseconds.
        ts: Millis,
    },
    /// `m.presence`
    Presence {
        /// Who.
        user_id: OwnedUserId,
        /// `online`, `unavailable` or `offline`.
        state: &'static str,
        /// What the user says about it.
        status_msg: Option<String>,
        /// When the user last did something, Unix milliseconds.
        last_active: Millis,
    },
}

/// What an EDU replaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Typing(OwnedRoomId, OwnedUserId),
    Receipt(OwnedRoomId, OwnedUserId, Option<String>),
    Presence(OwnedUserId),
}

impl TransientEdu {
    fn key(&self) -> Key {
        match self {
            Self::Typing { room_id, user_id, .. } => Key::Typing(room_id.clone(), user_id.clone()),
            Self::Receipt {
                room_id,
                user_id,
                thread_id,
                ..
            } => Key::Receipt(room_id.clone(), user_id.clone(), thread_id.clone()),
            Self::Presence { user_id, .. } => Key::Presence(user_id.clone()),
        }
    }

    /// Whether the other server waits for it: somebody looks at the screen.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::Typing { .. })
    }
}

/// EDUs that wait, oldest first.
#[derive(Debug, Default)]
pub struct EduQueue {
    order: VecDeque<Key>,
    waiting: HashMap<Key, TransientEdu>,
}

impl EduQueue {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds one. Where there are too many, the oldest goes, receipts last.
    pub fn push(&mut self, edu: TransientEdu) {
        let key = edu.key();
        if self.waiting.insert(key.clone(), edu).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > MAX_WAITING {
            let fleeting = |key: &Key| !matches!(key, Key::Receipt(..));
            let oldest = self.order.iter().position(fleeting).unwrap_or(0);
            if let Some(key) = self.order.remove(oldest) {
                self.waiting.remove(&key);
            }
        }
    }

    /// Forgets notices of typing: they are stale before the server can be reached.
    pub fn forget_typing(&mut self) {
        self.order.retain(|key| !matches!(key, Key::Typing(..)));
        self.waiting.retain(|key, _| !matches!(key, Key::Typing(..)));
    }

    /// Takes the oldest for one transaction, as at most `most` EDUs.
    pub fn take(&mut self, most: usize, now: Millis) -> Vec<Value> {
        let mut out = Batch::default();
        let mut left = VecDeque::new();
        while let Some(key) = self.order.pop_front() {
            match self.waiting.remove(&key) {
                Some(edu) if !out.add(&edu, most, now) => {
                    self.waiting.insert(key.clone(), edu);
                    left.push_back(key);
                }
                _ => {}
            }
        }
        self.order = left;
        out.finish()
    }
}

/// One EDU of receipts: it names a user once in a room.
type Receipts = BTreeMap<OwnedRoomId, BTreeMap<OwnedUserId, Value>>;

/// EDUs being put together.
#[derive(Default)]
struct Batch {
    typing: Vec<Value>,
    receipts: Vec<Receipts>,
    presence: Vec<Vec<Value>>,
}

impl Batch {
    fn len(&self) -> usize {
        self.typing.len() + self.receipts.len() + self.presence.len()
    }

    /// False if there is no room.
    fn add(&mut self, edu: &TransientEdu, most: usize, now: Millis) -> bool {
        let more = self.len() < most;
        match edu {
            TransientEdu::Typing {
                room_id,
                user_id,
                typing,
            } => {
                let content = json!({ "room_id": room_id, "user_id": user_id, "typing": typing });
                self.typing.extend(more.then(|| edu_of("m.typing", content)));
                more
            }
            TransientEdu::Receipt {
                room_id,
                user_id,
                thread_id,
                event_id,
                ts,
            } => {
                let mut data = json!({ "ts": ts });
                if let Some(thread) = thread_id {
                    data["thread_id"] = thread.as_str().into();
                }
                let receipt = json!({ "data": data, "event_ids": [event_id] });
                self.add_receipt(more, room_id, user_id, receipt)
            }
            TransientEdu::Presence {
                user_id,
                state,
                status_msg,
                last_active,
            } => {
                let mut update = json!({
                    "user_id": user_id,
                    "presence": state,
                    "last_active_ago": (now - last_active).max(0),
                    "currently_active": *state == "online",
                });
                if let Some(message) = status_msg {
                    update["status_msg"] = message.as_str().into();
                }
                self.add_presence(more, update)
            }
        }
    }

    fn add_receipt(&mut self, more: bool, room: &OwnedRoomId, user: &OwnedUserId, receipt: Value) -> bool {
        let has_place = |edu: &Receipts| {
            edu.values().map(BTreeMap::len).sum::<usize>() < RECEIPTS_AT_ONCE
                && !edu.get(room).is_some_and(|users| users.contains_key(user))
        };
        let at = match self.receipts.iter().position(has_place) {
            Some(at) => at,
            None if more => {
                self.receipts.push(Receipts::new());
                self.receipts.len() - 1
            }
            None => return false,
        };
        let users = self.receipts[at].entry(room.clone()).or_default();
        users.insert(user.clone(), receipt);
        true
    }

    fn add_presence(&mut self, more: bool, update: Value) -> bool {
        match self.presence.last_mut().filter(|push| push.len() < PRESENCE_AT_ONCE) {
            Some(push) => push.push(update),
            None if more => self.presence.push(vec![update]),
            None => return false,
        }
        true
    }

    fn finish(self) -> Vec<Value> {
        let receipts = self.receipts.into_iter().map(|rooms| {
            let rooms = rooms
                .into_iter()
                .map(|(room, users)| (room.to_string(), json!({ "m.read": users })));
            edu_of("m.receipt", Value::Object(rooms.collect()))
        });
        let presence = self
            .presence
            .into_iter()
            .map(|push| edu_of("m.presence", json!({ "push": push })));
        self.typing.into_iter().chain(receipts).chain(presence).collect()
    }
}

/// An EDU as it stands in a transaction.
#[must_use]
pub fn edu_of(kind: &str, content: Value) -> Value {
    json!({ "edu_type": kind, "content": content })
}

#[cfg(test)]
#[path = "edu_tests.rs"]
mod tests;
