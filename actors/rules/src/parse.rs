//! PDUs from text: the format, ids, hashes and signatures of one event, without regard to its room's state.
//!
//! Spec: server-server API, "PDUs" and "Checks performed on receipt of a PDU" (steps 1 to 3); the event formats of
//! room versions 1, 3, 4 and 12.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use entities::event;
use entities::ids::{EventNid, RoomNid, StateGroupId, StreamPos};
use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use ruma::events::TimelineEventType;
use ruma::room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules};
use ruma::signatures::{PublicKeyMap, Verified};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UInt, UserId,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::{RawValue, to_raw_value};

use super::event::{Pdu, Status, StoredEvent, ts};

/// The largest event, as canonical JSON with its signatures (client-server API, "Size limits").
const MAX_BYTES: usize = 65_536;
/// Parents of one event.
const MAX_PREV_EVENTS: usize = 20;
/// Auth events of one event.
const MAX_AUTH_EVENTS: usize = 10;

/// Why a PDU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PduError {
    /// Not JSON, or not canonical JSON (a float, an integer beyond ±(2^53 − 1)).
    #[error("not canonical JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field is missing, too long, or of the wrong shape.
    #[error("malformed event: {0}")]
    Format(String),
    /// A signature is missing or wrong, or its key is not known.
    #[error("signature check failed: {0}")]
    Signature(String),
}

fn malformed(message: impl std::fmt::Display) -> PduError {
    PduError::Format(message.to_string())
}

/// Text as canonical JSON.
///
/// # Errors
/// When it is not an object of canonical JSON values.
pub fn canonical(json: &str) -> Result<CanonicalJsonObject, PduError> {
    Ok(serde_json::from_str(json)?)
}

/// The fields, sizes and types that every PDU must keep to, before anything else is read from it: 65 536 bytes in all,
/// 255 bytes for ids, types and state keys, at most 20 `prev_events` and 10 `auth_events`, a depth of 0 to 2^53 − 1. Names with
/// U+0000 are refused: no database can hold them.
///
/// # Errors
/// With the first fault.
pub fn check_format(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), PduError> {
    let names = ["event_id", "room_id", "sender", "state_key", "type"].map(|field| object.get(field));
    let references = ["prev_events", "auth_events"].map(|field| object.get(field));
    if names.into_iter().chain(references).flatten().any(holds_nul) {
        return Err(malformed("U+0000 in an id, the type or the state key"));
    }
    let checked = ruma::state_res::check_pdu_format(object, &rules.event_format);
    if checked.is_ok() || serde_json::to_string(object)?.len() != MAX_BYTES {
        return checked.map_err(PduError::Format);
    }
    // Its limit is a byte less than the specification's. Nothing but the size depends on the signatures.
    let mut unsigned = object.clone();
    unsigned.remove("signatures");
    ruma::state_res::check_pdu_format(&unsigned, &rules.event_format).map_err(PduError::Format)
}

/// Whether a name, or one of those in a list of references, holds U+0000.
fn holds_nul(value: &CanonicalJsonValue) -> bool {
    match value {
        CanonicalJsonValue::String(name) => name.contains('\0'),
        CanonicalJsonValue::Array(items) => items.iter().any(|item| match item {
            // With its hash, in the first room versions.
            CanonicalJsonValue::Array(pair) => pair.first().is_some_and(holds_nul),
            item => holds_nul(item),
        }),
        _ => false,
    }
}

