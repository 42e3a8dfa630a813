use ruma::{server_name, user_id};
use serde_json::{Value, json};

use super::super::check::testing::Pair;
use super::*;

const ME: &str = "@a:hs";
const OTHER: &str = "@b:hs";

fn device() -> Value {
    json!({
        "user_id": ME,
        "device_id": "D",
        "algorithms": [],
        "keys": { "ed25519:D": Pair::new(9).public() },
        "signatures": { ME: { "ed25519:D": "its own" } },
    })
}

fn cross(user: &str, usage: &str, seed: u8) -> Value {
    let public = Pair::new(seed).public();
    json!({ "user_id": user, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

fn object(json: &Value) -> CanonicalJsonObject {
    check::object(&json.to_string()).expect("an object")
}

/// `ME` has the master key 1, the self-signing key 2 and the user-signing key 3; `OTHER` has the master key 4.
fn known() -> Known {
    let keys = [
        (ME, "master", 1),
        (ME, "self_signing", 2),
        (ME, "user_signing", 3),
        (OTHER, "master", 4),
    ];
    let entry = |(user, usage, seed): (&str, &str, u8)| {
        ((user.to_owned(), usage.to_owned()), object(&cross(user, usage, seed)))
    };
    Known {
        user: user_id!("@a:hs").to_owned(),
        devices: HashMap::from([("D".to_owned(), object(&device()))]),
        cross_signing: keys.into_iter().map(entry).collect(),
        server: server_name!("hs").to_owned(),
    }
}

fn check(user: &str, name: &str, object: &Value) -> Outcome<Vec<key_signature::Model>> {
    let user = <&UserId>::try_from(user).expect("a user id");
    known().check(user, name, &object.to_string())
}

fn errcode(result: Outcome<Vec<key_signature::Model>>) -> String {
    let error = result.expect_err("it is refused");
    error.errcode().expect("a Matrix error").to_owned()
}

#[test]
fn the_self_signing_key_signs_devices() {
    let mut signed = device();
    Pair::new(2).sign(&mut signed, ME, &Pair::new(2).public());
    let rows = check(ME, "D", &signed).expect("a good signature");
    assert_eq!(rows.len(), 1, "the device's own signature is left alone");
    assert_eq!((rows[0].target_key.as_str(), rows[0].signer_user.as_str()), ("D", ME));
    assert_eq!(rows[0].signer_key, format!("ed25519:{}", Pair::new(2).public()));
}

#[test]
fn a_device_signs_the_own_master_key() {
    let mut signed = cross(ME, "master", 1);
    Pair::new(9).sign(&mut signed, ME, "D");
    let rows = check(ME, &Pair::new(1).public(), &signed).expect("a good signature");
    assert_eq!(rows[0].signer_key, "ed25519:D");
}

#[test]
fn the_user_signing_key_signs_others() {
    let mut signed = cross(OTHER, "master", 4);
    Pair::new(3).sign(&mut signed, ME, &Pair::new(3).public());
    let rows = check(OTHER, &Pair::new(4).public(), &signed).expect("a good signature");
    assert_eq!(
        (rows[0].target_user.as_str(), rows[0].signer_user.as_str()),
        (OTHER, ME)
    );
}

#[test]
fn bad_signatures_and_other_signers_are_refused() {
    let mut forged = device();
    Pair::new(7).sign(&mut forged, ME, &Pair::new(2).public());
    assert_eq!(errcode(check(ME, "D", &forged)), "M_INVALID_SIGNATURE");
    let mut by_master = device();
    Pair::new(1).sign(&mut by_master, ME, &Pair::new(1).public());
    assert_eq!(errcode(check(ME, "D", &by_master)), "M_INVALID_SIGNATURE");
    assert_eq!(errcode(check(ME, "D", &device())), "M_INVALID_SIGNATURE");
}

#[test]
fn only_stored_keys_can_be_signed() {
    let mut other_content = device();
    other_content["keys"]["curve25519:D"] = json!("new");
    Pair::new(2).sign(&mut other_content, ME, &Pair::new(2).public());
    assert_eq!(errcode(check(ME, "D", &other_content)), "M_INVALID_PARAM");
    assert_eq!(errcode(check(ME, "E", &device())), "M_NOT_FOUND");
    assert_eq!(errcode(check(OTHER, "D", &device())), "M_NOT_FOUND");
    assert_eq!(errcode(check("@c:elsewhere", "D", &device())), "M_NOT_FOUND");
}

#[test]
fn one_failure_does_not_spoil_the_rest() {
    let mut good = device();
    Pair::new(2).sign(&mut good, ME, &Pair::new(2).public());
    let raw = |json: &Value| RawValue::from_string(json.to_string()).expect("JSON is JSON");
    let objects = BTreeMap::from([("D".to_owned(), raw(&good)), ("E".to_owned(), raw(&json!({})))]);
    let (rows, failures) = known().check_all(BTreeMap::from([(user_id!("@a:hs").to_owned(), objects)]));
    assert_eq!(rows.len(), 1);
    let of_me = failures.get(user_id!("@a:hs")).expect("one failure");
    assert_eq!(of_me.keys().collect::<Vec<_>>(), ["E"]);
}
