//! Invites of local users to rooms of other servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::api::federation::membership::RawStrippedState;
use ruma::canonical_json::CanonicalJsonObject;
use ruma::events::TimelineEventType;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{EventId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::proof::{self, Proof};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::flows::{guard, membership};
use crate::hub::Hub;
use crate::room::commands::{Incoming, OutOfRoom};
use crate::room::event::Pdu;
use crate::room::export::access::is_in;
use crate::room::render::stripped_event;
use crate::room::{acl, parse, rules};

/// State events that are taken along with an invite.
const MAX_STATE: usize = 64;

/// An invite from another server.
#[derive(Debug)]
pub struct Invitation<'a> {
    /// The server.
    pub origin: &'a ServerName,
    /// The room, as the request's path names it.
    pub room_id: &'a RoomId,
    /// The event, as the request's path names it.
    pub event_id: &'a EventId,
    /// The room's version.
    pub version: RoomVersionId,
    /// The event, signed by the server.
    pub event: &'a RawValue,
    /// What tells the user which room it is.
    pub state: Vec<RawStrippedState>,
}

/// Signs an invite and keeps it for its user, unless this server is in the room: it then comes like every other event.
/// Answers the event with this server's signature.
///
/// # Errors
/// 400 `M_INCOMPATIBLE_ROOM_VERSION`; 400 `M_INVALID_PARAM` for what is no invite of a local user by one of the server's, not
/// well signed, or comes with state that is not the room's; 403 `M_FORBIDDEN` for users that there are not and rooms that
/// shut the server out; 403 `M_INVITE_BLOCKED`.
pub async fn receive(hub: &Hub, invitation: Invitation<'_>) -> Outcome<CanonicalJsonObject> {
    let env = hub.env();
    let version = invitation.version.clone();
    let rules = rules::rules_for(&version).ok_or_else(|| incompatible(&version))?;
    let room = env.rooms.view(invitation.room_id).await?;
    let here = room.filter(|room| is_in(room, &env.server_name));
    if here.as_ref().is_some_and(|room| !acl::allows(room, invitation.origin)) {
        let message = format!("{} is denied access to {}", invitation.origin, invitation.room_id);
        return Err(DomainError::forbidden(message));
    }
    let mut object = parse::canonical(invitation.event.get()).map_err(|e| DomainError::bad_json(e.to_string()))?;
    let unsigned = object.remove("unsigned");
    let user = invited(env, &object, &rules, &invitation)?;
    proof::proven(env, &rules, &object).await?;
    check_user(env, &object, &user).await?;
    membership::refuse_blocked(env, invitation.room_id).await?;
    let stripped = stripped_state(env, &rules, &invitation).await?;
    let signed = sign(env, &rules, &mut object)?;
    if here.is_none() {
        let event = OutOfRoom {
            version: version.to_string(),
            stripped: with_own(stripped, &signed),
            event: Incoming::of(&signed),
        };
        hub.rooms().out_of_room(invitation.room_id, event).await?;
    }
    if let Some(unsigned) = unsigned {
        object.insert("unsigned".to_owned(), unsigned);
    }
    Ok(object)
}

fn incompatible(version: &RoomVersionId) -> DomainError {
    let message = format!("this server does not support room version {version}");
    DomainError::matrix(400, "M_INCOMPATIBLE_ROOM_VERSION", message).with("room_version", version.as_str())
}

/// The local user whom the event invites.
fn invited(
    env: &Env,
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    invitation: &Invitation<'_>,
) -> Outcome<OwnedUserId> {
    let refusal = |error: parse::PduError| DomainError::invalid_param(error.to_string());
    parse::check_format(object, rules).map_err(refusal)?;
    let pdu = parse::pdu_from_object(object, rules, None).map_err(refusal)?;
    let user = pdu.state_key.as_deref().and_then(|key| UserId::parse(key).ok());
    let user = user.filter(|user| env.is_local(user));
    let faults = [
        (pdu.room_id != invitation.room_id, "it belongs to another room"),
        (
            pdu.event_id != invitation.event_id,
            "it has another id than the request says",
        ),
        (
            pdu.kind != TimelineEventType::RoomMember,
            "it is no m.room.member event",
        ),
        (!pdu.has_membership("invite"), "it is about another membership"),
        (
            pdu.sender.server_name() != invitation.origin,
            "its sender belongs to another server",
        ),
        (user.is_none(), "it is about no user of this server"),
    ];
    match (faults.iter().find(|(is_at_fault, _)| *is_at_fault), user) {
        (None, Some(user)) => Ok(user),
        (fault, _) => {
            let fault = fault.map_or("", |(_, fault)| fault);
            let message = format!("this is no invite by a user of {}: {fault}", invitation.origin);
            Err(DomainError::invalid_param(message))
        }
    }
}