/// The reference hash in base64, in the alphabet of the room version's event ids.
///
/// # Errors
/// When the event has no type, or the redacted event is too large.
pub fn reference_hash(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<String, PduError> {
    ruma::signatures::reference_hash(object, rules).map_err(malformed)
}

/// The id of an event: from its reference hash, or from the PDU in the versions that keep it there.
///
/// # Errors
/// When the PDU has no valid `event_id` where it needs one, or cannot be hashed.
pub fn event_id_of(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<OwnedEventId, PduError> {
    let text = match rules.event_id_format {
        EventIdFormatVersion::V1 => str_field(object, "event_id")?.to_owned(),
        _ => format!("${}", reference_hash(object, rules)?),
    };
    let id = EventId::parse(text).map_err(malformed)?;
    if rules.event_id_format == EventIdFormatVersion::V1 && id.server_name().is_none() {
        return Err(malformed("the event id names no server"));
    }
    Ok(id)
}

/// An event as `prev_events` and `auth_events` refer to it: its id, or `[id, {"sha256": …}]` in versions 1 and 2, where
/// `pdu` is hashed (without it the hashes are left empty).
///
/// # Errors
/// When `pdu` cannot be hashed.
pub fn reference(
    event_id: &EventId,
    pdu: Option<&Pdu>,
    rules: &RoomVersionRules,
) -> Result<CanonicalJsonValue, PduError> {
    let id = CanonicalJsonValue::String(event_id.to_string());
    match rules.events_reference_format {
        EventsReferenceFormatVersion::V1 => {
            let mut hashes = CanonicalJsonObject::new();
            if let Some(pdu) = pdu {
                let hash = reference_hash(&canonical(&pdu.json)?, rules)?;
                hashes.insert("sha256".to_owned(), CanonicalJsonValue::String(hash));
            }
            Ok(CanonicalJsonValue::Array(vec![id, CanonicalJsonValue::Object(hashes)]))
        }
        _ => Ok(id),
    }
}

/// A PDU from its text. `unsigned` is dropped and the rest brought into canonical form.
///
/// `event_id` is trusted if given; otherwise the id is computed.
///
/// # Errors
/// When the format check fails or an id is not valid. Signatures and hashes are not looked at.
pub fn parse_pdu(json: &str, rules: &RoomVersionRules, event_id: Option<OwnedEventId>) -> Result<Pdu, PduError> {
    let mut object = canonical(json)?;
    object.remove("unsigned");
    check_format(&object, rules)?;
    pdu_from_object(&object, rules, event_id)
}

/// A PDU from its canonical JSON, which must have passed [`check_format`] and hold no `unsigned`.
///
/// # Errors
/// When an id or a field is not valid.
pub fn pdu_from_object(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    event_id: Option<OwnedEventId>,
) -> Result<Pdu, PduError> {
    let event_id = match event_id {
        Some(event_id) => event_id,
        None => event_id_of(object, rules)?,
    };
    let kind = TimelineEventType::from(str_field(object, "type")?);
    let content = match object.get("content") {
        Some(CanonicalJsonValue::Object(content)) => content,
        _ => return Err(malformed("`content` is not an object")),
    };
    let state_key = match object.get("state_key") {
        Some(CanonicalJsonValue::String(key)) => Some(key.as_str().into()),
        None => None,
        Some(_) => return Err(malformed("`state_key` is not a string")),
    };
    let redacts = if kind == TimelineEventType::RoomRedaction {
        let holder = if rules.redaction.content_field_redacts {
            content
        } else {
            object
        };
        match holder.get("redacts") {
            Some(CanonicalJsonValue::String(id)) if !id.contains('\0') => EventId::parse(id.as_str()).ok(),
            _ => None,
        }
    } else {
        None
    };
    Ok(Pdu {
        room_id: room_id_of(object, &kind, &event_id, rules)?,
        sender: OwnedUserId::from(<&UserId>::try_from(str_field(object, "sender")?).map_err(malformed)?),
        state_key,
        origin_server_ts: timestamp(object)?,
        depth: int_field(object, "depth")?,
        prev_events: references(object, "prev_events", rules)?,
        auth_events: references(object, "auth_events", rules)?,
        redacts,
        content: to_raw_value(content)?,
        json: Arc::from(serde_json::to_string(object)?),
        rejected: false,
        event_id,
        kind,
    })
}

/// The room: as written, or named after the create event itself where the version does so.
fn room_id_of(
    object: &CanonicalJsonObject,
    kind: &TimelineEventType,
    event_id: &EventId,
    rules: &RoomVersionRules,
) -> Result<OwnedRoomId, PduError> {
    if rules.authorization.room_create_event_id_as_room_id && *kind == TimelineEventType::RoomCreate {
        if object.contains_key("room_id") {
            return Err(malformed("the create event of this room version has no `room_id`"));
        }
        return RoomId::new_v2(event_id.localpart()).map_err(malformed);
    }
    RoomId::parse(str_field(object, "room_id")?).map_err(malformed)
}

fn str_field<'a>(object: &'a CanonicalJsonObject, field: &str) -> Result<&'a str, PduError> {
    match object.get(field) {
        Some(CanonicalJsonValue::String(value)) => Ok(value),
        _ => Err(malformed(format_args!("`{field}` is not a string"))),
    }
}

