//! The answer of `/sync` (client-server API, "Syncing"): shapes only.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::Serialize;
use serde_json::value::RawValue;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `{"events": […]}`
#[derive(Debug, Default, Serialize)]
pub struct Events {
    /// The events.
    pub events: Vec<Box<RawValue>>,
}

impl Events {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// State events as `(state, state_after)`: one of them stands in an answer, empty or not.
    #[must_use]
    pub fn before_or_after(events: Vec<Box<RawValue>>, after: bool) -> (Option<Self>, Option<Self>) {
        let events = Some(Self { events });
        if after { (None, events) } else { (events, None) }
    }
}

/// A room's timeline.
#[derive(Debug, Default, Serialize)]
pub struct Timeline {
    /// Oldest first.
    pub events: Vec<Box<RawValue>>,
    /// Whether there are more between `since` and the first one.
    pub limited: bool,
    /// Where to page back from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
}

/// Who is in a room, for its name.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Members to name the room after.
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<OwnedUserId>>,
    /// Joined members.
    #[serde(rename = "m.joined_member_count", skip_serializing_if = "Option::is_none")]
    pub joined: Option<u64>,
    /// Invited members.
    #[serde(rename = "m.invited_member_count", skip_serializing_if = "Option::is_none")]
    pub invited: Option<u64>,
}

/// Unread counts of a room or thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// Those that highlight.
    pub highlight_count: u64,
    /// Those that notify, highlights included.
    pub notification_count: u64,
}

/// A room the user is joined to.
#[derive(Debug, Default, Serialize)]
pub struct Joined {
    /// The timeline.
    pub timeline: Timeline,
    /// State up to the start of the timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Events>,
    /// State at the end of the timeline (MSC4222), in place of `state` where the client asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_after: Option<Events>,
    /// Room account data.
    pub account_data: Events,
    /// Receipts and typing.
    pub ephemeral: Events,
    /// Left out where nothing changed.
    #[serde(skip_serializing_if = "is_default")]
    pub summary: Summary,
    /// Unread counts.
    pub unread_notifications: Unread,
    /// By thread root, where the filter asks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread_thread_notifications: BTreeMap<String, Unread>,
}

/// A room the user left, in the range or (where the filter asks) ever.
#[derive(Debug, Default, Serialize)]
pub struct Left {
    /// Up to the departure.
    pub timeline: Timeline,
    /// See [`Joined::state`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Events>,
    /// See [`Joined::state_after`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_after: Option<Events>,
    /// Room account data.
    pub account_data: Events,
}

/// A room the user is invited to.
#[derive(Debug, Default, Serialize)]
pub struct Invited {
    /// Stripped.
    pub invite_state: Events,
}

/// A room the user knocked on.
#[derive(Debug, Default, Serialize)]
pub struct Knocked {
    /// Stripped.
    pub knock_state: Events,
}

/// Rooms by the user's membership.
#[derive(Debug, Default, Serialize)]
pub struct Rooms {
    /// `join`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub join: BTreeMap<OwnedRoomId, Joined>,
    /// `invite`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub invite: BTreeMap<OwnedRoomId, Invited>,
    /// `knock`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub knock: BTreeMap<OwnedRoomId, Knocked>,
    /// `leave`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leave: BTreeMap<OwnedRoomId, Left>,
}

impl Rooms {
    /// Whether no room is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.join.is_empty() && self.invite.is_empty() && self.knock.is_empty() && self.leave.is_empty()
    }
}

/// Users whose devices the client must ask for again, and those it need not follow any more.
#[derive(Debug, Default, Serialize)]
pub struct DeviceLists {
    /// Changed, or newly shared a room with.
    pub changed: Vec<OwnedUserId>,
    /// No room is shared any more.
    pub left: Vec<OwnedUserId>,
}

impl DeviceLists {
    /// Whether nobody is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// The whole answer.
#[derive(Debug, Default, Serialize)]
pub struct SyncResponse {
    /// Where to go on.
    pub next_batch: String,
    /// Rooms.
    #[serde(skip_serializing_if = "Rooms::is_empty")]
    pub rooms: Rooms,
    /// Presence.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub presence: Events,
    /// Global account data.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub account_data: Events,
    /// The device's inbox.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub to_device: Events,
    /// Device lists.
    #[serde(skip_serializing_if = "DeviceLists::is_empty")]
    pub device_lists: DeviceLists,
    /// Always there: clients upload keys when an algorithm is missing.
    pub device_one_time_keys_count: BTreeMap<String, u64>,
    /// Always there: an empty list asks for a new fallback key.
    pub device_unused_fallback_key_types: Vec<String>,
    /// Whether one-time key counts changed, which alone is worth an answer.
    #[serde(skip)]
    pub key_counts_changed: bool,
}

impl SyncResponse {
    /// Whether a long-poll goes on waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
            && self.presence.is_empty()
            && self.account_data.is_empty()
            && self.to_device.is_empty()
            && self.device_lists.is_empty()
            && !self.key_counts_changed
    }
}
