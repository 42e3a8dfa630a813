//! Committed facts, as they leave the journal in order.

use std::sync::Arc;

use entities::ids::{RoomNid, StreamPos};
use entities::receipt;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedServerName, OwnedUserId};

use crate::room::event::StoredEvent;

/// Something that was committed (or, for typing, happened) at `pos`.
#[derive(Clone, Debug)]
pub struct Fact {
    /// An offset (0-based) in the submission; the position once committed.
    pub pos: StreamPos,
    /// The local users whose sync may change: they are woken.
    pub users: Arc<[OwnedUserId]>,
    /// What it is.
    pub kind: FactKind,
}

/// The kinds of facts.
#[derive(Clone, Debug)]
pub enum FactKind {
    /// An event that readers may see.
    Event {
        /// The room's id.
        room_id: OwnedRoomId,
        /// The event, with its final position.
        event: Arc<StoredEvent>,
        /// Servers that must get it if it is ours (empty when it came from elsewhere).
        servers: Arc<[OwnedServerName]>,
    },
    /// A receipt moved.
    Receipt {
        /// The room.
        room_nid: RoomNid,
        /// The room's id.
        room_id: OwnedRoomId,
        /// Whose.
        user: OwnedUserId,
        /// Where it points; its own position is the fact's.
        receipt: Arc<receipt::Model>,
        /// Private receipts concern their user alone.
        private: bool,
    },
    /// Who is typing changed.
    Typing {
        /// The room.
        room_nid: RoomNid,
        /// The room's id.
        room_id: OwnedRoomId,
    },
    /// Account data changed.
    AccountData {
        /// `None` for global.
        room_id: Option<OwnedRoomId>,
        /// The type.
        kind: String,
    },
    /// The user subscribed to a thread or no longer is.
    ThreadSubscription,
    /// A device's inbox got messages.
    ToDevice {
        /// Whose device.
        user: OwnedUserId,
        /// `None`: several.
        device: Option<OwnedDeviceId>,
    },
    /// A user's device list or cross-signing keys changed; `users` are those who share a room.
    DeviceList {
        /// Whose.
        user: OwnedUserId,
    },
    /// One-time key counts changed (nobody but the device itself is told).
    KeyCounts {
        /// Whose device.
        device: OwnedDeviceId,
    },
    /// A user's presence changed.
    Presence {
        /// Whose.
        user: OwnedUserId,
    },
    /// Durable EDUs wait for these servers.
    Outbound {
        /// Which.
        servers: Arc<[OwnedServerName]>,
    },
    /// The user left the room and wants to forget it.
    Forgotten {
        /// The room.
        room_nid: RoomNid,
    },
}

impl FactKind {
    /// The room it happened in, if any.
    #[must_use]
    pub fn room_nid(&self) -> Option<RoomNid> {
        match self {
            Self::Event { event, .. } => Some(event.room_nid),
            Self::Receipt { room_nid, .. } | Self::Typing { room_nid, .. } | Self::Forgotten { room_nid } => {
                Some(*room_nid)
            }
            _ => None,
        }
    }
}
