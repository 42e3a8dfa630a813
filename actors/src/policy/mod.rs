//! Policy servers: how this server asks those of its rooms, and what it says where it is one itself.
//!
//! Spec: server-server API, "Policy Servers".

pub mod judge;
mod review;

use std::sync::OnceLock;
use std::time::Duration;

use moka::sync::Cache;
use ruma::api::federation::policy::sign_event::v1::{Request, Response};
use ruma::canonical_json::CanonicalJsonObject;
use ruma::{OwnedEventId, OwnedServerName};
use serde_json::value::RawValue;

pub use ::rules::policy::{KEY_VERSION, Policy, is_exempt};
pub use review::reviewed;

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::peer::handle::{Pace, Peers};
use crate::peer::typed;
use crate::room::event::Pdu;
use crate::room::parse;
use crate::room::snapshot::RoomSnapshot;

/// How long a policy server may take for one event: a room waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers that are remembered, so that nothing is asked again with each try.
const ANSWERS: u64 = 10_000;
const ANSWERS_FOR: Duration = Duration::from_secs(5 * 60);

/// What policy servers said lately, and the way to them.
pub struct Policies {
    peers: OnceLock<Peers>,
    answers: Cache<(OwnedEventId, OwnedServerName), Outcome<String>>,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            peers: OnceLock::new(),
            answers: Cache::builder().max_capacity(ANSWERS).time_to_live(ANSWERS_FOR).build(),
        }
    }
}

impl Policies {
    /// From here on others can be asked.
    pub(crate) fn connect(&self, peers: &Peers) {
        // There is one hub for each environment.
        let _ = self.peers.set(peers.clone());
    }
}

/// Asks the room's policy server about an event. Answers the event with its signature.
///
/// # Errors
/// What the policy server says, `M_FORBIDDEN` as a rule; `Unavailable` when it does not answer; `M_TOO_LARGE` for events that
/// have no room for one more signature.
pub async fn ask(env: &Env, room: &RoomSnapshot, policy: &Policy, pdu: &Pdu) -> Outcome<CanonicalJsonObject> {
    let broken = |error: parse::PduError| DomainError::internal(format!("an event of a room: {error}"));
    let object = parse::canonical(&pdu.json).map_err(broken)?;
    let asked = (pdu.event_id.clone(), policy.via.clone());
    let answer = match env.policies.answers.get(&asked) {
        Some(answer) => answer,
        None => {
            let answer = signature(env, room, policy, &object, pdu).await;
            let final_word = matches!(answer, Ok(_) | Err(DomainError::Matrix { status: ..500, .. }));
            if final_word {
                env.policies.answers.insert(asked, answer.clone());
            }
            let outcome = if answer.is_ok() { "signed" } else { "not signed" };
            metrics::counter!("policy_server_answers_total", "outcome" => outcome).increment(1);
            answer
        }
    };
    let signed = ::rules::policy::countersigned(object, &room.rules, &policy.via, answer?)
        .map_err(|error| DomainError::too_large(error.to_string()))?;
    if policy.recommends(&signed, &room.rules) {
        Ok(signed)
    } else {
        Err(DomainError::forbidden(
            "the signature of the room's policy server does not hold",
        ))
    }
}

async fn signature(
    env: &Env,
    room: &RoomSnapshot,
    policy: &Policy,
    object: &CanonicalJsonObject,
    pdu: &Pdu,
) -> Outcome<String> {
    if policy.via == env.server_name {
        return judge::judge(env, room, object, pdu);
    }
    let peers = env.policies.peers.get();
    let peers = peers.ok_or_else(|| DomainError::unavailable("other servers cannot be asked yet"))?;
    let event = RawValue::from_string(pdu.json.to_string()).expect("a PDU is JSON");
    let mut request = typed::outgoing(Request::new(event))?;
    request.timeout = PATIENCE;
    let answer = peers.send(&policy.via, request, Pace::Patient).await?;
    let answer: Response = typed::incoming(&answer)?;
    let signature = answer.ed25519_signature(&policy.via);
    signature
        .map(str::to_owned)
        .ok_or_else(|| DomainError::forbidden("the room's policy server did not sign the event"))
}

/// An event that this server has made, with the signature of the room's policy server where it has one.
///
/// # Errors
/// As [`ask`].
pub async fn agreed(env: &Env, room: &RoomSnapshot, pdu: Pdu) -> Outcome<Pdu> {
    let Some(policy) = Policy::of(room).filter(|_| !is_exempt(&pdu.kind, pdu.state_key.as_deref())) else {
        return Ok(pdu);
    };
    let signed = ask(env, room, &policy, &pdu).await?;
    parse::pdu_from_object(&signed, &room.rules, Some(pdu.event_id))
        .map_err(|error| DomainError::internal(format!("a signed event: {error}")))
}
