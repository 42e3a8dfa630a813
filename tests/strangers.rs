//! What strangers who claim to be other servers get, and the keys that they can check this server by.

use serde_json::json;

use crate::common::client::AnswerExt;

const PROFILE: &str = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Alocalhost";
const OLD: &str = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI";

both_databases! {
    config |table| {
        let mut old = toml::Table::new();
        old.insert("key_id".into(), "ed25519:a_old".into());
        old.insert("public_key".into(), OLD.into());
        old.insert("expired_ts".into(), 1_500.into());
        table.insert("old_signing_keys".into(), vec![toml::Value::Table(old)].into());
    }
    async fn former_keys_are_published_with_their_end(server) {
        let keys = server.client.get("/_matrix/key/v2/server").await.ok();
        assert_eq!(keys["old_verify_keys"], json!({ "ed25519:a_old": { "key": OLD, "expired_ts": 1500 } }));
        let asked = server.client.get("/_matrix/key/v2/query/localhost/ed25519%3Aa_old").await.ok();
        assert_eq!(asked["server_keys"][0]["old_verify_keys"], keys["old_verify_keys"]);
        let many: serde_json::Map<_, _> = (0..101).map(|n| (format!("192.0.2.1:{n}"), json!({}))).collect();
        let many = json!({ "server_keys": many });
        server.client.post("/_matrix/key/v2/query", many).await.refused(413, "M_TOO_LARGE");
        let path = "/_matrix/key/v2/query/localhost?minimum_valid_until_ts=soon";
        server.client.get(path).await.refused(400, "M_INVALID_PARAM");
    }

    async fn nobody_comes_in_without_a_signature(server) {
        server.register("alice").await;
        server.client.get(PROFILE).await.refused(401, "M_UNAUTHORIZED");
    }

    config |table| {
        let closed = toml::toml! { enabled = false };
        table.insert("federation".into(), toml::Value::Table(closed));
    }
    async fn without_federation_nobody_comes_in_at_all(server) {
        server.client.get(PROFILE).await.refused(403, "M_FORBIDDEN");
        server.client.get("/_matrix/key/v2/server").await.ok();
    }
}
