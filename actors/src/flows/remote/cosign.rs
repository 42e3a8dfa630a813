//! Events of this server that another one signs as well.

use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, redact};
use ruma::room_version_rules::RoomVersionRules;
use ruma::{MilliSecondsSinceUnixEpoch, ServerName};
use serde_json::value::RawValue;

use super::ask::bad_answer;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::Pdu;
use crate::room::parse;

/// `ours` with the signatures that `server` has added to it in `theirs`, which must be the same event otherwise.
///
/// # Errors
/// What is wrong with `theirs`.
pub fn merged(ours: &Pdu, theirs: &RawValue, server: &ServerName) -> Result<CanonicalJsonObject, String> {
    let mut ours = parse::canonical(&ours.json).map_err(|error| error.to_string())?;
    let mut theirs = parse::canonical(theirs.get()).map_err(|error| error.to_string())?;
    let mut own = take_signatures(&mut ours);
    let added = take_signatures(&mut theirs).remove(server.as_str());
    theirs.remove("unsigned");
    if ours != theirs {
        return Err("it is another event".to_owned());
    }
    match added {
        Some(CanonicalJsonValue::Object(added)) if !added.is_empty() => {
            own.insert(server.to_string(), CanonicalJsonValue::Object(added));
        }
        _ => return Err(format!("{server} has not signed it")),
    }
    ours.insert("signatures".to_owned(), CanonicalJsonValue::Object(own));
    Ok(ours)
}

fn take_signatures(event: &mut CanonicalJsonObject) -> CanonicalJsonObject {
    match event.remove("signatures") {
        Some(CanonicalJsonValue::Object(signatures)) => signatures,
        _ => CanonicalJsonObject::new(),
    }
}

/// The event that `server` was asked to sign, with its signature, which is verified.
///
/// # Errors
/// 502 `M_UNKNOWN` when `theirs` is another event, or not signed with a key of the server.
pub async fn cosigned(
    env: &Env,
    rules: &RoomVersionRules,
    ours: &Pdu,
    theirs: &RawValue,
    server: &ServerName,
) -> Outcome<Pdu> {
    let object = merged(ours, theirs, server).map_err(|why| bad_answer(&why))?;
    check(env, rules, &object, server, ours.origin_server_ts).await?;
    let pdu = parse::pdu_from_object(&object, rules, Some(ours.event_id.clone()));
    pdu.map_err(|error| DomainError::internal(format!("a signed event: {error}")))
}

/// Verifies the signature of one server.
async fn check(
    env: &Env,
    rules: &RoomVersionRules,
    object: &CanonicalJsonObject,
    server: &ServerName,
    at: MilliSecondsSinceUnixEpoch,
) -> Outcome<()> {
    let broken = |error: &dyn std::fmt::Display| DomainError::internal(format!("a signed event: {error}"));
    let mut signed = redact(object.clone(), &rules.redaction, None).map_err(|error| broken(&error))?;
    let only = take_signatures(&mut signed).remove_entry(server.as_str());
    let only = CanonicalJsonValue::Object(only.into_iter().collect());
    signed.insert("signatures".to_owned(), only);
    let at = rules.enforce_key_validity.then(|| at.get().into());
    let keys = env
        .keyring
        .keys(&federation::Wanted::of_signatures(&signed, [server], at))
        .await?;
    ruma::signatures::verify_json(&keys.of([server], at), &signed)
        .map_err(|error| bad_answer(&format!("the signature of {server}: {error}")))
}

#[cfg(test)]
mod tests {
    use ::rules::testing::{Origin, event};
    use ruma::server_name;
    use serde_json::{Value, json};

    use super::*;
    use crate::room::rules::rules_of;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).expect("serializes")
    }

    #[test]
    fn a_signature_is_all_that_may_be_added() {
        let rules = rules_of("10").expect("supported");
        let us = Origin::new("x");
        let content = json!({ "membership": "invite" });
        let mut invite = event(&rules, "m.room.member", "@a:x", Some("@b:s"), content, (&[], &[]), 1);
        invite["room_id"] = json!("!r:x");
        let ours = us.pdu(&invite, &rules);
        let sent: Value = serde_json::from_str(&ours.json).expect("JSON");
        let server = server_name!("s");

        let mut theirs = sent.clone();
        theirs["signatures"]["s"] = json!({ "ed25519:1": "sig" });
        theirs["signatures"]["evil"] = json!({ "ed25519:1": "sig" });
        theirs["signatures"]["x"] = json!({ "ed25519:1": "forged" });
        theirs["unsigned"] = json!({ "invite_room_state": [] });
        let merged_event = merged(&ours, &raw(&theirs), server).expect("the same event");
        let merged_event: Value = serde_json::to_value(&merged_event).expect("JSON");
        let mut expected = sent.clone();
        expected["signatures"]["s"] = json!({ "ed25519:1": "sig" });
        assert_eq!(merged_event, expected);

        assert!(merged(&ours, &raw(&sent), server).is_err(), "not signed");
        theirs["content"]["membership"] = json!("join");
        assert!(merged(&ours, &raw(&theirs), server).is_err(), "another event");
    }
}