/// The user must be there and take invites.
async fn check_user(env: &Env, invite: &CanonicalJsonObject, user: &UserId) -> Outcome<()> {
    let view = crate::session::load::view(env, user).await?;
    if view.is_none_or(|view| view.deactivated) {
        return Err(DomainError::forbidden(format!("{user} cannot be invited")));
    }
    let sender = invite.get("sender").and_then(|sender| sender.as_str());
    match sender.map(<&UserId>::try_from) {
        Some(Ok(sender)) => guard::invite(env, sender, user).await,
        _ => Err(DomainError::invalid_param("the invite has no sender")),
    }
}

fn sign(env: &Env, rules: &RoomVersionRules, object: &mut CanonicalJsonObject) -> Outcome<Pdu> {
    let refusal = |error: &dyn std::fmt::Display| DomainError::invalid_param(format!("the invite: {error}"));
    ruma::signatures::hash_and_sign_event(env.server_name.as_str(), &*env.key, object, &rules.redaction)
        .map_err(|e| refusal(&e))?;
    // With one more signature it may have become too large.
    parse::check_format(object, rules).map_err(|e| refusal(&e))?;
    parse::pdu_from_object(object, rules, None).map_err(|e| refusal(&e))
}

/// A stripped state event as servers send them that do not send whole ones.
#[derive(Serialize, Deserialize)]
struct Stripped {
    content: Box<RawValue>,
    sender: OwnedUserId,
    state_key: String,
    r#type: String,
}

/// The state that came along, as clients get it.
///
/// Where a room is named after its create event, that event must be there and everything must be whole and of the room.
async fn stripped_state(
    env: &Env,
    rules: &Arc<RoomVersionRules>,
    invitation: &Invitation<'_>,
) -> Outcome<Vec<Box<RawValue>>> {
    let strict = rules.authorization.room_create_event_id_as_room_id;
    let bad = |message: String| DomainError::invalid_param(format!("invite_room_state: {message}"));
    if invitation.state.len() > MAX_STATE {
        return Err(bad(format!("there are more than {MAX_STATE} events")));
    }
    let mut whole = Vec::new();
    let mut events = Vec::new();
    for entry in &invitation.state {
        match entry {
            RawStrippedState::Pdu(pdu) => match read_state(pdu, rules, invitation.room_id) {
                Ok(object) => whole.push(object),
                Err(reason) if strict => return Err(bad(reason)),
                Err(_) => {}
            },
            _ if strict => return Err(bad("an event is not whole".to_owned())),
            old => events.extend(old_format(old)),
        }
    }
    let mut created = false;
    for (object, proof) in whole.iter().zip(proof::prove(env, rules, whole.clone()).await?) {
        match proof {
            Proof::Good(pdu) => {
                created |= pdu.is_state("m.room.create", "");
                events.push(stripped_event(&pdu));
            }
            Proof::Forged(reason) if strict => return Err(bad(reason)),
            Proof::Forged(_) => {}
            // Those who signed it may be gone. A create event is proved by the room's id where that is its hash.
            Proof::Unproven => {
                let pdu = parse::pdu_from_object(object, rules, None).map_err(|e| bad(e.to_string()))?;
                let is_create = pdu.is_state("m.room.create", "");
                if is_create || !strict {
                    created |= is_create;
                    events.push(stripped_event(&pdu));
                }
            }
        }
    }
    if strict && !created {
        return Err(bad("the create event is not among it".to_owned()));
    }
    Ok(events)
}

/// A whole state event of the room.
fn read_state(pdu: &RawValue, rules: &RoomVersionRules, room_id: &RoomId) -> Result<CanonicalJsonObject, String> {
    let mut object = parse::canonical(pdu.get()).map_err(|e| e.to_string())?;
    object.remove("unsigned");
    parse::check_format(&object, rules).map_err(|e| e.to_string())?;
    let pdu = parse::pdu_from_object(&object, rules, None).map_err(|e| e.to_string())?;
    if pdu.room_id != room_id {
        return Err(format!("{} belongs to another room", pdu.event_id));
    }
    if pdu.state_key.is_none() {
        return Err(format!("{} is no state", pdu.event_id));
    }
    Ok(object)
}

fn old_format(entry: &RawStrippedState) -> Option<Box<RawValue>> {
    let json = serde_json::to_string(entry).ok()?;
    let event: Stripped = serde_json::from_str(&json)
        .ok()
        .filter(|_| json.len() <= crate::room::plan::MAX_PDU_BYTES)?;
    serde_json::value::to_raw_value(&event).ok()
}

/// The state with the invite itself, one event of each key.
fn with_own(state: Vec<Box<RawValue>>, invite: &Pdu) -> Vec<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Key {
        state_key: String,
        r#type: String,
    }
    let mut by_key: BTreeMap<(String, String), Box<RawValue>> = BTreeMap::new();
    for event in state.into_iter().chain([stripped_event(invite)]) {
        if let Ok(Key { state_key, r#type }) = serde_json::from_str(event.get()) {
            by_key.insert((r#type, state_key), event);
        }
    }
    by_key.into_values().collect()
}
