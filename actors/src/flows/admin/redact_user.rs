//! Everything that a user has said is redacted, in some rooms or in all that the user is in.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tasks::{Task, Work};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commands::Draft;

/// Events looked up at a time.
const CHUNK: u32 = 100;
/// Refusals that are told of.
const MAX_FAILED: usize = 1_000;

/// What is to be redacted, and how far that has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Redaction {
    /// Whose events.
    pub user_id: OwnedUserId,
    /// The rooms that are left.
    pub rooms: Vec<OwnedRoomId>,
    /// Why.
    pub reason: Option<String>,
    /// How many events of each room, the newest.
    pub limit: u64,
    /// Who redacts: the user itself where it is one of this server and may, the administrator otherwise.
    pub requester: OwnedUserId,
    /// Whether the administrator is to redact in any case.
    pub use_admin: bool,
    /// In the first room, events below this position are left.
    #[serde(default)]
    pub below: Option<i64>,
    /// In the first room, how many events were looked at.
    #[serde(default)]
    pub done: u64,
    /// How many were redacted.
    #[serde(default)]
    pub redacted: u64,
    /// Events that could not be, with the reason.
    #[serde(default)]
    pub failed: BTreeMap<String, String>,
}

impl Redaction {
    fn result(&self) -> Value {
        json!({ "failed_redactions": self.failed, "successful_redactions": self.redacted })
    }
}

/// Does what is left to be done.
///
/// # Errors
/// What hinders it.
pub(super) async fn run(hub: &Arc<Hub>, task: &mut Task, redaction: &mut Redaction) -> Outcome<Value> {
    while let Some(room_id) = redaction.rooms.first().cloned() {
        while let Some(below) = part(hub, redaction, &room_id).await? {
            redaction.below = Some(below);
            let result = redaction.result();
            task.note(hub, &Work::RedactUser(redaction.clone()), &result).await?;
        }
        redaction.rooms.remove(0);
        redaction.below = None;
        redaction.done = 0;
    }
    Ok(redaction.result())
}

/// Redacts a part of one room's events; below which position to go on.
async fn part(hub: &Hub, redaction: &mut Redaction, room_id: &RoomId) -> Outcome<Option<i64>> {
    let env = hub.env();
    let left = redaction.limit.saturating_sub(redaction.done);
    let Some(room) = hub.rooms().view(room_id).await?.filter(|_| left > 0) else {
        return Ok(None);
    };
    let limit = u32::try_from(left).unwrap_or(CHUNK).min(CHUNK);
    let below = redaction.below.unwrap_or(i64::MAX);
    let user = redaction.user_id.clone();
    let rows = env
        .store
        .redactable_events(room.nid.0, user.as_str(), below, limit)
        .await?;
    let next = rows.last().and_then(|row| row.pos);
    for row in rows {
        redaction.done += 1;
        let Ok(event_id) = OwnedEventId::try_from(row.event_id) else {
            continue;
        };
        match redact(hub, redaction, room_id, &event_id).await {
            Ok(()) => redaction.redacted += 1,
            Err(error @ (DomainError::Unavailable { .. } | DomainError::Overloaded { .. })) => return Err(error),
            Err(error) if redaction.failed.len() < MAX_FAILED => {
                redaction.failed.insert(event_id.to_string(), error.to_string());
            }
            Err(_) => {}
        }
    }
    Ok(next)
}

async fn redact(hub: &Hub, redaction: &Redaction, room_id: &RoomId, event_id: &OwnedEventId) -> Outcome<()> {
    let own = hub.env().is_local(&redaction.user_id) && !redaction.use_admin;
    let mut senders = vec![redaction.requester.clone()];
    if own {
        senders.insert(0, redaction.user_id.clone());
    }
    let content = match &redaction.reason {
        Some(reason) => json!({ "reason": reason }),
        None => json!({}),
    };
    let content = serde_json::value::to_raw_value(&content)
        .map_err(|e| DomainError::internal(format!("a redaction does not serialise: {e}")))?;
    let mut refusal = DomainError::forbidden("nobody may redact this event");
    for sender in senders {
        let mut draft = Draft::message(sender, "m.room.redaction", content.clone(), None);
        draft.redacts = Some(event_id.clone());
        match hub.rooms().send(room_id, draft).await {
            Ok(_) => return Ok(()),
            Err(error @ DomainError::Matrix { .. }) => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}
