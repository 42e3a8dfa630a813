//! Signatures of single events, checked before this server acts on them.

use std::sync::Arc;
use std::time::Duration;

use federation::{Keys, Wanted};
use ruma::OwnedServerName;
use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use ruma::room_version_rules::RoomVersionRules;

use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::Pdu;
use crate::room::parse;

/// How long keys are waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// How an event stands by its signatures.
#[derive(Debug)]
pub(super) enum Proof {
    /// Signed by all who must, and complete.
    Good(Box<Pdu>),
    /// Not well-formed, not signed, or changed since.
    Forged(String),
    /// The keys of those who have signed it are not to be had.
    Unproven,
}

/// An event that is good.
///
/// # Errors
/// 400 `M_INVALID_PARAM` otherwise; `Unavailable`, `Overloaded`.
pub(super) async fn proven(env: &Env, rules: &Arc<RoomVersionRules>, object: &CanonicalJsonObject) -> Outcome<Pdu> {
    match prove(env, rules, vec![object.clone()]).await?.pop() {
        Some(Proof::Good(pdu)) => Ok(*pdu),
        Some(Proof::Forged(reason)) => Err(DomainError::invalid_param(reason)),
        Some(Proof::Unproven) | None => {
            let message = "the keys that the event is signed with are not to be had";
            Err(DomainError::invalid_param(message))
        }
    }
}

/// Looks at events of one room version, which hold no `unsigned`.
///
/// # Errors
/// `Unavailable`, `Overloaded`.
pub(super) async fn prove(
    env: &Env,
    rules: &Arc<RoomVersionRules>,
    objects: Vec<CanonicalJsonObject>,
) -> Outcome<Vec<Proof>> {
    let mut wanted = Vec::new();
    for object in &objects {
        if let Ok(signers) = signers(object, rules) {
            wanted.extend(Wanted::of_signatures(
                object,
                signers.iter().map(|s| &**s),
                time(object, rules),
            ));
        }
    }
    let keys = env.keyring.keys_within(&wanted, PATIENCE).await?;
    let rules = rules.clone();
    let job = move || objects.iter().map(|object| prove_one(object, &rules, &keys)).collect();
    env.cpu.run(Class::Verify, job).await
}

fn signers(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Vec<OwnedServerName>, parse::PduError> {
    Ok(parse::required_servers(object, rules)?.into_iter().collect())
}

/// When the keys must have been good, if that matters.
fn time(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Option<i64> {
    match object.get("origin_server_ts") {
        Some(CanonicalJsonValue::Integer(ts)) if rules.enforce_key_validity => Some(i64::from(*ts)),
        _ => None,
    }
}

fn prove_one(object: &CanonicalJsonObject, rules: &RoomVersionRules, keys: &Keys) -> Proof {
    let signers = match signers(object, rules) {
        Ok(signers) => signers,
        Err(error) => return Proof::Forged(error.to_string()),
    };
    let at = time(object, rules);
    let keys = keys.of(signers.iter().map(|server| &**server), at);
    let is_known = |wanted: &Wanted| {
        let of_server = keys.get(wanted.server.as_str());
        of_server.is_some_and(|keys| keys.contains_key(&wanted.key_id))
    };
    let answerable = |server: &OwnedServerName| {
        let mut signed = Wanted::of_signatures(object, [&**server], at).into_iter().peekable();
        // Who has not signed at all is no matter of keys.
        signed.peek().is_none() || signed.any(|wanted| is_known(&wanted))
    };
    if !signers.iter().all(answerable) {
        return Proof::Unproven;
    }
    let text = match serde_json::to_string(object) {
        Ok(text) => text,
        Err(error) => return Proof::Forged(error.to_string()),
    };
    match parse::check_incoming(&text, rules, &keys) {
        Ok(checked) if checked.redacted => Proof::Forged("its content is not what was signed".to_owned()),
        Ok(checked) => Proof::Good(Box::new(checked.pdu)),
        Err(error) => Proof::Forged(error.to_string()),
    }
}
