//! What a room is called, and its events from their rows.

use std::collections::HashMap;
use std::sync::Arc;

use entities::event;
use entities::ids::RoomNid;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{OwnedRoomId, RoomId, RoomVersionId};

use super::event::StoredEvent;
use super::snapshot::RoomSnapshot;
use super::{parse, rules};
use crate::error::{DomainError, Outcome};

/// What never changes about a room.
#[derive(Clone, Debug)]
pub struct RoomName {
    /// Its number.
    pub nid: RoomNid,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The version's rules.
    pub rules: Arc<RoomVersionRules>,
}

impl RoomName {
    pub(super) fn of(room: &RoomSnapshot) -> Self {
        Self {
            nid: room.nid,
            room_id: room.room_id.clone(),
            version: room.version.clone(),
            rules: room.rules.clone(),
        }
    }

    /// From the room's row.
    ///
    /// # Errors
    /// `Internal` when the row names no room or no version this server knows.
    pub fn from_row(row: &entities::room::Model) -> Outcome<Self> {
        let broken = |what: &str| DomainError::internal(format!("room {}: {what}", row.nid));
        Ok(Self {
            nid: RoomNid(row.nid),
            room_id: RoomId::parse(row.room_id.as_str()).map_err(|_| broken("bad room id"))?,
            version: RoomVersionId::try_from(row.version.as_str()).map_err(|_| broken("bad version"))?,
            rules: rules::rules_of(&row.version).ok_or_else(|| broken("unknown version"))?,
        })
    }
}

/// Rows as events, in their order.
pub(super) fn decode(rows: &[event::Model], names: &HashMap<RoomNid, Arc<RoomName>>) -> Outcome<Vec<Arc<StoredEvent>>> {
    let one = |row: &event::Model| {
        let broken = |e: String| DomainError::internal(format!("event {}: {e}", row.event_id));
        let name = names
            .get(&RoomNid(row.room_nid))
            .ok_or_else(|| broken("unknown room".to_owned()))?;
        parse::from_row(row, &name.room_id, &name.rules)
            .map(Arc::new)
            .map_err(|e| broken(e.to_string()))
    };
    rows.iter().map(one).collect()
}
