use ruma::{device_id, user_id};
use serde_json::{Value, json};

use super::super::super::load;
use super::*;

fn view() -> UserView {
    load::fresh(user_id!("@a:hs").to_owned())
}

fn identity() -> Value {
    json!({
        "user_id": "@a:hs",
        "device_id": "D",
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { "curve25519:D": "c", "ed25519:D": "e" },
        "signatures": { "@a:hs": { "ed25519:D": "s" } },
        "unsigned": { "device_display_name": "made up" },
    })
}

fn checked(keys: &Value) -> Outcome<CanonicalJsonObject> {
    check_identity(&view(), device_id!("D"), &keys.to_string())
}

fn raw(json: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(json).expect("JSON is JSON")
}

#[test]
fn complete_device_keys_are_taken_without_unsigned() {
    let keys = checked(&identity()).expect("complete");
    assert!(!keys.contains_key("unsigned"));
    assert!(keys.contains_key("signatures"));
}

#[test]
fn device_keys_must_be_this_devices_and_complete() {
    let broken: [fn(&mut Value); 6] = [
        |keys| keys["user_id"] = json!("@b:hs"),
        |keys| keys["device_id"] = json!("E"),
        |keys| keys["algorithms"] = json!("m.olm.v1.curve25519-aes-sha2"),
        |keys| keys["keys"] = json!({ "ed25519:E": "e" }),
        |keys| keys["signatures"] = json!({ "@b:hs": { "ed25519:D": "s" } }),
        |keys| keys["number"] = json!(0.5),
    ];
    for (i, breaks) in broken.into_iter().enumerate() {
        let mut keys = identity();
        breaks(&mut keys);
        assert!(checked(&keys).is_err(), "{i}");
    }
    assert!(check_identity(&view(), device_id!("D"), "[]").is_err());
}

#[test]
fn keys_are_named_after_their_algorithm() {
    let names = |name: &str| pre_keys(BTreeMap::from([(name.to_owned(), raw(&json!({ "key": "x" })))]));
    let keys = names("signed_curve25519:AAAA:B").expect("a good name");
    assert_eq!(
        (keys[0].algorithm.as_str(), keys[0].key_id.as_str()),
        ("signed_curve25519", "AAAA:B")
    );
    for bad in ["", "x", ":x", "x:", "x:\0"] {
        assert!(names(bad).is_err(), "{bad:?}");
    }
    let list = BTreeMap::from([("a:b".to_owned(), raw(&json!([])))]);
    assert!(pre_keys(list).is_err());
}

#[test]
fn the_stock_is_bounded() {
    let key = |algorithm: &str, id: usize| PreKey {
        algorithm: algorithm.to_owned(),
        key_id: id.to_string(),
        json: "{}".to_owned(),
    };
    let many: Vec<PreKey> = (0..=MAX_ONE_TIME).map(|id| key("x", id)).collect();
    let mut device = DeviceView::default();
    assert!(refuse_too_many(&device, &many, &[]).is_err());
    assert!(refuse_too_many(&device, &many[1..], &[]).is_ok());
    device.one_time_key_counts.insert("y".to_owned(), 1);
    assert!(refuse_too_many(&device, &many[1..], &[]).is_err());
    assert!(refuse_too_many(&device, &[], &[key("x", 1), key("y", 1)]).is_ok());
    assert!(refuse_too_many(&device, &[], &[key("x", 1), key("x", 2)]).is_err());
}
