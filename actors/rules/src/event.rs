//! Events as this server holds them in memory.

use std::borrow::Cow;
use std::sync::Arc;

use entities::event;
use entities::ids::{EventNid, RoomNid, StateGroupId, StreamPos};
use ruma::events::TimelineEventType;
use ruma::{EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::snapshot::StateKey;

/// The type of events that join a room's branches and say nothing.
pub const DUMMY: &str = "org.matrix.dummy_event";

/// A PDU, parsed as far as the server needs it. The text it came in stays beside it.
///
/// Only what authorization and storage read is typed; the content stays JSON text (peers send what they like).
#[derive(Clone, Debug)]
pub struct Pdu {
    /// From the reference hash, or from the PDU itself in room versions 1 and 2.
    pub event_id: OwnedEventId,
    /// The room; for the create event of a version-12 room, derived from the event id.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// `type`
    pub kind: TimelineEventType,
    /// `Some` for state events.
    pub state_key: Option<Box<str>>,
    /// As the origin claims.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// As the origin claims, bounded by the format check.
    pub depth: i64,
    /// Parents in the event graph.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that authorize it (without the create event in version 12).
    pub auth_events: Vec<OwnedEventId>,
    /// The event this redaction prunes, wherever the room version keeps it.
    pub redacts: Option<OwnedEventId>,
    /// `content`
    pub content: Box<RawValue>,
    /// The whole PDU without `unsigned`, as stored and as sent to peers.
    pub json: Arc<str>,
    /// Whether it failed authorization when it was received.
    pub rejected: bool,
}

impl Pdu {
    /// `content`, with the fields `T` names.
    ///
    /// # Errors
    /// When the content has another shape.
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_str(self.content.get())
    }

    /// The key of a state event.
    #[must_use]
    pub fn key(&self) -> Option<StateKey> {
        let key = self.state_key.as_deref()?;
        Some((Arc::from(self.kind.to_string()), Arc::from(key)))
    }

    /// The user whom the state key names: whom a member event is about.
    #[must_use]
    pub fn state_user(&self) -> Option<&UserId> {
        self.state_key.as_deref()?.try_into().ok()
    }

    /// The membership of a member event.
    #[must_use]
    pub fn membership(&self) -> Option<String> {
        self.borrowed_membership().map(Cow::into_owned)
    }

    /// Whether it is a member event with this membership.
    #[must_use]
    pub fn has_membership(&self, membership: &str) -> bool {
        self.borrowed_membership().as_deref() == Some(membership)
    }

    fn borrowed_membership(&self) -> Option<Cow<'_, str>> {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow, default)]
            membership: Cow<'a, str>,
        }
        if self.kind != TimelineEventType::RoomMember {
            return None;
        }
        let content = self.content_as::<Content<'_>>().ok()?;
        (!content.membership.is_empty()).then_some(content.membership)
    }

    /// Whether it only holds the graph together: no reader gets to see it.
    #[must_use]
    pub fn is_dummy(&self) -> bool {
        self.kind.to_string() == DUMMY
    }

    /// Whether it is the state event `(kind, state_key)`.
    #[must_use]
    pub fn is_state(&self, kind: &str, state_key: &str) -> bool {
        self.state_key.as_deref() == Some(state_key) && self.kind == TimelineEventType::from(kind)
    }
}

impl ruma::state_res::Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    /// A create event after which its room is named (version 12) has no `room_id`; such ids name no server.
    fn room_id(&self) -> Option<&RoomId> {
        let derived = self.kind == TimelineEventType::RoomCreate && self.room_id.server_name().is_none();
        (!derived).then_some(&self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// How an event stands in its room; the numbers are those of the `status` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Part of the room.
    Accepted,
    /// Valid where it stands in the graph, but not by the room's current state: never shown, never a parent of ours.
    SoftFailed,
    /// Failed authorization.
    Rejected,
    /// Known only as part of someone's auth chain or state.
    Outlier,
}

impl Status {
    /// The column's value.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Accepted => 0,
            Self::SoftFailed => 1,
            Self::Rejected => 2,
            Self::Outlier => 3,
        }
    }

    /// From the column's value; unknown numbers count as rejected.
    #[must_use]
    pub fn from_code(code: i16) -> Self {
        match code {
            0 => Self::Accepted,
            1 => Self::SoftFailed,
            3 => Self::Outlier,
            _ => Self::Rejected,
        }
    }
}

