//! A room's committed state, immutable: what the room actor swaps and every reader shares.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use entities::ids::{EventNid, RoomNid, StateGroupId, StateKeyNid, StreamPos};
use ruma::room_version_rules::RoomVersionRules;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId};

use super::event::StoredEvent;
use super::state_group::Chain;

/// How many of the newest timeline events a snapshot carries.
pub const TIMELINE_TAIL: usize = 40;

/// `(type, state key)`, ordered so that one type's entries are neighbours.
pub type StateKey = (Arc<str>, Arc<str>);

/// A state key, owned or borrowed: lets a map be searched without making an owned key.
trait Key {
    fn pair(&self) -> (&str, &str);
}

impl Key for StateKey {
    fn pair(&self) -> (&str, &str) {
        (&self.0, &self.1)
    }
}

impl Key for (&str, &str) {
    fn pair(&self) -> (&str, &str) {
        *self
    }
}

impl PartialEq for dyn Key + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.pair() == other.pair()
    }
}

impl Eq for dyn Key + '_ {}

impl PartialOrd for dyn Key + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Key + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.pair().cmp(&other.pair())
    }
}

impl<'a> Borrow<dyn Key + 'a> for StateKey {
    fn borrow(&self) -> &(dyn Key + 'a) {
        self
    }
}

/// One entry of the current state.
#[derive(Clone, Debug)]
pub struct StateEntry {
    /// The interned key.
    pub key_nid: StateKeyNid,
    /// The event.
    pub event: Arc<StoredEvent>,
}

/// By number: the same event in its pruned form is the same entry.
impl PartialEq for StateEntry {
    fn eq(&self, other: &Self) -> bool {
        (self.key_nid, self.event.nid) == (other.key_nid, other.event.nid)
    }
}

impl Eq for StateEntry {}

/// An event without accepted children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extremity {
    /// Its number.
    pub nid: EventNid,
    /// Its id.
    pub event_id: OwnedEventId,
    /// Its depth.
    pub depth: i64,
}

/// A missing event that a known one follows: where history can be fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The depth of an event that follows it.
    pub depth: i64,
    /// Which of the room's holes it belongs in; `None`: the history before everything that is known.
    pub hole: Option<i64>,
}

/// Free positions in a room's timeline, before an event whose parents were not known when it came: from `low` up to, but
/// without, `next`. They are taken from above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The lowest.
    pub low: i64,
    /// One more than the highest.
    pub next: i64,
}

/// A room as of its newest committed event. Cloning is cheap (shared maps).
#[derive(Clone, Debug)]
pub struct RoomSnapshot {
    /// The room's number.
    pub nid: RoomNid,
    /// The room's id.
    pub room_id: OwnedRoomId,
    /// Its version, for showing; rules are read from `rules`.
    pub version: RoomVersionId,
    /// The version's rules.
    pub rules: Arc<RoomVersionRules>,
    /// The position of the newest event.
    pub pos: StreamPos,
    /// The forward extremities; empty only before the create event.
    pub extremities: Arc<[Extremity]>,
    /// The state group of `state`; 0 before the create event.
    pub state_group: StateGroupId,
    /// How long that group's chain of deltas is, for the next group.
    pub state_chain: Chain,
    /// The current state.
    pub state: imbl::OrdMap<StateKey, StateEntry>,
    /// The newest accepted events, oldest first, at most [`TIMELINE_TAIL`].
    pub timeline: imbl::Vector<Arc<StoredEvent>>,
    /// Whether `timeline` begins with the room's first event this server has.
    pub timeline_complete: bool,
    /// Joined users of this server.
    pub local_joined: Arc<[OwnedUserId]>,
    /// Servers with joined members, this one included if so.
    pub joined_servers: Arc<[OwnedServerName]>,
    /// How many members of each of them are joined.
    pub server_members: imbl::OrdMap<OwnedServerName, u64>,
    /// How many users are joined.
    pub joined_count: u64,
    /// How many users are invited.
    pub invited_count: u64,
    /// The missing events that known ones follow.
    pub gaps: imbl::OrdMap<OwnedEventId, Gap>,
    /// The holes that `gaps` name, by number.
    pub holes: imbl::OrdMap<i64, Hole>,
    /// Whether there are redactions whose target has not arrived.
    pub early_redactions: bool,
}

impl RoomSnapshot {
    /// The current state event `(kind, state_key)`.
    #[must_use]
    pub fn state_event(&self, kind: &str, state_key: &str) -> Option<&Arc<StoredEvent>> {
        let key: &dyn Key = &(kind, state_key);
        self.state.get(key).map(|entry| &entry.event)
    }

    /// Every current state event of one type.
    pub fn state_of_kind<'a, 'k>(&'a self, kind: &'k str) -> impl Iterator<Item = &'a Arc<StoredEvent>> + use<'a, 'k> {
        let first: &dyn Key = &(kind, "");
        self.state
            .range::<_, dyn Key + '_>((Bound::Included(first), Bound::Unbounded))
            .take_while(move |((k, _), _)| **k == *kind)
            .map(|(_, entry)| &entry.event)
    }

    /// The user's membership, `leave` where there is none.
    #[must_use]
    pub fn membership(&self, user: &ruma::UserId) -> String {
        self.state_event("m.room.member", user.as_str())
            .and_then(|event| event.pdu.membership())
            .unwrap_or_else(|| "leave".to_owned())
    }

    /// Whether the user is joined.
    #[must_use]
    pub fn is_joined(&self, user: &ruma::UserId) -> bool {
        self.state_event("m.room.member", user.as_str())
            .is_some_and(|event| event.pdu.has_membership("join"))
    }

    /// What the snapshot costs in memory, in bytes, roughly; the caches' weight.
    #[must_use]
    pub fn weight(&self) -> usize {
        512 + self.state.len() * 1_400 + self.timeline.len() * 1_200
    }
}
