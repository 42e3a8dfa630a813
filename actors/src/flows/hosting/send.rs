//! Signed member events of other servers' users: `send_join`, `send_leave`, `send_knock`.

use std::sync::Arc;
use std::time::Duration;

use ruma::canonical_json::CanonicalJsonObject;
use ruma::events::TimelineEventType;
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{Step, proof, restricted};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::flows::ingest::{self, Effort, End, Item};
use crate::hub::Hub;
use crate::room::commands::{Incoming, Ingest, Verdict};
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::export::access;
use crate::room::parse;
use crate::room::snapshot::RoomSnapshot;

/// How far to go for what such an event follows: somebody waits.
const EFFORT: Effort = Effort { rounds: 3, servers: 3 };
/// How long the server waits for that; with the search for keys before it, less than the deadline of the request.
const PARENTS: Duration = Duration::from_secs(12);

/// A member event that a server sends.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The server.
    pub origin: &'a ServerName,
    /// The room, as the request's path names it.
    pub room_id: &'a RoomId,
    /// The event, as the request's path names it.
    pub event_id: &'a EventId,
    /// The event itself.
    pub pdu: &'a RawValue,
    /// What the server says that it is.
    pub step: Step,
}

/// An event that became part of its room.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The room before it.
    pub before: Arc<RoomSnapshot>,
    /// The event, with all its signatures.
    pub event: Arc<StoredEvent>,
}

/// Checks the event and takes it into the room; the room's other servers get it from this one.
///
/// # Errors
/// 400 `M_INVALID_PARAM` for events that are not what they should be or not well signed; 403 `M_FORBIDDEN` with the
/// authorization rule that fails; 404 `M_NOT_FOUND` for rooms this server is not in; for restricted rooms as
/// [`make`](super::make); 503 `M_UNKNOWN` while what the event follows is still being fetched, which goes on.
pub async fn send(hub: &Arc<Hub>, sent: &Sent<'_>) -> Outcome<Accepted> {
    let env = hub.env();
    let before = access::complete(env, sent.room_id, sent.origin).await?;
    let mut object = parse::canonical(sent.pdu.get()).map_err(|e| DomainError::bad_json(e.to_string()))?;
    object.remove("unsigned");
    let pdu = read(&object, &before).map_err(|e| DomainError::invalid_param(e.to_string()))?;
    check(&pdu, sent).map_err(DomainError::invalid_param)?;
    if let Some(by) = authorized_by(&pdu, &before).filter(|by| env.is_local(by)) {
        // What held when the template was made may not hold any more.
        restricted::authorizer(hub, &before, &pdu.sender).await?;
        tracing::debug!(%by, user = %pdu.sender, room_id = %before.room_id, "vouching for a join");
        sign(env, &before, &mut object)?;
    }
    let pdu = proof::proven(env, &before.rules, &object).await?;
    let event = ingest(hub, &before, &pdu, sent.origin).await?;
    Ok(Accepted { before, event })
}

fn read(object: &CanonicalJsonObject, room: &RoomSnapshot) -> Result<Pdu, parse::PduError> {
    parse::check_format(object, &room.rules)?;
    parse::pdu_from_object(object, &room.rules, None)
}

/// Whether the event is what its sender says.
fn check(pdu: &Pdu, sent: &Sent<'_>) -> Result<(), String> {
    let membership = sent.step.membership();
    let faults = [
        (pdu.room_id != sent.room_id, "it belongs to another room"),
        (pdu.event_id != sent.event_id, "it has another id than the request says"),
        (
            pdu.kind != TimelineEventType::RoomMember,
            "it is no m.room.member event",
        ),
        (!pdu.has_membership(membership), "it is about another membership"),
        (
            pdu.sender.server_name() != sent.origin,
            "its sender belongs to another server",
        ),
        (
            pdu.state_key.as_deref() != Some(pdu.sender.as_str()),
            "it is about another user than its sender",
        ),
    ];
    match faults.iter().find(|(is_at_fault, _)| *is_at_fault) {
        Some((_, fault)) => Err(format!("this is no {membership} of a user of {}: {fault}", sent.origin)),
        None => Ok(()),
    }
}