/// A PDU with its place in this server.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Its number.
    pub nid: EventNid,
    /// Its room's number.
    pub room_nid: RoomNid,
    /// Where it stands in the stream; `None` where no reader may see it.
    pub pos: Option<StreamPos>,
    /// The state group before it; `None` for outliers.
    pub state_group: Option<StateGroupId>,
    /// How it stands.
    pub status: Status,
    /// The redaction that pruned it.
    pub redacted_by: Option<OwnedEventId>,
    /// The local device and transaction id it was sent with.
    pub txn: Option<(Box<str>, Box<str>)>,
    /// `prev_content`, `prev_sender` and `replaces_state` of a state event that replaced another: a JSON object.
    pub unsigned: Option<Arc<str>>,
    /// The PDU.
    pub pdu: Arc<Pdu>,
}

impl StoredEvent {
    /// The event's id.
    #[must_use]
    pub fn event_id(&self) -> &EventId {
        &self.pdu.event_id
    }
}

/// The relation an event's content declares, for the columns `relates_to` and `rel_type`; none where it holds U+0000, which
/// no column can.
#[must_use]
pub fn relation_of(pdu: &Pdu) -> (Option<String>, Option<String>) {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Option<Relation>,
    }
    #[derive(Deserialize)]
    struct Relation {
        event_id: Option<String>,
        rel_type: Option<String>,
    }
    match pdu.content_as::<Content>() {
        Ok(Content {
            relates_to:
                Some(Relation {
                    event_id: Some(event_id),
                    rel_type: Some(rel_type),
                }),
        }) if !event_id.contains('\0') && !rel_type.contains('\0') => (Some(event_id), Some(rel_type)),
        _ => (None, None),
    }
}

/// The root of the thread that an event is in (client-server API, "Threading").
#[must_use]
pub fn thread_of(pdu: &Pdu) -> Option<String> {
    // Most events are in none, which is cheap to see.
    if !pdu.content.get().contains("m.thread") {
        return None;
    }
    let (relates_to, rel_type) = relation_of(pdu);
    relates_to.filter(|_| rel_type.as_deref() == Some("m.thread"))
}

impl StoredEvent {
    /// The row that stores it. `pos` of an event that is not committed yet is its offset in the submission.
    #[must_use]
    pub fn to_row(&self) -> event::Model {
        let (relates_to, rel_type) = relation_of(&self.pdu);
        let (device_id, txn_id) = match &self.txn {
            Some((device, txn)) => (Some(device.to_string()), Some(txn.to_string())),
            None => (None, None),
        };
        event::Model {
            nid: self.nid.0,
            room_nid: self.room_nid.0,
            event_id: self.pdu.event_id.to_string(),
            pos: self.pos.map(|p| p.0),
            depth: self.pdu.depth,
            r#type: self.pdu.kind.to_string(),
            state_key: self.pdu.state_key.as_deref().map(str::to_owned),
            sender: self.pdu.sender.to_string(),
            origin_server_ts: i64::from(self.pdu.origin_server_ts.get()),
            state_group: self.state_group.map(|g| g.0),
            status: self.status.code(),
            redacted_by: self.redacted_by.as_ref().map(ToString::to_string),
            device_id,
            txn_id,
            relates_to,
            rel_type,
            unsigned: self.unsigned.as_deref().map(str::to_owned),
            json: self.pdu.json.to_string(),
        }
    }

    /// Whether `pos` lies in `(since, upto]`.
    #[must_use]
    pub fn is_between(&self, since: StreamPos, upto: StreamPos) -> bool {
        self.pos.is_some_and(|p| p > since && p <= upto)
    }
}

/// Unix milliseconds as Matrix writes them; negative times become 0.
#[must_use]
pub fn ts(ms: i64) -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch(UInt::new_saturating(u64::try_from(ms).unwrap_or(0)))
}
