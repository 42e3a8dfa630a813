//! From a draft to a signed PDU.

use std::sync::Arc;

use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use ruma::room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules};
use ruma::signatures::hash_and_sign_event;
use ruma::{EventId, Int, OwnedEventId, RoomId};
use serde_json::value::RawValue;

use super::Origin;
use crate::error::{DomainError, Outcome};
use crate::room::auth;
use crate::room::commands::Draft;
use crate::room::event::{Pdu, StoredEvent, ts};
use crate::room::ingest::choose_prev_events;
use crate::room::parse::{self, PduError};
use crate::room::snapshot::{Extremity, RoomSnapshot};

/// Bytes of the longest user id, room id, event id, event type or state key (client-server API, "Size limits").
pub const MAX_ID_BYTES: usize = 255;
/// Bytes of the largest PDU, signatures included.
pub const MAX_PDU_BYTES: usize = 65_535;
/// The largest integer of canonical JSON.
const MAX_DEPTH: i64 = (1 << 53) - 1;

/// A draft's content, checked, in the two shapes that are needed.
pub(super) struct Content {
    object: CanonicalJsonObject,
    raw: Box<RawValue>,
}

impl Content {
    /// Canonical JSON of the draft's content, with `redacts` where the room version keeps it.
    pub(super) fn of(draft: &Draft, redacts: Option<&EventId>, rules: &RoomVersionRules) -> Outcome<Self> {
        let mut object: CanonicalJsonObject = serde_json::from_str(draft.content.get())
            .map_err(|e| DomainError::bad_json(format!("content is no object of canonical JSON: {e}")))?;
        if let Some(redacts) = redacts
            && rules.redaction.content_field_redacts
        {
            object.insert("redacts".to_owned(), text(redacts.as_str()));
        }
        let raw = serde_json::value::to_raw_value(&object)
            .map_err(|e| DomainError::internal(format!("content does not serialize: {e}")))?;
        Ok(Self { object, raw })
    }

    /// Whether an event with this content by this sender would repeat `standing`.
    pub(super) fn repeats(&self, standing: &Pdu, draft: &Draft) -> bool {
        standing.sender == draft.sender
            && serde_json::from_str::<CanonicalJsonObject>(standing.content.get()).is_ok_and(|c| c == self.object)
    }
}

fn text(value: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(value.to_owned())
}

fn integer(value: i64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(Int::new_saturating(value))
}

/// Refuses names that no event may carry.
pub(super) fn check_names(draft: &Draft) -> Outcome<()> {
    let state_key = draft.state_key.as_deref().unwrap_or_default();
    for (name, value) in [
        ("type", draft.kind.as_str()),
        ("state_key", state_key),
        ("sender", draft.sender.as_str()),
    ] {
        if value.len() > MAX_ID_BYTES {
            return Err(DomainError::too_large(format!(
                "{name} is longer than {MAX_ID_BYTES} bytes"
            )));
        }
    }
    if draft.kind.is_empty() {
        return Err(DomainError::invalid_param("the event type is empty"));
    }
    if draft.kind == "m.room.create" {
        return Err(DomainError::forbidden("a room has only one create event"));
    }
    Ok(())
}

/// Whether references to events carry their hashes (room versions 1 and 2).
pub(super) fn needs_parent_hashes(rules: &RoomVersionRules) -> bool {
    rules.events_reference_format == EventsReferenceFormatVersion::V1
}

/// `prev_events` or `auth_events`, as the room version writes them.
fn references<'a>(
    events: impl Iterator<Item = (&'a EventId, Option<Arc<Pdu>>)>,
    rules: &RoomVersionRules,
) -> Outcome<CanonicalJsonValue> {
    let list: Result<Vec<_>, PduError> = events
        .map(|(id, pdu)| parse::reference(id, pdu.as_deref(), rules))
        .collect();
    list.map(CanonicalJsonValue::Array)
        .map_err(|e| DomainError::internal(format!("reference: {e}")))
}

/// The parents of the next event: the extremities, or some of them if there are too many.
pub(super) fn parents(extremities: &[Extremity]) -> Vec<Extremity> {
    let chosen = choose_prev_events(extremities, |extremity| extremity.depth);
    chosen.into_iter().cloned().collect()
}

