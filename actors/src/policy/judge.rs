//! This server as the policy server of rooms: which events it signs.

use ruma::ServerName;
use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use ruma::signatures::content_hash;
use serde_json::value::RawValue;

use super::{Policy, is_exempt};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::key::ServerKey;
use crate::room::acl;
use crate::room::event::Pdu;
use crate::room::parse;
use crate::room::snapshot::RoomSnapshot;

/// What the operator does not want in the rooms that this server protects.
#[derive(Clone, Debug)]
pub struct PolicyRules {
    /// The key to sign with; its version is [`super::KEY_VERSION`].
    pub key: ServerKey,
    /// Texts that no content may have, lower case.
    pub words: Vec<String>,
    /// Patterns of senders, with `*` and `?`, lower case.
    pub users: Vec<String>,
    /// Patterns of senders' servers, without their ports, lower case.
    pub servers: Vec<String>,
}

impl PolicyRules {
    /// Why the event is not wanted, if it is not.
    fn refuses(&self, pdu: &Pdu, content: &CanonicalJsonValue) -> Option<&'static str> {
        let sender = pdu.sender.as_str().to_lowercase();
        let server = pdu.sender.server_name().host().to_ascii_lowercase();
        let named = |patterns: &[String], text: &str| {
            let mut patterns = patterns.iter();
            patterns.any(|pattern| acl::matches(pattern.as_bytes(), text.as_bytes()))
        };
        if named(&self.users, &sender) {
            return Some("The policy server refuses events of this user");
        }
        if named(&self.servers, &server) {
            return Some("The policy server refuses events of this server");
        }
        let has = |text: &str| {
            let text = text.to_lowercase();
            self.words.iter().any(|word| text.contains(word.as_str()))
        };
        any_text(content, &has).then_some("The policy server refuses what the event says")
    }
}

/// Whether any text in it, keys of objects aside, is like that.
fn any_text(value: &CanonicalJsonValue, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        CanonicalJsonValue::String(text) => is(text),
        CanonicalJsonValue::Array(items) => items.iter().any(|item| any_text(item, is)),
        CanonicalJsonValue::Object(members) => members.values().any(|member| any_text(member, is)),
        _ => false,
    }
}

/// Signs an event that another server sends for that; answers the signature.
///
/// # Errors
/// 404 `M_UNRECOGNIZED` where this is no policy server, 404 `M_NOT_FOUND` for rooms that do not use it, 403 `M_FORBIDDEN` for
/// servers that the room keeps out, 400 `M_BAD_JSON` for what is no event, 400 `M_FORBIDDEN` for events that it refuses.
pub async fn sign(env: &Env, origin: &ServerName, event: &RawValue) -> Outcome<String> {
    if env.settings.policy.is_none() {
        return Err(DomainError::unrecognized("This server is not a policy server"));
    }
    let bad = |error: parse::PduError| DomainError::bad_json(error.to_string());
    let mut object = parse::canonical(event.get()).map_err(bad)?;
    object.remove("unsigned");
    let room_id = match object.get("room_id") {
        Some(CanonicalJsonValue::String(id)) => ruma::RoomId::parse(id).ok(),
        _ => None,
    };
    let room_id = room_id.ok_or_else(|| DomainError::bad_json("the event names no room"))?;
    let room = env.rooms.view(&room_id).await?;
    let protected = |room: &RoomSnapshot| Policy::of(room).is_some_and(|policy| policy.via == env.server_name);
    let room = room.filter(|room| protected(room));
    let room = room.ok_or_else(|| DomainError::not_found("Unknown room"))?;
    if !acl::allows(&room, origin) {
        return Err(DomainError::forbidden(
            "Your server is not allowed to request a signature",
        ));
    }
    parse::check_format(&object, &room.rules).map_err(bad)?;
    let pdu = parse::pdu_from_object(&object, &room.rules, None).map_err(bad)?;
    judge(env, &room, &object, &pdu)
}

/// Signs an event of a room that this server protects.
pub(super) fn judge(env: &Env, room: &RoomSnapshot, object: &CanonicalJsonObject, pdu: &Pdu) -> Outcome<String> {
    let refused = |why: &str| DomainError::matrix(400, "M_FORBIDDEN", why);
    let Some(rules) = &env.settings.policy else {
        return Err(DomainError::unrecognized("This server is not a policy server"));
    };
    if is_exempt(&pdu.kind, pdu.state_key.as_deref()) {
        return Err(refused("Policy servers do not sign the event that names them"));
    }
    // What is signed is the event without most of its content: that has to be the one that was looked at.
    if !is_hashed(object) {
        return Err(DomainError::bad_json("the content hash does not hold"));
    }
    let content = object.get("content").cloned().unwrap_or(CanonicalJsonValue::Null);
    if let Some(why) = rules.refuses(pdu, &content) {
        let (room_id, event_id, sender) = (&room.room_id, &pdu.event_id, &pdu.sender);
        tracing::info!(%room_id, %event_id, %sender, why, "an event was not signed");
        return Err(refused(why));
    }
    ::rules::policy::sign(object, &room.rules, &env.server_name, &rules.key)
        .map_err(|error| DomainError::bad_json(error.to_string()))
}

fn is_hashed(object: &CanonicalJsonObject) -> bool {
    let Some(CanonicalJsonValue::Object(hashes)) = object.get("hashes") else {
        return false;
    };
    let Some(CanonicalJsonValue::String(told)) = hashes.get("sha256") else {
        return false;
    };
    content_hash(object).is_ok_and(|hash| hash.encode() == told.trim_end_matches('='))
}
