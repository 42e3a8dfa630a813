//! Invites of other servers' users: their server signs the event before it becomes part of the room.
//!
//! Spec: server-server API, "Inviting to a room".

use std::sync::Arc;
use std::time::Duration;

use ruma::api::federation::membership::RawStrippedState;
use ruma::api::federation::membership::create_invite::v2;
use ruma::room_version_rules::EventIdFormatVersion;
use ruma::{OwnedEventId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::ask;
use super::attempts::told;
use super::cosign::cosigned;
use super::join::text;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::handle::Pace;
use crate::peer::typed;
use crate::policy;
use crate::room::commands::{Draft, Incoming, Ingest, Verdict};
use crate::room::commit::origin;
use crate::room::event::Pdu;
use crate::room::export::template::unsigned;
use crate::room::plan;
use crate::room::snapshot::RoomSnapshot;
use crate::session::sync::invited::STRIPPED;

/// How long the other server may take.
const PATIENCE: Duration = Duration::from_secs(25);
/// The room may change while the other server signs.
const TRIES: u32 = 2;

/// Whether a draft invites a user of another server.
#[must_use]
pub fn is_remote_invite(draft: &Draft, server: &ServerName) -> bool {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    let target = draft.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
    draft.kind == "m.room.member"
        && target.is_some_and(|target| target.server_name() != server)
        && serde_json::from_str::<Content>(draft.content.get()).is_ok_and(|content| content.membership == "invite")
}

/// Sends an invite of another server's user.
///
/// # Errors
/// `M_FORBIDDEN` when the room does not allow it; what the other server says, `M_INVITE_BLOCKED` and
/// `M_UNSUPPORTED_ROOM_VERSION` among it; 502 `M_UNKNOWN` when it does not answer.
pub async fn send(hub: &Hub, room_id: &RoomId, draft: &Draft) -> Outcome<OwnedEventId> {
    let target = draft.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
    let target = target.ok_or_else(|| DomainError::internal("an invite of nobody"))?;
    let mut refused = DomainError::internal("an invite was not tried");
    for _ in 0..TRIES {
        let room = hub.rooms().joined(room_id, &draft.sender).await?;
        let invite = prepared(hub, &room, draft).await?;
        let signed = signed_by(hub, &room, &invite, target.server_name()).await?;
        let event = Incoming {
            relay: true,
            ..Incoming::of(&signed)
        };
        let ingest = Ingest {
            pdus: vec![event],
            outliers: Vec::new(),
        };
        let verdicts = hub.rooms().ingest(room_id, ingest).await?;
        refused = match verdicts.into_iter().next() {
            Some(Verdict::Accepted | Verdict::Duplicate) => return Ok(signed.event_id),
            Some(Verdict::Rejected(reason)) => DomainError::forbidden(reason),
            _ => DomainError::forbidden("the room's newest state does not allow the invite"),
        };
    }
    Err(refused)
}

/// The invite, signed by this server and no part of the room yet.
async fn prepared(hub: &Hub, room: &Arc<RoomSnapshot>, draft: &Draft) -> Outcome<Pdu> {
    let env = hub.env();
    let object = unsigned(env, room, draft).await?;
    policy::agreed(env, room, plan::seal(object, &room.rules, &origin(env))?).await
}

/// The invite with the signature of the invited user's server.
async fn signed_by(hub: &Hub, room: &RoomSnapshot, invite: &Pdu, server: &ServerName) -> Outcome<Pdu> {
    let event = ask_to_sign(hub, room, invite, server)
        .await
        .map_err(|error| refusal(error, server))?;
    cosigned(hub.env(), &room.rules, invite, &event, server).await
}

async fn ask_to_sign(hub: &Hub, room: &RoomSnapshot, invite: &Pdu, server: &ServerName) -> Outcome<Box<RawValue>> {
    let state = state_for(room, &invite.sender);
    let request = v2::Request::new(
        invite.room_id.clone(),
        invite.event_id.clone(),
        room.version.clone(),
        text(invite),
        state.iter().map(|pdu| RawStrippedState::Pdu(text(pdu))).collect(),
    );
    let refused = match ask::call(hub, server, request, PATIENCE).await {
        Ok(answer) => return Ok(answer.event),
        Err(error) => error,
    };
    // Older servers do not know the second version of the endpoint; they know the first room versions only.
    let is_old_room = room.rules.event_id_format == EventIdFormatVersion::V1;
    match &refused {
        DomainError::Matrix { status: 400 | 404, .. } if is_old_room => {
            match by_first_version(hub, invite, &state, server).await {
                Err(error) if ask::is_unknown_endpoint(&error) => Err(refused),
                answer => answer,
            }
        }
        _ => Err(refused),
    }
}

async fn by_first_version(hub: &Hub, invite: &Pdu, state: &[Arc<Pdu>], server: &ServerName) -> Outcome<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Told {
        event: Box<RawValue>,
    }
    let broken = |error: serde_json::Error| DomainError::internal(format!("an invite: {error}"));
    let mut body: Value = serde_json::from_str(&invite.json).map_err(broken)?;
    let state: Vec<Box<RawValue>> = state.iter().map(|pdu| text(pdu)).collect();
    body["unsigned"] = json!({ "invite_room_state": state });
    let request = v2::Request::new(
        invite.room_id.clone(),
        invite.event_id.clone(),
        ruma::RoomVersionId::V1,
        text(invite),
        Vec::new(),
    );
    let mut request = typed::outgoing(request)?;
    request.path = request.path.replacen("/federation/v2/", "/federation/v1/", 1);
    request.body = Some(serde_json::value::to_raw_value(&body).map_err(broken)?);
    request.timeout = request.timeout.min(PATIENCE);
    let answer = hub.peers().send(server, request, Pace::Now).await?;
    ask::Answer::V1(answer).read::<Told>().map(|told| told.event)
}

/// What tells the invited user about the room, the create event first.
fn state_for(room: &RoomSnapshot, inviter: &UserId) -> Vec<Arc<Pdu>> {
    let kinds = STRIPPED.iter().filter_map(|kind| room.state_event(kind, ""));
    let inviter = room.state_event("m.room.member", inviter.as_str());
    kinds.chain(inviter).map(|event| event.pdu.clone()).collect()
}

/// What the inviting client is told.
fn refusal(error: DomainError, server: &ServerName) -> DomainError {
    match error {
        DomainError::Matrix { errcode, message, .. } if errcode == "M_INCOMPATIBLE_ROOM_VERSION" => {
            DomainError::unsupported_room_version(format!("{server}: {message}"))
        }
        error => told(error, "invite"),
    }
}
