//! Events that somebody else is to sign.

use ruma::EventId;
use ruma::canonical_json::CanonicalJsonObject;

use super::build::{self, Content};
use super::{Input, find};
use crate::error::{DomainError, Outcome};
use crate::room::auth;
use crate::room::commands::Draft;
use crate::room::snapshot::RoomSnapshot;

/// The unsigned event that `draft` would become as the next event of `room`.
///
/// # Errors
/// `M_FORBIDDEN` with the authorization rule that fails; `M_TOO_LARGE`, `M_BAD_JSON`.
pub fn template(room: &RoomSnapshot, draft: &Draft, input: &Input<'_>) -> Outcome<CanonicalJsonObject> {
    build::check_names(draft)?;
    let content = Content::of(draft, None, &room.rules)?;
    let lookup = |id: &EventId| {
        let id = id.to_owned();
        find(room, &id).or_else(|| input.prefetched.events.get(&id)).cloned()
    };
    let object = build::unsealed(room, draft, content, None, input.now, lookup)?;
    // Authorization does not look at who has signed: this server stands in for the one that will.
    let pdu = build::seal(object.clone(), &room.rules, input.origin)?;
    let state = |kind: &str, key: &str| room.state_event(kind, key).map(|event| event.pdu.clone());
    auth::check_auth(&pdu, &room.rules, state).map_err(DomainError::forbidden)?;
    Ok(object)
}

/// An event that nobody has authorized, for tests: what a server without honour sends.
///
/// # Errors
/// When there is no such event.
#[cfg(test)]
pub(in crate::room) fn unchecked(
    room: &RoomSnapshot,
    draft: &Draft,
    input: &Input<'_>,
) -> Outcome<crate::room::event::Pdu> {
    let redacts = super::redaction::target(draft);
    let content = Content::of(draft, redacts.as_deref(), &room.rules)?;
    let lookup = |id: &EventId| {
        let id = id.to_owned();
        find(room, &id).or_else(|| input.prefetched.events.get(&id)).cloned()
    };
    let object = build::unsealed(room, draft, content, redacts.as_deref(), input.now, lookup)?;
    build::seal(object, &room.rules, input.origin)
}
