//! Security events, blocked addresses and their reputation.

use serde_json::{Value, json};

use super::{V1, admin, path, until};
use crate::common::client::{AnswerExt, PASSWORD, User};

fn behind_a_proxy(table: &mut toml::Table) {
    let listener = "[[listeners]]\nbind_addresses = [\"127.0.0.1\"]\nx_forwarded = true\ntls = false\n\
                    resources = [\"client\", \"federation\", \"keys\", \"media\", \"admin\", \"metrics\"]";
    let parsed: toml::Table = listener.parse().expect("a listener");
    table.insert("listeners".into(), parsed["listeners"].clone());
}

fn attempt(user: &str, password: &str) -> Value {
    json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password })
}

both_databases! {
    config |table| { behind_a_proxy(table); }
    async fn failures_are_told_and_lower_a_reputation(server) {
        let root = admin(server).await;
        server.register("alice").await;
        for _ in 0..3 {
            server.client.post_from("192.0.2.66", "login", &attempt("alice", "wrong")).await.refused(403, "M_FORBIDDEN");
        }
        server.client.post_from("192.0.2.66", "login", &attempt("alice", PASSWORD)).await.ok();
        let events = format!("{V1}/security/events");
        let failed = until(&root, &format!("{events}?type=login_failed&ip=192.0.2.66"), |answer| answer["total"] == 3).await;
        let newest = &failed["events"][0];
        assert_eq!((&newest["type"], &newest["user_id"], &newest["ip"]), (&json!("login_failed"), &json!("@alice:localhost"), &json!("192.0.2.66")));
        assert!(newest["id"].is_i64() && newest["timestamp"].is_i64(), "{newest}");
        let reputation = path(V1, "security/ip/reputation/{}", &["192.0.2.66"]);
        let known = until(&root, &reputation, |answer| answer["login_attempts"] == 4).await;
        assert_eq!((&known["failed_logins"], known["score"].as_i64()), (&json!(3), Some(90)), "{known}");
        let unknown = root.get(&path(V1, "security/ip/reputation/{}", &["2001:db8::1"])).await.ok();
        assert_eq!((&unknown["score"], &unknown["last_seen"]), (&json!(100), &json!(null)));

        server.client.request("GET", "account/whoami", Some("guessed"), None).await.refused(401, "M_UNKNOWN_TOKEN");
        until(&root, &format!("{events}?type=token_refused"), |answer| answer["total"] == 1).await;
        // They are still there after a restart.
        server.stop().await;
        server.restart().await;
        assert_eq!(root.get(&format!("{events}?type=login_failed&limit=1")).await.ok()["total"], 3);
    }

    config |table| { behind_a_proxy(table); }
    async fn blocked_addresses_and_networks_stay_out(server) {
        let root = admin(server).await;
        server.register("alice").await;
        let login = |address: &'static str| async move {
            server.client.post_from(address, "login", &attempt("alice", PASSWORD)).await.0
        };
        let block = format!("{V1}/security/ip/block");
        let blocked = root.post(&block, json!({ "ip": "192.0.2.7", "reason": "Spam" })).await.ok();
        assert_eq!((&blocked["blocked"], &blocked["success"], &blocked["ip_address"]), (&json!(true), &json!(true), &json!("192.0.2.7")));
        root.post(&block, json!({ "ip_address": "2001:db8:bad::/48" })).await.ok();
        root.post(&block, json!({ "ip": "198.51.100.0/24", "expires_at": 32_503_680_000_000_i64 })).await.ok();
        for (address, status) in [
            ("192.0.2.7", 403), ("::ffff:192.0.2.7", 403), ("192.0.2.8", 200), ("198.51.100.200", 403), ("198.51.101.1", 200),
            ("2001:db8:bad::5", 403), ("2001:db8:900d::5", 200), ("6.6.6.6, 192.0.2.7", 403), ("192.0.2.7, 192.0.2.8", 200),
        ] {
            assert_eq!(login(address).await, status, "{address}");
        }
        let blocks = root.get(&format!("{V1}/security/ip/blocks")).await.ok();
        assert_eq!((&blocks["total"], &blocks["blocks"]), (&json!(3), &blocks["blocked_ips"]));
        let spam = blocks["blocks"].as_array().expect("a list").iter().find(|block| block["ip"] == "192.0.2.7").expect("the block");
        assert_eq!((&spam["reason"], &spam["blocked_by"]), (&json!("Spam"), &json!("@root:localhost")));
        until(&root, &format!("{V1}/security/events?type=address_refused&ip=192.0.2.7"), |answer| answer["total"].as_i64() > Some(0)).await;
        assert_eq!(root.get(&path(V1, "security/ip/reputation/{}", &["192.0.2.7"])).await.ok()["score"], 0);

        server.kill();
        server.restart().await;
        assert_eq!(login("192.0.2.7").await, 403, "blocks are kept");
        let unblock = format!("{V1}/security/ip/unblock");
        assert_eq!(root.post(&unblock, json!({ "ip": "192.0.2.7" })).await.ok()["unblocked"], true);
        assert_eq!(root.post(&unblock, json!({ "ip": "192.0.2.7" })).await.ok()["was_blocked"], false);
        assert_eq!(login("192.0.2.7").await, 200);
    }

    async fn an_administrator_is_warned_before_being_shut_out(server) {
        let root = admin(server).await;
        let block = format!("{V1}/security/ip/block");
        for ip in ["127.0.0.1", "127.0.0.0/8", "0.0.0.0/0", "::1"] {
            root.post(&block, json!({ "ip": ip })).await.refused(400, "M_INVALID_PARAM");
        }
        for ip in ["example.org", "1.2.3.4/40", ""] {
            root.post(&block, json!({ "ip": ip })).await.refused(400, "M_INVALID_PARAM");
        }
        root.post(&block, json!({})).await.refused(400, "M_MISSING_PARAM");
        root.post(&block, json!({ "ip": "1.2.3.4", "expires_at": 5 })).await.refused(400, "M_INVALID_PARAM");
        let meant = root.post(&block, json!({ "ip": "::1", "force": true })).await.ok();
        assert!(meant["warning"].is_string(), "{meant}");
        User::login(&server.client, "root").await;
    }
}