fn int_field(object: &CanonicalJsonObject, field: &str) -> Result<i64, PduError> {
    match object.get(field) {
        Some(CanonicalJsonValue::Integer(value)) => Ok(i64::from(*value)),
        _ => Err(malformed(format_args!("`{field}` is not an integer"))),
    }
}

fn timestamp(object: &CanonicalJsonObject) -> Result<MilliSecondsSinceUnixEpoch, PduError> {
    let ms = int_field(object, "origin_server_ts")?;
    let ms = u64::try_from(ms).ok().and_then(|ms| UInt::try_from(ms).ok());
    ms.map(MilliSecondsSinceUnixEpoch)
        .ok_or_else(|| malformed("`origin_server_ts` is out of range"))
}

fn references(
    object: &CanonicalJsonObject,
    field: &str,
    rules: &RoomVersionRules,
) -> Result<Vec<OwnedEventId>, PduError> {
    let Some(CanonicalJsonValue::Array(items)) = object.get(field) else {
        return Err(malformed(format_args!("`{field}` is not an array")));
    };
    let id = |item: &CanonicalJsonValue| match (item, rules.events_reference_format) {
        (CanonicalJsonValue::Array(pair), EventsReferenceFormatVersion::V1) => match pair.as_slice() {
            [CanonicalJsonValue::String(id), CanonicalJsonValue::Object(_)] => Some(id.clone()),
            _ => None,
        },
        (CanonicalJsonValue::String(id), EventsReferenceFormatVersion::V2) => Some(id.clone()),
        _ => None,
    };
    items
        .iter()
        .map(|item| {
            let id = id(item).ok_or_else(|| malformed(format_args!("`{field}` refers to events in a wrong format")))?;
            EventId::parse(id).map_err(malformed)
        })
        .collect()
}

/// A PDU that passed the checks that need only the PDU and keys.
#[derive(Debug)]
pub struct Checked {
    /// The event, in its redacted form if the content hash did not hold.
    pub pdu: Pdu,
    /// Whether the content hash did not hold, as with an event that its origin has redacted.
    pub redacted: bool,
}

