//! The server itself: status, figures, configuration, logs.

use serde_json::json;

use super::{V1, admin, all};
use crate::common::client::{AnswerExt, User, text};

both_databases! {
    async fn status_figures_and_configuration_are_real(server) {
        let root = admin(server).await;
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({ "name": "Kitchen" })).await;
        for number in 0..3 {
            alice.send_text(&room, &number.to_string()).await;
        }
        let upload = Some(("image/png", b"no image".to_vec()));
        alice.client.raw("POST", "/_matrix/media/v3/upload?filename=a.png", Some(&alice.token), upload).await;

        let status = root.get(&format!("{V1}/status")).await.ok();
        assert_eq!((&status["status"], &status["database"], &status["cache"]), (&json!("ok"), &json!("connected"), &json!("connected")));
        assert!(status["uptime_seconds"].is_u64() || status["uptime_seconds"].is_i64(), "{status}");
        let figures = root.get(&format!("{V1}/server_stats")).await.ok();
        let of = |name: &str| figures[name].as_i64().unwrap_or(-1);
        let seen = [of("total_users"), of("total_rooms"), of("total_messages"), of("daily_active_users"), of("monthly_active_users")];
        assert_eq!(seen, [2, 1, 3, 2, 2], "{figures}");
        let users = root.get(&format!("{V1}/user_stats")).await.ok();
        assert_eq!(users, json!({ "total_users": 2, "active_users": 2, "new_users_today": 2 }));
        let media = root.get(&format!("{V1}/media_stats")).await.ok();
        assert_eq!((&media["total_media"], &media["total_size_bytes"]), (&json!(1), &json!(8)));
        let of_users = root.get(&format!("{V1}/statistics/users/media?order_by=media_length&dir=b")).await.ok();
        assert_eq!((&of_users["users"][0]["user_id"], &of_users["users"][0]["media_length"]), (&json!(alice.user_id), &json!(8)));
        let largest = root.get(&format!("{V1}/statistics/database/rooms")).await.ok();
        assert_eq!(all(&largest["rooms"], "room_id"), [&room]);
        assert!(largest["rooms"][0]["estimated_size"].as_i64() > Some(1_000), "{largest}");

        let config = root.get(&format!("{V1}/config")).await.ok();
        assert_eq!((&config["server_name"], &config["max_upload_size"]), (&json!("localhost"), &json!(52_428_800)));
        assert_eq!(text(&config, "public_baseurl").trim_end_matches('/'), server.client.base);
        assert!(!config.to_string().contains(crate::common::server::SHARED_SECRET), "{config}");
    }

    async fn the_newest_lines_of_the_log_are_told(server) {
        let root = admin(server).await;
        let bob = server.register("bob").await;
        root.post(&format!("{V1}/users/{}/login", bob.user_id), json!({})).await.ok();
        let warned = root.get(&format!("{V1}/logs?level=warn&limit=5")).await.ok();
        let newest = &warned["logs"][0];
        assert_eq!(newest["level"], "WARN");
        assert!(text(newest, "message").contains("an administrator logs in as a user"), "{warned}");
        assert!(text(newest, "timestamp").ends_with('Z'), "{newest}");
        let few = root.get(&format!("{V1}/logs?limit=2")).await.ok();
        assert_eq!(few["logs"].as_array().map(Vec::len), Some(2));
        let whole = root.get(&format!("{V1}/logs?limit=100000")).await.ok().to_string();
        assert!(!whole.contains(&root.token) && !whole.contains(&bob.token), "no secrets");
    }

    async fn what_there_is_not_is_said(server) {
        let root = admin(server).await;
        root.post(&format!("{V1}/send_server_notice"), json!({ "user_id": root.user_id, "content": {} })).await.refused(400, "M_UNKNOWN");
        root.post(&format!("{V1}/background_updates/start_job"), json!({ "job_name": "x" })).await.refused(400, "M_UNKNOWN");
        root.post(&format!("{V1}/account_validity/validity"), json!({ "user_id": root.user_id })).await.refused(400, "M_UNKNOWN");
        let updates = root.get(&format!("{V1}/background_updates/status")).await.ok();
        assert_eq!(updates, json!({ "enabled": true, "current_updates": {} }));
        let features = format!("{V1}/experimental_features/{}", root.user_id);
        assert_eq!(root.get(&features).await.ok(), json!({ "features": {} }));
        root.put(&features, json!({ "features": { "msc3881": true } })).await.refused(400, "M_INVALID_PARAM");
    }

    async fn an_administrator_registers_others(server) {
        let root = admin(server).await;
        let nonce = root.get(&format!("{V1}/register/nonce")).await.ok();
        assert!(text(&nonce, "nonce").len() > 20, "{nonce}");
        let body = json!({ "username": "newuser", "password": "password123", "admin": false });
        let made = root.post(&format!("{V1}/register"), body).await.ok();
        let user = User::from_login(&server.client, &made);
        assert_eq!(user.get("account/whoami").await.ok()["user_id"], "@newuser:localhost");
    }
}
