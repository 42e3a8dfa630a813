//! Redactions: what remains of a redacted event, and which redactions count.
//!
//! Spec: client-server API, "Redactions"; "Redactions" and "Handling redactions" of each room version.

use ruma::events::TimelineEventType;
use ruma::room_version_rules::RoomVersionRules;

use super::auth::Power;
use super::event::Pdu;
use super::parse::{PduError, canonical, pdu_from_object};

/// What is left of a PDU, as text.
///
/// # Errors
/// When it is not a canonical PDU.
pub fn prune(json: &str, rules: &RoomVersionRules) -> Result<String, PduError> {
    let mut object = canonical(json)?;
    ruma::canonical_json::redact_in_place(&mut object, &rules.redaction, None)
        .map_err(|error| PduError::Format(error.to_string()))?;
    Ok(serde_json::to_string(&object)?)
}

/// What is left of an event.
///
/// # Errors
/// When it is not a canonical PDU.
pub fn prune_pdu(pdu: &Pdu, rules: &RoomVersionRules) -> Result<Pdu, PduError> {
    let mut object = canonical(&pdu.json)?;
    ruma::canonical_json::redact_in_place(&mut object, &rules.redaction, None)
        .map_err(|error| PduError::Format(error.to_string()))?;
    let pruned = pdu_from_object(&object, rules, Some(pdu.event_id.clone()))?;
    Ok(Pdu {
        rejected: pdu.rejected,
        ..pruned
    })
}

/// Whether `redaction`, an accepted event, prunes `target`. `power` is that of the state the redaction was sent in.
///
/// Nothing prunes a create event: the room's rules rest on it.
#[must_use]
pub fn redaction_allowed(redaction: &Pdu, target: &Pdu, rules: &RoomVersionRules, power: &Power) -> bool {
    let about = redaction.kind == TimelineEventType::RoomRedaction
        && redaction.redacts.as_ref() == Some(&target.event_id)
        && redaction.room_id == target.room_id
        && target.kind != TimelineEventType::RoomCreate;
    if !about {
        return false;
    }
    let same_origin = if rules.authorization.special_case_room_redaction {
        redaction.event_id.server_name() == target.event_id.server_name()
    } else {
        redaction.sender.server_name() == target.sender.server_name()
    };
    same_origin || power.may_redact(&redaction.sender)
}

#[cfg(test)]
#[path = "redact_tests.rs"]
mod tests;
