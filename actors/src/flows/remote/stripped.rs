//! What another server tells about a room that this one is not in, as clients get it.

use std::sync::Arc;

use ruma::api::federation::membership::RawStrippedState;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{RoomId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::env::Env;
use crate::error::Outcome;
use crate::flows::ingest::verify::verified;
use crate::room::render::stripped_event;

/// Events that are kept.
const MAX_EVENTS: usize = 50;
/// Bytes of one of them.
const MAX_BYTES: usize = 65_535;

/// A stripped state event as servers sent them before version 1.16.
#[derive(Serialize, Deserialize)]
struct Stripped {
    content: Box<RawValue>,
    sender: String,
    state_key: String,
    r#type: String,
}

/// The state events, stripped. What is not well-formed, not signed or of another room is left out.
///
/// # Errors
/// `Overloaded`, `Unavailable`.
pub async fn stripped(
    env: &Arc<Env>,
    rules: &Arc<RoomVersionRules>,
    room_id: &RoomId,
    server: &ServerName,
    told: Vec<RawStrippedState>,
) -> Outcome<Vec<Box<RawValue>>> {
    let mut pdus = Vec::new();
    let mut events = Vec::new();
    for event in told.into_iter().take(MAX_EVENTS) {
        match event {
            RawStrippedState::Pdu(pdu) => pdus.push(pdu),
            other => events.extend(old_format(&other)),
        }
    }
    let pdus = verified(env, rules, pdus, server).await?;
    let state = pdus
        .iter()
        .filter(|pdu| pdu.room_id == room_id && pdu.state_key.is_some());
    events.extend(state.map(stripped_event));
    Ok(events)
}

fn old_format(event: &RawStrippedState) -> Option<Box<RawValue>> {
    let json = serde_json::to_string(event)
        .ok()
        .filter(|json| json.len() <= MAX_BYTES)?;
    let event: Stripped = serde_json::from_str(&json).ok()?;
    serde_json::value::to_raw_value(&event).ok()
}