/// The servers whose signatures the PDU needs.
///
/// # Errors
/// When the PDU lacks the fields that say so.
pub fn required_servers(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<BTreeSet<OwnedServerName>, PduError> {
    ruma::signatures::required_server_signatures_to_verify_event(object, &rules.signatures).map_err(malformed)
}

/// Checks a PDU from elsewhere: format, signatures, content hash.
///
/// `keys` holds the keys of [`required_servers`]; where `rules.enforce_key_validity` is set, only keys that were valid
/// at the event's `origin_server_ts`.
///
/// # Errors
/// The PDU is to be dropped.
pub fn check_incoming(json: &str, rules: &RoomVersionRules, keys: &PublicKeyMap) -> Result<Checked, PduError> {
    let mut object = canonical(json)?;
    // Nobody signs `unsigned`, and it is not kept; so it does not count towards the size either.
    object.remove("unsigned");
    check_format(&object, rules)?;
    let verified =
        ruma::signatures::verify_event(keys, &object, rules).map_err(|error| PduError::Signature(error.to_string()))?;
    let redacted = verified == Verified::Signatures;
    if redacted {
        object = ruma::canonical_json::redact(object, &rules.redaction, None).map_err(malformed)?;
    }
    Ok(Checked {
        pdu: pdu_from_object(&object, rules, None)?,
        redacted,
    })
}

/// The fields of a canonical PDU.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    sender: Cow<'a, str>,
    #[serde(borrow)]
    room_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    state_key: Option<Cow<'a, str>>,
    origin_server_ts: UInt,
    depth: i64,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    prev_events: &'a RawValue,
    #[serde(borrow)]
    auth_events: &'a RawValue,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

/// A PDU from the text of [`Pdu::json`], which passed every check once; only what parsing finds anyway is found again.
///
/// # Errors
/// When the text is no such PDU.
pub fn pdu_from_checked(json: &str, rules: &RoomVersionRules, event_id: OwnedEventId) -> Result<Pdu, PduError> {
    let fields: Fields<'_> = serde_json::from_str(json)?;
    let kind = TimelineEventType::from(&*fields.r#type);
    let room_id = match fields.room_id {
        Some(id) => RoomId::parse(&*id).map_err(malformed)?,
        None if kind == TimelineEventType::RoomCreate && rules.authorization.room_create_event_id_as_room_id => {
            RoomId::new_v2(event_id.localpart()).map_err(malformed)?
        }
        None => return Err(malformed("`room_id` is missing")),
    };
    let prev_events = stored_references(fields.prev_events, rules)?;
    let auth_events = stored_references(fields.auth_events, rules)?;
    if prev_events.len() > MAX_PREV_EVENTS || auth_events.len() > MAX_AUTH_EVENTS {
        return Err(malformed("it refers to too many events"));
    }
    Ok(Pdu {
        redacts: redacts_of(&kind, fields.content, fields.redacts, rules),
        sender: OwnedUserId::from(<&UserId>::try_from(&*fields.sender).map_err(malformed)?),
        state_key: fields.state_key.map(|key| key.into_owned().into()),
        origin_server_ts: MilliSecondsSinceUnixEpoch(fields.origin_server_ts),
        depth: fields.depth,
        content: fields.content.to_owned(),
        json: Arc::from(json),
        rejected: false,
        event_id,
        room_id,
        kind,
        prev_events,
        auth_events,
    })
}

/// What a stored PDU's text holds and its row does not.
#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    prev_events: &'a RawValue,
    #[serde(borrow)]
    auth_events: &'a RawValue,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Redacts {
    redacts: Option<OwnedEventId>,
}

/// The event that a redaction prunes, wherever the room version keeps it.
fn redacts_of(
    kind: &TimelineEventType,
    content: &RawValue,
    redacts: Option<&RawValue>,
    rules: &RoomVersionRules,
) -> Option<OwnedEventId> {
    if *kind != TimelineEventType::RoomRedaction {
        return None;
    }
    let target = if rules.redaction.content_field_redacts {
        serde_json::from_str::<Redacts>(content.get()).ok()?.redacts
    } else {
        serde_json::from_str(redacts?.get()).ok()
    };
    target.filter(|id: &OwnedEventId| !id.as_str().contains('\0'))
}

fn stored_references(json: &RawValue, rules: &RoomVersionRules) -> Result<Vec<OwnedEventId>, serde_json::Error> {
    match rules.events_reference_format {
        EventsReferenceFormatVersion::V1 => {
            let pairs: Vec<(OwnedEventId, IgnoredAny)> = serde_json::from_str(json.get())?;
            Ok(pairs.into_iter().map(|(id, _)| id).collect())
        }
        _ => serde_json::from_str(json.get()),
    }
}

/// An event from its row. The row is trusted: nothing is hashed or checked again.
///
/// # Errors
/// When the row does not hold what [`StoredEvent::to_row`] writes.
pub fn from_row(row: &event::Model, room_id: &OwnedRoomId, rules: &RoomVersionRules) -> Result<StoredEvent, PduError> {
    let stored: Stored<'_> = serde_json::from_str(&row.json)?;
    let kind = TimelineEventType::from(row.r#type.as_str());
    let redacts = redacts_of(&kind, stored.content, stored.redacts, rules);
    let status = Status::from_code(row.status);
    let pdu = Pdu {
        event_id: EventId::parse(row.event_id.as_str()).map_err(malformed)?,
        room_id: room_id.clone(),
        sender: OwnedUserId::from(<&UserId>::try_from(row.sender.as_str()).map_err(malformed)?),
        kind,
        state_key: row.state_key.as_deref().map(Into::into),
        origin_server_ts: ts(row.origin_server_ts),
        depth: row.depth,
        prev_events: stored_references(stored.prev_events, rules)?,
        auth_events: stored_references(stored.auth_events, rules)?,
        redacts,
        content: stored.content.to_owned(),
        json: Arc::from(row.json.as_str()),
        rejected: status == Status::Rejected,
    };
    Ok(StoredEvent {
        nid: EventNid(row.nid),
        room_nid: RoomNid(row.room_nid),
        pos: row.pos.map(StreamPos),
        state_group: row.state_group.map(StateGroupId),
        status,
        redacted_by: match &row.redacted_by {
            Some(id) => Some(EventId::parse(id.as_str()).map_err(malformed)?),
            None => None,
        },
        txn: match (&row.device_id, &row.txn_id) {
            (Some(device), Some(txn)) => Some((device.as_str().into(), txn.as_str().into())),
            _ => None,
        },
        unsigned: row.unsigned.as_deref().map(Arc::from),
        pdu: Arc::new(pdu),
    })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