/// Who vouches for a join, in room versions that know of it.
fn authorized_by(pdu: &Pdu, room: &RoomSnapshot) -> Option<OwnedUserId> {
    #[derive(Deserialize)]
    struct Content {
        join_authorised_via_users_server: Option<OwnedUserId>,
    }
    let known = room.rules.authorization.restricted_join_rule && pdu.has_membership("join");
    let content: Content = pdu.content_as().ok().filter(|_| known)?;
    content.join_authorised_via_users_server
}

/// Adds this server's signature. The hash is made anew: had it been wrong, the sender's signature would not hold any more.
fn sign(env: &Env, room: &RoomSnapshot, object: &mut CanonicalJsonObject) -> Outcome<()> {
    ruma::signatures::hash_and_sign_event(env.server_name.as_str(), &*env.key, object, &room.rules.redaction)
        .map_err(|e| DomainError::invalid_param(format!("the event cannot be signed: {e}")))
}

async fn ingest(hub: &Arc<Hub>, room: &RoomSnapshot, pdu: &Pdu, from: &ServerName) -> Outcome<Arc<StoredEvent>> {
    let incoming = Incoming {
        relay: true,
        ..Incoming::of(pdu)
    };
    let command = Ingest {
        pdus: vec![incoming],
        outliers: Vec::new(),
    };
    let mut verdict = hub.rooms().ingest(&room.room_id, command).await?.pop();
    if let Some(Verdict::Missing(missing)) = verdict {
        verdict = Some(with_parents(hub, room, pdu, from, missing).await?);
    }
    match verdict {
        Some(Verdict::Accepted | Verdict::Duplicate) => {}
        Some(Verdict::Rejected(reason)) => return Err(DomainError::forbidden(reason)),
        Some(Verdict::SoftFailed) => return Err(outdated()),
        Some(Verdict::Missing(ids)) => {
            let message = format!("the event refers to {} events that are not known here", ids.len());
            return Err(DomainError::invalid_param(message));
        }
        None => return Err(DomainError::internal("an event was taken without a verdict")),
    }
    let event = hub.env().rooms.event_by_id(&pdu.event_id).await?;
    // It may be known from before, and as refused.
    event
        .filter(|event| event.status == Status::Accepted)
        .ok_or_else(outdated)
}

/// Takes the event in with what it follows: the server may have a newer template, made by another server.
async fn with_parents(
    hub: &Arc<Hub>,
    room: &RoomSnapshot,
    pdu: &Pdu,
    from: &ServerName,
    missing: Vec<OwnedEventId>,
) -> Outcome<Verdict> {
    let item = Item {
        pdu: pdu.clone(),
        origin: from.to_owned(),
        staged: None,
        relay: true,
    };
    let permit = hub.env().ingests.members.clone().try_acquire_owned();
    let permit = permit.map_err(|_| DomainError::Overloaded { retry_after_ms: 12_000 })?;
    let (worker, room_id) = (hub.clone(), room.room_id.clone());
    let fetching = async move {
        let _permit = permit;
        ingest::with_gap(&worker, &room_id, &item, missing, EFFORT).await
    };
    let late = |_| {
        let message = "the events that this one follows are still being fetched: try again";
        DomainError::matrix(503, "M_UNKNOWN", message)
    };
    let broken = |_| DomainError::internal("fetching what an event follows ended early");
    let fetched = timeout(PARENTS, hub.env().io.spawn(fetching)).await.map_err(late)?;
    let (end, _) = fetched.map_err(broken)??;
    match end {
        End::Settled(verdict) => Ok(verdict),
        End::Open { missing, .. } => Ok(Verdict::Missing(missing)),
        End::Hopeless(reason) => Ok(Verdict::Rejected(reason)),
    }
}

fn outdated() -> DomainError {
    DomainError::forbidden("the room's newest state does not allow it")
}
