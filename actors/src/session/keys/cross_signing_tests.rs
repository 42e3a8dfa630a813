use ruma::user_id;
use serde_json::{Value, json};

use super::super::super::load;
use super::super::super::view::DeviceView;
use super::super::check::testing::Pair;
use super::*;

const USER: &str = "@a:hs";

fn view() -> UserView {
    load::fresh(user_id!("@a:hs").to_owned())
}

fn key(usage: &str, pair: &Pair) -> Value {
    let public = pair.public();
    json!({ "user_id": USER, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

fn signed(usage: &str, pair: &Pair, master: &Pair) -> Value {
    let mut key = key(usage, pair);
    master.sign(&mut key, USER, &master.public());
    key
}

fn upload(master: Option<Value>, own: Option<Value>, others: Option<Value>) -> CrossSigningUpload {
    let raw = |json: Option<Value>| json.map(|json| RawValue::from_string(json.to_string()).expect("JSON is JSON"));
    CrossSigningUpload {
        master_key: raw(master),
        self_signing_key: raw(own),
        user_signing_key: raw(others),
        proved: false,
    }
}

fn all(seed: u8) -> CrossSigningUpload {
    let (master, own, others) = (Pair::new(seed), Pair::new(seed + 1), Pair::new(seed + 2));
    upload(
        Some(key("master", &master)),
        Some(signed("self_signing", &own, &master)),
        Some(signed("user_signing", &others, &master)),
    )
}

fn stored(checked: Vec<Checked>) -> Stored {
    checked
        .into_iter()
        .map(|checked| (checked.usage.to_owned(), checked.key))
        .collect()
}

fn errcode(upload: &CrossSigningUpload, stored: &Stored) -> Option<String> {
    let refused = check_all(&view(), upload, stored).err()?;
    refused.errcode().map(str::to_owned)
}

#[test]
fn a_full_set_is_taken_and_needs_no_proof_the_first_time() {
    let first = check_all(&view(), &all(1), &Stored::new()).expect("good keys");
    assert_eq!(first.len(), 3);
    assert!(needs_no_proof(&first, &Stored::new()));
    let there = stored(first);
    let again = check_all(&view(), &all(1), &there).expect("good keys");
    assert!(needs_no_proof(&again, &there), "the same keys once more");
    let others = check_all(&view(), &all(10), &there).expect("good keys");
    assert!(!needs_no_proof(&others, &there));
}

#[test]
fn a_new_key_under_the_stored_master_needs_proof() {
    let there = stored(check_all(&view(), &all(1), &Stored::new()).expect("good keys"));
    let own = signed("self_signing", &Pair::new(50), &Pair::new(1));
    let checked = check_all(&view(), &upload(None, Some(own), None), &there).expect("signed by the stored key");
    assert!(!needs_no_proof(&checked, &there));
}

#[test]
fn a_master_key_is_needed() {
    let own = signed("self_signing", &Pair::new(2), &Pair::new(1));
    let refused = errcode(&upload(None, Some(own), None), &Stored::new());
    assert_eq!(refused.as_deref(), Some("M_MISSING_PARAM"));
}

#[test]
fn the_master_key_signs_the_others() {
    let master = Pair::new(1);
    let unsigned = key("self_signing", &Pair::new(2));
    let foreign = signed("self_signing", &Pair::new(2), &Pair::new(9));
    let mut forged = signed("self_signing", &Pair::new(2), &master);
    forged["more"] = json!(true);
    for own in [unsigned, foreign, forged] {
        let upload = upload(Some(key("master", &master)), Some(own), None);
        assert_eq!(errcode(&upload, &Stored::new()).as_deref(), Some("M_INVALID_SIGNATURE"));
    }
}

#[test]
fn malformed_keys_are_refused() {
    let good = key("master", &Pair::new(1));
    let broken: [fn(&mut Value); 5] = [
        |key| key["user_id"] = json!("@b:hs"),
        |key| key["usage"] = json!(["self_signing"]),
        |key| key["keys"] = json!({}),
        |key| key["keys"]["ed25519:x"] = json!("x"),
        |key| key["keys"] = json!({ "ed25519:abc": "abc" }),
    ];
    for breaks in broken {
        let mut key = good.clone();
        breaks(&mut key);
        let refused = errcode(&upload(Some(key.clone()), None, None), &Stored::new());
        assert_eq!(refused.as_deref(), Some("M_INVALID_PARAM"), "{key}");
    }
}

#[test]
fn a_device_cannot_be_called_like_the_key() {
    let pair = Pair::new(1);
    let mut view = view();
    let devices = std::sync::Arc::make_mut(&mut view.devices);
    devices.insert(pair.public().into(), DeviceView::default());
    let refused = check_all(&view, &upload(Some(key("master", &pair)), None, None), &Stored::new()).err();
    assert_eq!(
        refused.and_then(|e| e.errcode().map(str::to_owned)).as_deref(),
        Some("M_FORBIDDEN")
    );
}