/// The unsigned event that `draft` asks for, as the next event of `room`.
pub(super) fn unsealed(
    room: &RoomSnapshot,
    draft: &Draft,
    content: Content,
    redacts: Option<&EventId>,
    now: i64,
    lookup: impl Fn(&EventId) -> Option<Arc<StoredEvent>>,
) -> Outcome<CanonicalJsonObject> {
    let rules = &room.rules;
    let parents = parents(&room.extremities);
    let depth = parents
        .iter()
        .map(|e| e.depth)
        .max()
        .unwrap_or(0)
        .saturating_add(1)
        .min(MAX_DEPTH);
    let prev = parents.iter().map(|e| {
        let pdu = if needs_parent_hashes(rules) {
            lookup(&e.event_id).map(|e| e.pdu.clone())
        } else {
            None
        };
        (&*e.event_id, pdu)
    });
    let state = |kind: &str, key: &str| room.state_event(kind, key).cloned();
    let state_key = draft.state_key.as_deref();
    let auth = auth::auth_events_for(&draft.kind, &draft.sender, state_key, &content.raw, rules, state)
        .map_err(DomainError::bad_json)?;
    let auth = auth.iter().map(|e| (e.event_id(), Some(e.pdu.clone())));
    let sent = ts(draft.origin_server_ts.unwrap_or(now));
    let mut object = CanonicalJsonObject::from_iter([
        ("auth_events".to_owned(), references(auth, rules)?),
        ("content".to_owned(), CanonicalJsonValue::Object(content.object)),
        ("depth".to_owned(), integer(depth)),
        ("origin_server_ts".to_owned(), integer(sent.get().into())),
        ("prev_events".to_owned(), references(prev, rules)?),
        ("room_id".to_owned(), text(room.room_id.as_str())),
        ("sender".to_owned(), text(draft.sender.as_str())),
        ("type".to_owned(), text(&draft.kind)),
    ]);
    if let Some(state_key) = state_key {
        object.insert("state_key".to_owned(), text(state_key));
    }
    if let Some(redacts) = redacts
        && !rules.redaction.content_field_redacts
    {
        object.insert("redacts".to_owned(), text(redacts.as_str()));
    }
    Ok(object)
}

/// A create event of this server, unsigned. `room_id` is `None` where the version derives it from the event.
#[must_use]
pub fn unsealed_create(
    sender: &str,
    content: CanonicalJsonObject,
    room_id: Option<&RoomId>,
    now: i64,
) -> CanonicalJsonObject {
    let mut object = CanonicalJsonObject::from_iter([
        ("auth_events".to_owned(), CanonicalJsonValue::Array(Vec::new())),
        ("content".to_owned(), CanonicalJsonValue::Object(content)),
        ("depth".to_owned(), integer(1)),
        ("origin_server_ts".to_owned(), integer(ts(now).get().into())),
        ("prev_events".to_owned(), CanonicalJsonValue::Array(Vec::new())),
        ("sender".to_owned(), text(sender)),
        ("state_key".to_owned(), text("")),
        ("type".to_owned(), text("m.room.create")),
    ]);
    if let Some(room_id) = room_id {
        object.insert("room_id".to_owned(), text(room_id.as_str()));
    }
    object
}

/// Hashes and signs an event of this server and names it.
///
/// # Errors
/// `M_TOO_LARGE` above 65 535 bytes; `M_BAD_JSON` when the object is no PDU of this room version.
pub fn seal(mut object: CanonicalJsonObject, rules: &RoomVersionRules, origin: &Origin) -> Outcome<Pdu> {
    let mut given: Option<OwnedEventId> = None;
    if rules.event_id_format == EventIdFormatVersion::V1 {
        let id = format!("${}:{}", origin.rng.alphanumeric(20), origin.server);
        object.insert("event_id".to_owned(), text(&id));
        given = Some(EventId::parse(id).map_err(|e| DomainError::internal(format!("event id: {e}")))?);
    }
    hash_and_sign_event(origin.server.as_str(), &*origin.key, &mut object, &rules.redaction).map_err(|e| match e {
        ruma::signatures::JsonError::PduTooLarge => too_large(),
        e => DomainError::internal(format!("signing: {e}")),
    })?;
    let size = serde_json::to_string(&object).map_or(usize::MAX, |json| json.len());
    if size > MAX_PDU_BYTES {
        return Err(too_large());
    }
    let bad = |e: PduError| DomainError::bad_json(e.to_string());
    parse::check_format(&object, rules).map_err(bad)?;
    parse::pdu_from_object(&object, rules, given).map_err(bad)
}

fn too_large() -> DomainError {
    DomainError::too_large(format!("the event is larger than {MAX_PDU_BYTES} bytes"))
}
