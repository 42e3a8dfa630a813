//! The room key backup.

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, User, encode, text};

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";
const ROOM: &str = "!room:localhost";

fn session(index: u64, verified: bool) -> Value {
    json!({
        "first_message_index": index,
        "forwarded_count": 0,
        "is_verified": verified,
        "session_data": { "ciphertext": format!("from {index}") },
    })
}

async fn create(user: &User) -> String {
    let body = json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": "abc" } });
    text(&user.post("room_keys/version", body).await.ok(), "version")
}

fn path(version: &str, below: &[&str]) -> String {
    let below: String = below.iter().map(|segment| format!("/{}", encode(segment))).collect();
    format!("room_keys/keys{below}?version={version}")
}

both_databases! {
    async fn versions_are_made_changed_and_deleted(server) {
        let alice = server.register("alice").await;
        let none = alice.get("room_keys/version").await.refused(404, "M_NOT_FOUND");
        assert_eq!(none["versions"], json!([]));
        alice.post("room_keys/version", json!({})).await.refused(400, "M_MISSING_PARAM");

        let version = create(&alice).await;
        let current = alice.get("room_keys/version").await.ok();
        assert_eq!(current["algorithm"], ALGORITHM);
        assert_eq!(current["auth_data"], json!({ "public_key": "abc" }));
        assert_eq!((&current["count"], &current["version"]), (&json!(0), &json!(version)));
        assert_eq!(current["versions"].as_array().map(Vec::len), Some(1));
        let one = alice.get(&format!("room_keys/version/{version}")).await.ok();
        assert_eq!(one["etag"], current["etag"]);

        let at = format!("room_keys/version/{version}");
        let changed = json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": "def" }, "version": version });
        alice.put(&at, changed.clone()).await.ok();
        assert_eq!(alice.get(&at).await.ok()["auth_data"]["public_key"], "def");
        let mut other = changed.clone();
        other["algorithm"] = json!("another");
        alice.put(&at, other).await.refused(400, "M_INVALID_PARAM");
        let mut other = changed.clone();
        other["version"] = json!("77");
        alice.put(&at, other).await.refused(400, "M_INVALID_PARAM");
        let nowhere = json!({ "algorithm": ALGORITHM, "auth_data": {} });
        alice.put("room_keys/version/77", nowhere).await.refused(404, "M_NOT_FOUND");

        for _ in 0..2 {
            alice.delete(&at, None).await.ok();
        }
        alice.delete("room_keys/version/77", None).await.refused(404, "M_NOT_FOUND");
        alice.get(&at).await.refused(404, "M_NOT_FOUND");
        alice.get("room_keys/version").await.refused(404, "M_NOT_FOUND");
        assert_ne!(create(&alice).await, version, "a number is not used again");
    }

    async fn keys_come_back_at_every_level(server) {
        let alice = server.register("alice").await;
        let version = create(&alice).await;
        let rooms = json!({ "rooms": { ROOM: { "sessions": { "A": session(0, true), "B/+": session(5, false) } } } });
        let stored = alice.put(&path(&version, &[]), rooms.clone()).await.ok();
        assert_eq!(stored["count"], 2);
        assert_eq!(alice.get(&path(&version, &[])).await.ok(), rooms);
        assert_eq!(alice.get(&path(&version, &[ROOM])).await.ok(), rooms["rooms"][ROOM]);
        assert_eq!(alice.get(&path(&version, &[ROOM, "B/+"])).await.ok(), session(5, false));
        alice.get(&path(&version, &[ROOM, "C"])).await.refused(404, "M_NOT_FOUND");
        alice.get(&path("77", &[])).await.refused(404, "M_NOT_FOUND");
        alice.get("room_keys/keys").await.refused(400, "M_MISSING_PARAM");
        assert_eq!(alice.get(&path(&version, &["!other:localhost"])).await.ok(), json!({ "sessions": {} }));

        let other = json!({ "sessions": { "A": session(0, true) } });
        let more = alice.put(&path(&version, &["!other:localhost"]), other).await.ok();
        assert_eq!(more["count"], 3);
        assert_ne!(more["etag"], stored["etag"]);
        let worse = alice.put(&path(&version, &[ROOM, "A"]), session(3, true)).await.ok();
        assert_eq!(worse, more, "nothing changed");
        alice.put(&path(&version, &[ROOM, "B/+"]), session(9, true)).await.ok();
        assert_eq!(alice.get(&path(&version, &[ROOM, "B/+"])).await.ok(), session(9, true), "verified is better");
        let current = alice.get("room_keys/version").await.ok();
        assert_eq!(current["count"], 3);

        assert_eq!(alice.delete(&path(&version, &[ROOM, "A"]), None).await.ok()["count"], 2);
        assert_eq!(alice.delete(&path(&version, &[ROOM]), None).await.ok()["count"], 1);
        assert_eq!(alice.delete(&path(&version, &[]), None).await.ok()["count"], 0);
        assert_eq!(alice.get(&path(&version, &[])).await.ok(), json!({ "rooms": {} }));
    }

    async fn keys_go_to_the_current_version_only(server) {
        let alice = server.register("alice").await;
        let body = json!({ "rooms": {} });
        alice.put(&path("1", &[]), body.clone()).await.refused(404, "M_NOT_FOUND");
        let (old, new) = (create(&alice).await, create(&alice).await);
        for version in [old.as_str(), "77", "x"] {
            let refused = alice.put(&path(version, &[]), body.clone()).await;
            assert_eq!(refused.refused(403, "M_WRONG_ROOM_KEYS_VERSION")["current_version"], new.as_str());
        }
        alice.put(&path(&new, &[]), body).await.ok();
        let incomplete = json!({ "first_message_index": 0, "session_data": {} });
        alice.put(&path(&new, &[ROOM, "A"]), incomplete).await.refused(400, "M_MISSING_PARAM");
    }

    async fn a_version_in_the_path_means_the_same(server) {
        let alice = server.register("alice").await;
        let at = |below: &str| format!("/_matrix/client/r0/room_keys/{below}");
        assert_eq!(alice.get(&at("version")).await.ok(), json!({ "versions": [] }));
        let version = text(&alice.post(&at("version"), json!({})).await.ok(), "version");
        let list = json!([{ "session_id": "A", "session_data": { "x": 1 } }]);
        let one = json!({ "room_id": ROOM, "sessions": list });
        assert_eq!(alice.put(&at(&version), one).await.ok()["count"], 1);
        let several = json!({ "!other:localhost": { "sessions": list } });
        assert_eq!(alice.post(&at(&format!("{version}/keys")), several).await.ok()["count"], 2);

        let all = alice.get(&at(&version)).await.ok();
        assert_eq!(all["rooms"][ROOM]["sessions"]["A"]["session_data"], json!({ "x": 1 }));
        assert!(all["etag"].is_string());
        let room = alice.get(&at(&format!("{version}/keys/{}", encode(ROOM)))).await.ok();
        assert_eq!(room["rooms"][ROOM], all["rooms"][ROOM]);
        let session = alice.get(&at(&format!("{version}/keys/{}/A", encode(ROOM)))).await.ok();
        assert_eq!((&session["session_id"], &session["is_verified"]), (&json!("A"), &json!(false)));

        let update = alice.put(&at(&format!("version/{version}")), json!({ "auth_data": { "k": 1 } })).await.ok();
        assert_eq!(update["version"], version.as_str());
        let deleted = alice.delete(&at(&format!("version/{version}")), None).await.ok();
        assert_eq!(deleted["deleted"], true);
    }

    async fn backups_are_private(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let version = create(&alice).await;
        bob.get(&format!("room_keys/version/{version}")).await.refused(404, "M_NOT_FOUND");
        bob.get(&path(&version, &[])).await.refused(404, "M_NOT_FOUND");
    }
}
