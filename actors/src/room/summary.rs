//! A room in a few lines: for directories, spaces and previews (client-server API, `room_summary`).

use std::sync::Arc;

use ruma::{OwnedRoomId, RoomVersionId};
use serde::Serialize;
use serde_json::{Map, Value};

use super::event::StoredEvent;
use super::snapshot::RoomSnapshot;
use crate::error::{DomainError, Outcome};

/// The types of the state events a summary is made of; all have an empty state key.
pub const TYPES: [&str; 9] = [
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.create",
    "m.room.encryption",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.name",
    "m.room.topic",
];

/// What a room shows of itself to those outside.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// `m.room.name`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `m.room.topic`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// `m.room.canonical_alias`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    /// `m.room.avatar`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// How many are joined.
    pub num_joined_members: u64,
    /// Whether everybody may read it.
    pub world_readable: bool,
    /// Whether guests may join it.
    pub guest_can_join: bool,
    /// `m.room.join_rules`
    pub join_rule: String,
    /// The room's type, like `m.space`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// The algorithm of `m.room.encryption`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The room's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_version: Option<String>,
    /// The rooms whose members may join, where the join rule names some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<String>,
}

impl Summary {
    /// From state events with an empty state key.
    #[must_use]
    pub fn of(
        room_id: OwnedRoomId,
        version: &RoomVersionId,
        joined: u64,
        state: impl Fn(&str) -> Option<Arc<StoredEvent>>,
    ) -> Self {
        let content = |kind: &str| -> Map<String, Value> {
            state(kind)
                .and_then(|event| event.pdu.content_as().ok())
                .unwrap_or_default()
        };
        let text = |kind: &str, field: &str| {
            let value = content(kind).get(field)?.as_str()?.to_owned();
            (!value.is_empty()).then_some(value)
        };
        let rules = content("m.room.join_rules");
        let allowed = rules.get("allow").and_then(Value::as_array);
        let allowed = allowed
            .into_iter()
            .flatten()
            .filter_map(|allow| allow["room_id"].as_str());
        Self {
            room_id,
            name: text("m.room.name", "name"),
            topic: text("m.room.topic", "topic"),
            canonical_alias: text("m.room.canonical_alias", "alias"),
            avatar_url: text("m.room.avatar", "url"),
            num_joined_members: joined,
            world_readable: text("m.room.history_visibility", "history_visibility").as_deref()
                == Some("world_readable"),
            guest_can_join: text("m.room.guest_access", "guest_access").as_deref() == Some("can_join"),
            join_rule: text("m.room.join_rules", "join_rule").unwrap_or_else(|| "invite".to_owned()),
            room_type: text("m.room.create", "type"),
            encryption: text("m.room.encryption", "algorithm"),
            room_version: Some(version.to_string()),
            allowed_room_ids: allowed.map(str::to_owned).collect(),
        }
    }

    /// From a room in memory.
    #[must_use]
    pub fn of_room(room: &RoomSnapshot) -> Self {
        let state = |kind: &str| room.state_event(kind, "").cloned();
        Self::of(room.room_id.clone(), &room.version, room.joined_count, state)
    }

    /// Whether name, topic or alias hold the text, whatever the case. `term` is lower-case.
    #[must_use]
    pub fn mentions(&self, term: &str) -> bool {
        let texts = [&self.name, &self.topic, &self.canonical_alias];
        texts
            .into_iter()
            .flatten()
            .any(|text| text.to_lowercase().contains(term))
    }

    /// With further members.
    ///
    /// # Errors
    /// `Internal` when it does not serialise.
    pub fn with(&self, more: impl IntoIterator<Item = (&'static str, Value)>) -> Outcome<Value> {
        let mut value = serde_json::to_value(self)
            .map_err(|e| DomainError::internal(format!("a summary does not serialise: {e}")))?;
        for (name, member) in more {
            value[name] = member;
        }
        Ok(value)
    }
}
