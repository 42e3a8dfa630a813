//! What a room can be asked. Messages are data.

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::event::Pdu;

/// An event that a local user wants to send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Draft {
    /// The local sender.
    pub sender: OwnedUserId,
    /// `type`
    pub kind: String,
    /// `Some` for state.
    pub state_key: Option<String>,
    /// A JSON object.
    pub content: Box<RawValue>,
    /// The event a redaction prunes.
    pub redacts: Option<OwnedEventId>,
    /// The device and transaction id: a repeated pair answers the first event's id.
    pub txn: Option<(String, String)>,
    /// Unix milliseconds, where the sender may choose (application services).
    pub origin_server_ts: Option<i64>,
}

impl Draft {
    /// A state event.
    #[must_use]
    pub fn state(sender: OwnedUserId, kind: &str, state_key: &str, content: Box<RawValue>) -> Self {
        Self {
            sender,
            kind: kind.to_owned(),
            state_key: Some(state_key.to_owned()),
            content,
            redacts: None,
            txn: None,
            origin_server_ts: None,
        }
    }

    /// A message event.
    #[must_use]
    pub fn message(sender: OwnedUserId, kind: &str, content: Box<RawValue>, txn: Option<(String, String)>) -> Self {
        Self {
            sender,
            kind: kind.to_owned(),
            state_key: None,
            content,
            redacts: None,
            txn,
            origin_server_ts: None,
        }
    }
}

/// Events of local users, all or none: the first refusal refuses the whole command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Append {
    /// In order; each sees the state after the one before it.
    pub drafts: Vec<Draft>,
}

/// What became of an [`Append`]: one id for each draft, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Appended {
    /// The events' ids. A state event that would change nothing answers the id of the one that stands.
    pub event_ids: Vec<OwnedEventId>,
    /// The stream position after which readers see them.
    pub pos: i64,
}

/// A room that does not exist yet. The create event was made (it names the room in version 12); the rest are drafts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Create {
    /// The room version's identifier.
    pub version: String,
    /// The signed create event, as text.
    pub create_pdu: String,
    /// Everything after it.
    pub drafts: Vec<Draft>,
    /// Aliases that are made with the room, `(alias, creator)`.
    pub aliases: Vec<(String, String)>,
    /// Whether the room directory lists it.
    pub published: bool,
}

/// A PDU from elsewhere, its format, signatures and hashes checked (`room::ingest`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Incoming {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The PDU as [`Pdu::json`] has it: canonical, without `unsigned`, redacted if its content hash did not hold.
    pub json: String,
    /// Its id.
    pub event_id: OwnedEventId,
    /// The ids of the state before it, as another server tells them: all of them known, or among the outliers. Without
    /// them the state follows from its parents, which must then be known.
    pub state_before: Option<Arc<[OwnedEventId]>>,
    /// The row of `inbound_pdu` that holds it, deleted with the commit that settles it.
    pub staged: Option<i64>,
    /// Whether this server let it in, and so passes it on to the others (a join, leave or knock that was sent to it).
    #[serde(default)]
    pub relay: bool,
    /// Whether the room's policy server does not recommend it: it is soft-failed then at best.
    #[serde(default)]
    pub withheld: bool,
}

impl Incoming {
    /// An event that was checked.
    #[must_use]
    pub fn of(pdu: &Pdu) -> Self {
        Self {
            room_id: pdu.room_id.clone(),
            json: pdu.json.to_string(),
            event_id: pdu.event_id.clone(),
            state_before: None,
            staged: None,
            relay: false,
            withheld: false,
        }
    }

    /// With the state before it, see [`Self::state_before`].
    #[must_use]
    pub fn with_state(self, state_before: Arc<[OwnedEventId]>) -> Self {
        Self {
            state_before: Some(state_before),
            ..self
        }
    }
}

/// PDUs from elsewhere, in an order in which parents come before children.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ingest {
    /// The timeline events.
    pub pdus: Vec<Incoming>,
    /// Events that are needed for their auth chains or state and are not part of the timeline.
    pub outliers: Vec<Incoming>,
}

/// A room that this server enters by way of another: one it does not know, or one that all its users have left, whose
/// state is then replaced by the one given.
///
/// A failure in between leaves nothing that readers see, and the same import can be tried again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Import {
    /// The room version's identifier.
    pub version: String,
    /// The ids of the state before the join.
    pub state: Vec<OwnedEventId>,
    /// The events of `state` and of the auth chains of `state` and `join`, auth events before those they authorize; known
    /// ones may be left out. What does not pass authorization is left out of the state.
    pub events: Vec<Incoming>,
    /// The join of a local user, signed by all who must.
    pub join: Incoming,
    /// `Some` when `state` lacks the members (MSC3706).
    pub partial: Option<PartialState>,
}

/// What is kept about a room whose members are still to be fetched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartialState {
    /// The server that let us in.
    pub via: OwnedServerName,
    /// The servers in the room before the join.
    pub servers: Vec<OwnedServerName>,
}

/// What an [`Import`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The stream position after which readers see the room.
    pub pos: i64,
    /// How many of the given state events are part of the state.
    pub state: usize,
    /// How many were left out: unknown, or not authorized.
    pub left_out: usize,
}

/// Events from before the oldest that this server has, or from a gap in between. They take places in the timeline that lie
/// before what is there already; nobody is woken and the room's current state stays as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backfill {
    /// The events, in any order. One whose parents are not all among them, or known with their state, needs
    /// [`Incoming::state_before`]; it is [`Verdict::Missing`] otherwise.
    pub events: Vec<Incoming>,
    /// What their auth chains and states need besides, auth events first.
    pub outliers: Vec<Incoming>,
}

/// An invite or a knock of a local user in a room that no local user is joined to, or what ends one: a leave or a ban.
///
/// What ends it is taken if the user itself sent it, or if it names the pending invite or knock among its auth events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutOfRoom {
    /// The room version's identifier.
    pub version: String,
    /// The member event; its state key is the local user.
    pub event: Incoming,
    /// The stripped state that came with it, as clients get it.
    pub stripped: Vec<Box<RawValue>>,
}

/// What became of each PDU of an [`Ingest`] or a [`Backfill`], in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Part of the room.
    Accepted,
    /// Stored, not shown.
    SoftFailed,
    /// Failed authorization, with the reason.
    Rejected(String),
    /// Known already.
    Duplicate,
    /// Needs these parents or auth events first.
    Missing(Vec<OwnedEventId>),
}

/// Messages of the past that are to be deleted for good; state stays, and so does what new events follow.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PurgeHistory {
    /// Behind this position.
    pub above: i64,
    /// Before this position.
    pub before: i64,
    /// Those of this server's users too.
    pub local: bool,
}

/// What became of a part of a [`PurgeHistory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// How many were deleted.
    pub deleted: u64,
    /// Where to go on, above; `None` when all is done.
    pub next: Option<i64>,
}

/// A receipt of a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetReceipt {
    /// Whose.
    pub user: OwnedUserId,
    /// `m.read` or `m.read.private`.
    pub kind: String,
    /// `None` unthreaded, `main`, or the thread root's id.
    pub thread_id: Option<String>,
    /// The event read up to.
    pub event_id: OwnedEventId,
    /// When, Unix milliseconds, as another server says; `None`: now.
    pub ts: Option<i64>,
}

/// A typing notice of a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetTyping {
    /// Whose.
    pub user: OwnedUserId,
    /// `None` stops; otherwise milliseconds from now, at most 120 000.
    pub timeout_ms: Option<u64>,
}
