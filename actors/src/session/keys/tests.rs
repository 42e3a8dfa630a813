//! What queries show and what claims leave.

use std::sync::Arc;

use entities::key_signature;
use entities::store::e2ee::{ClaimedKey, KeyStock, PreKey};
use ruma::{device_id, user_id};
use serde_json::json;

use super::super::load;
use super::super::view::{DeviceView, UserView};
use super::query::merge_signatures;
use super::{claim, with_stock};

fn signature(user: &str, key: &str) -> key_signature::Model {
    key_signature::Model {
        target_user: "@a:hs".to_owned(),
        target_key: "D".to_owned(),
        signer_user: user.to_owned(),
        signer_key: key.to_owned(),
        signature: format!("by {key}"),
    }
}

#[test]
fn signatures_are_added_to_those_that_are_there() {
    let mut device = json!({ "signatures": { "@a:hs": { "ed25519:D": "own" } } });
    merge_signatures(
        &mut device,
        &[signature("@a:hs", "ed25519:S"), signature("@b:hs", "ed25519:U")],
    );
    let expected = json!({ "signatures": {
        "@a:hs": { "ed25519:D": "own", "ed25519:S": "by ed25519:S" },
        "@b:hs": { "ed25519:U": "by ed25519:U" },
    } });
    assert_eq!(device, expected);

    let mut bare = json!({});
    merge_signatures(&mut bare, &[signature("@a:hs", "ed25519:S")]);
    assert_eq!(
        bare,
        json!({ "signatures": { "@a:hs": { "ed25519:S": "by ed25519:S" } } })
    );

    let mut odd = json!({ "signatures": "none" });
    merge_signatures(&mut odd, &[signature("@a:hs", "ed25519:S")]);
    assert_eq!(odd, json!({ "signatures": "none" }));
}

fn stocked() -> UserView {
    let mut view = load::fresh(user_id!("@a:hs").to_owned());
    Arc::make_mut(&mut view.devices).insert(device_id!("D").to_owned(), DeviceView::default());
    let stock = KeyStock {
        one_time: vec![("x".to_owned(), 2)],
        unused_fallback: vec!["x".to_owned(), "y".to_owned()],
    };
    with_stock(&view, device_id!("D"), stock)
}

fn claimed(algorithm: &str, fallback: bool) -> ClaimedKey {
    ClaimedKey {
        device_id: "D".to_owned(),
        key: PreKey {
            algorithm: algorithm.to_owned(),
            key_id: "A".to_owned(),
            json: "{}".to_owned(),
        },
        fallback,
    }
}

#[test]
fn claims_lower_the_counts() {
    let view = claim::without(&stocked(), &[claimed("x", false)]);
    let device = &view.devices[device_id!("D")];
    assert_eq!(device.one_time_key_counts["x"], 1);
    assert_eq!(device.unused_fallback_key_types, ["x", "y"]);

    let view = claim::without(&view, &[claimed("x", false), claimed("x", true)]);
    let device = &view.devices[device_id!("D")];
    assert_eq!(device.one_time_key_counts.get("x").copied().unwrap_or(0), 0);
    assert_eq!(device.unused_fallback_key_types, ["y"]);
}
