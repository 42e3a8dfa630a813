//! Memberships of other servers' users in rooms that this server is in: the resident's side of the handshakes, and invites
//! of local users to rooms of other servers.
//!
//! Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)", "Inviting to a
//! room", "Third-party invites".

mod answer;
mod invite;
mod make;
mod proof;
mod restricted;
mod send;
mod third_party;

pub use answer::{join, knock};
pub use invite::{Invitation, receive};
pub use make::{Asked, Template, make};
pub use send::{Accepted, Sent, send};
pub use third_party::{Exchange, bound, exchange};

/// What a handshake leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The user joins.
    Join,
    /// The user leaves, or rejects an invite.
    Leave,
    /// The user asks to be let in.
    Knock,
}

impl Step {
    /// The `membership` of the event.
    #[must_use]
    pub fn membership(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Knock => "knock",
        }
    }
}

#[cfg(test)]
mod tests;
