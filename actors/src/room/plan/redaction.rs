//! Redactions: which event a draft prunes, and whether its sender may.

use std::sync::Arc;

use ruma::OwnedEventId;
use ruma::room_version_rules::RoomVersionRules;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{DomainError, Outcome};
use crate::room::auth::Power;
use crate::room::commands::Draft;
use crate::room::event::StoredEvent;
use crate::room::redact;
use crate::room::render::{Extras, RoomIdField, Viewer, client_event};
use crate::room::snapshot::RoomSnapshot;

/// The type of redactions.
pub(super) const KIND: &str = "m.room.redaction";

/// The event that the draft names for pruning, by its own field or by its content.
pub(super) fn target(draft: &Draft) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Content {
        redacts: Option<OwnedEventId>,
    }
    if draft.kind != KIND || draft.state_key.is_some() {
        return None;
    }
    let named = || serde_json::from_str::<Content>(draft.content.get()).ok()?.redacts;
    draft.redacts.clone().or_else(named)
}

/// Whether the sender may prune `target`: their own events, or anybody's with the room's `redact` level
/// (client-server API, "Redactions").
pub(super) fn check(room: &RoomSnapshot, draft: &Draft, target: Option<&StoredEvent>) -> Outcome<()> {
    let target = target.ok_or_else(|| DomainError::not_found("the event to redact is not known in this room"))?;
    if target.room_nid != room.nid {
        return Err(DomainError::not_found("the event to redact is not known in this room"));
    }
    if super::is_create(&target.pdu.kind) {
        return Err(DomainError::forbidden("the create event cannot be redacted"));
    }
    if target.pdu.sender == draft.sender {
        return Ok(());
    }
    let state = |kind: &str, key: &str| room.state_event(kind, key).map(|event| event.pdu.clone());
    let power = Power::of(&room.rules, state).map_err(DomainError::internal)?;
    if power.may_redact(&draft.sender) {
        Ok(())
    } else {
        Err(DomainError::forbidden(
            "your power level does not suffice to redact events of others",
        ))
    }
}

/// What a redaction leaves of an event.
pub(in crate::room) fn prune(
    target: &StoredEvent,
    by: &StoredEvent,
    rules: &RoomVersionRules,
) -> Outcome<Arc<StoredEvent>> {
    let pdu = redact::prune_pdu(&target.pdu, rules)
        .map_err(|e| DomainError::internal(format!("pruning {}: {e}", target.event_id())))?;
    Ok(Arc::new(StoredEvent {
        redacted_by: Some(by.pdu.event_id.clone()),
        unsigned: Some(Arc::from(unsigned(by))),
        pdu: Arc::new(pdu),
        ..target.clone()
    }))
}

/// The unsigned data of `successor` once the event it replaced is pruned; `None` where nothing changes.
pub(in crate::room) fn forgetful(successor: &StoredEvent, pruned: &StoredEvent) -> Option<Arc<StoredEvent>> {
    if successor.redacted_by.is_some() {
        return None;
    }
    let mut unsigned: Map<String, Value> = serde_json::from_str(successor.unsigned.as_deref()?).ok()?;
    if unsigned.get("replaces_state").and_then(Value::as_str) != Some(pruned.event_id().as_str()) {
        return None;
    }
    unsigned.insert("prev_content".to_owned(), pruned.pdu.content_as().unwrap_or_default());
    let unsigned = Some(Arc::from(Value::Object(unsigned).to_string()));
    Some(Arc::new(StoredEvent {
        unsigned,
        ..successor.clone()
    }))
}

/// `{"redacted_because": …}`, with the redaction as clients get it.
pub(in crate::room) fn unsigned(redaction: &StoredEvent) -> String {
    let viewer = Viewer {
        user: redaction.pdu.sender.clone(),
        device: None,
        now: redaction.pdu.origin_server_ts.get().into(),
    };
    let rendered = client_event(redaction, &viewer, RoomIdField::Shown, Extras::default());
    let mut because: Map<String, Value> = serde_json::from_str(rendered.get()).unwrap_or_default();
    // An age written down is wrong as soon as it is read.
    because.remove("unsigned");
    json!({ "redacted_because": because }).to_string()
}
