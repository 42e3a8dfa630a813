//! Who may not come in: every endpoint for administrators refuses those who are none.

use serde_json::json;

use super::admin;
use crate::common::client::AnswerExt;

/// Every endpoint with arguments that name nothing.
const ENDPOINTS: &[(&str, &str)] = &[
    ("GET", "/_matrix/client/v1/admin/lock/@nobody:localhost"),
    ("PUT", "/_matrix/client/v1/admin/lock/@nobody:localhost"),
    ("GET", "/_matrix/client/v1/admin/suspend/@nobody:localhost"),
    ("PUT", "/_matrix/client/v1/admin/suspend/@nobody:localhost"),
    ("POST", "/_synapse/admin/v1/account_validity/validity"),
    ("GET", "/_synapse/admin/v1/auth_providers/1/users/1"),
    ("GET", "/_synapse/admin/v1/background_updates/enabled"),
    ("POST", "/_synapse/admin/v1/background_updates/enabled"),
    ("POST", "/_synapse/admin/v1/background_updates/start_job"),
    ("GET", "/_synapse/admin/v1/background_updates/status"),
    ("POST", "/_synapse/admin/v1/deactivate/@nobody:localhost"),
    ("GET", "/_synapse/admin/v1/event_reports"),
    ("GET", "/_synapse/admin/v1/event_reports/1"),
    ("DELETE", "/_synapse/admin/v1/event_reports/1"),
    ("GET", "/_synapse/admin/v1/experimental_features/@nobody:localhost"),
    ("PUT", "/_synapse/admin/v1/experimental_features/@nobody:localhost"),
    ("GET", "/_synapse/admin/v1/federation/destinations"),
    ("GET", "/_synapse/admin/v1/federation/destinations/hs.invalid"),
    (
        "POST",
        "/_synapse/admin/v1/federation/destinations/hs.invalid/reset_connection",
    ),
    ("GET", "/_synapse/admin/v1/federation/destinations/hs.invalid/rooms"),
    ("GET", "/_synapse/admin/v1/fetch_event/$none"),
    ("POST", "/_synapse/admin/v1/join/!none:localhost"),
    ("POST", "/_synapse/admin/v1/media/delete"),
    ("POST", "/_synapse/admin/v1/media/protect/1"),
    ("POST", "/_synapse/admin/v1/media/quarantine/hs.invalid/1"),
    ("GET", "/_synapse/admin/v1/media/quarantine_changes"),
    ("POST", "/_synapse/admin/v1/media/unprotect/1"),
    ("POST", "/_synapse/admin/v1/media/unquarantine/hs.invalid/1"),
    ("POST", "/_synapse/admin/v1/media/hs.invalid/delete"),
    ("GET", "/_synapse/admin/v1/media/hs.invalid/1"),
    ("DELETE", "/_synapse/admin/v1/media/hs.invalid/1"),
    ("POST", "/_synapse/admin/v1/purge_history/!none:localhost"),
    ("POST", "/_synapse/admin/v1/purge_history/!none:localhost/$none"),
    ("GET", "/_synapse/admin/v1/purge_history_status/1"),
    ("POST", "/_synapse/admin/v1/purge_media_cache"),
    ("POST", "/_synapse/admin/v1/quarantine_media/!none:localhost"),
    ("GET", "/_synapse/admin/v1/registration_tokens"),
    ("POST", "/_synapse/admin/v1/registration_tokens/new"),
    ("GET", "/_synapse/admin/v1/registration_tokens/1"),
    ("PUT", "/_synapse/admin/v1/registration_tokens/1"),
    ("DELETE", "/_synapse/admin/v1/registration_tokens/1"),
    ("POST", "/_synapse/admin/v1/reset_password/@nobody:localhost"),
    ("GET", "/_synapse/admin/v1/room/!none:localhost/media"),
    ("POST", "/_synapse/admin/v1/room/!none:localhost/media/quarantine"),
    ("GET", "/_synapse/admin/v1/rooms"),
    ("GET", "/_synapse/admin/v1/rooms/!none:localhost/forward_extremities"),
    ("DELETE", "/_synapse/admin/v1/rooms/!none:localhost/forward_extremities"),
    ("POST", "/_synapse/admin/v1/rooms/!none:localhost/make_room_admin"),
    ("GET", "/_synapse/admin/v1/rooms/!none:localhost"),
    ("DELETE", "/_synapse/admin/v1/rooms/!none:localhost"),
    ("GET", "/_synapse/admin/v1/rooms/!none:localhost/block"),
    ("PUT", "/_synapse/admin/v1/rooms/!none:localhost/block"),
    ("GET", "/_synapse/admin/v1/rooms/!none:localhost/context/$none"),
    ("GET", "/_synapse/admin/v1/rooms/!none:localhost/hierarchy"),
    ("GET", "/_synapse/admin/v1/rooms/!none:localhost/members"),
    ("GET", "/_synapse/admin/v1/rooms/!none:localhost/messages"),
    ("GET", "/_synapse/admin/v1/rooms/!none:localhost/state"),
    ("GET", "/_synapse/admin/v1/rooms/!none:localhost/timestamp_to_event"),
    ("GET", "/_synapse/admin/v1/scheduled_tasks"),
    ("GET", "/_synapse/admin/v1/search_users/@nobody:localhost"),
    ("POST", "/_synapse/admin/v1/send_server_notice"),
    ("PUT", "/_synapse/admin/v1/send_server_notice/1"),
    ("GET", "/_synapse/admin/v1/statistics/database/rooms"),
    ("GET", "/_synapse/admin/v1/statistics/users/media"),
    ("PUT", "/_synapse/admin/v1/suspend/@nobody:localhost"),
    ("GET", "/_synapse/admin/v1/threepid/1/users/1"),
    ("GET", "/_synapse/admin/v1/user/redact_status/1"),
    ("POST", "/_synapse/admin/v1/user/@nobody:localhost/media/quarantine"),
    ("POST", "/_synapse/admin/v1/user/@nobody:localhost/redact"),
    ("GET", "/_synapse/admin/v1/user_reports"),
    ("GET", "/_synapse/admin/v1/user_reports/1"),
    ("DELETE", "/_synapse/admin/v1/user_reports/1"),
    ("GET", "/_synapse/admin/v1/username_available"),
    (
        "POST",
        "/_synapse/admin/v1/users/@nobody:localhost/_allow_cross_signing_replacement_without_uia",
    ),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost/accountdata"),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost/admin"),
    ("PUT", "/_synapse/admin/v1/users/@nobody:localhost/admin"),
    (
        "GET",
        "/_synapse/admin/v1/users/@nobody:localhost/cumulative_joined_room_count",
    ),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost/joined_rooms"),
    ("POST", "/_synapse/admin/v1/users/@nobody:localhost/login"),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost/media"),
    ("DELETE", "/_synapse/admin/v1/users/@nobody:localhost/media"),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost/memberships"),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost/override_ratelimit"),
    ("POST", "/_synapse/admin/v1/users/@nobody:localhost/override_ratelimit"),
    (
        "DELETE",
        "/_synapse/admin/v1/users/@nobody:localhost/override_ratelimit",
    ),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost/pushers"),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost/sent_invite_count"),
    ("POST", "/_synapse/admin/v1/users/@nobody:localhost/shadow_ban"),
    ("DELETE", "/_synapse/admin/v1/users/@nobody:localhost/shadow_ban"),
    ("GET", "/_synapse/admin/v1/whois/@nobody:localhost"),
    ("GET", "/_synapse/admin/v2/rooms/delete_status/1"),
    ("DELETE", "/_synapse/admin/v2/rooms/!none:localhost"),
    ("GET", "/_synapse/admin/v2/rooms/!none:localhost/delete_status"),
    ("GET", "/_synapse/admin/v2/users"),
    ("GET", "/_synapse/admin/v2/users/@nobody:localhost"),
    ("PUT", "/_synapse/admin/v2/users/@nobody:localhost"),
    ("POST", "/_synapse/admin/v2/users/@nobody:localhost/delete_devices"),
    ("GET", "/_synapse/admin/v2/users/@nobody:localhost/devices"),
    ("POST", "/_synapse/admin/v2/users/@nobody:localhost/devices"),
    ("GET", "/_synapse/admin/v2/users/@nobody:localhost/devices/1"),
    ("PUT", "/_synapse/admin/v2/users/@nobody:localhost/devices/1"),
    ("DELETE", "/_synapse/admin/v2/users/@nobody:localhost/devices/1"),
    ("GET", "/_synapse/admin/v3/users"),
    ("GET", "/_synapse/admin/v1/config"),
    ("GET", "/_synapse/admin/v1/logs"),
    ("GET", "/_synapse/admin/v1/media_stats"),
    ("POST", "/_synapse/admin/v1/purge_history"),
    ("GET", "/_synapse/admin/v1/register/nonce"),
    ("GET", "/_synapse/admin/v1/security/events"),
    ("POST", "/_synapse/admin/v1/security/ip/block"),
    ("GET", "/_synapse/admin/v1/security/ip/blocks"),
    ("GET", "/_synapse/admin/v1/security/ip/reputation/192.0.2.1"),
    ("POST", "/_synapse/admin/v1/security/ip/unblock"),
    ("GET", "/_synapse/admin/v1/server_stats"),
    ("POST", "/_synapse/admin/v1/shutdown_room"),
    ("GET", "/_synapse/admin/v1/status"),
    ("GET", "/_synapse/admin/v1/user_stats"),
    ("GET", "/_synapse/admin/v1/users"),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost"),
    ("DELETE", "/_synapse/admin/v1/users/@nobody:localhost"),
    ("POST", "/_synapse/admin/v1/users/@nobody:localhost/deactivate"),
    ("POST", "/_synapse/admin/v1/users/@nobody:localhost/password"),
    ("GET", "/_synapse/admin/v1/users/@nobody:localhost/rooms"),
    ("POST", "/_synapse/admin/v1/rooms/!none:localhost/delete"),
    ("GET", "/_synapse/admin/v1/actors"),
    ("GET", "/_synapse/admin/v1/federation/destinations/hs.invalid/queue"),
];

both_databases! {
    async fn nobody_but_administrators_comes_in(server) {
        let alice = server.register("alice").await;
        for (method, path) in ENDPOINTS {
            let body = (*method != "GET").then(|| json!({}));
            let nobody = server.client.request(method, path, None, body.as_ref()).await;
            assert_eq!((nobody.0, &nobody.1["errcode"]), (401, &json!("M_MISSING_TOKEN")), "{method} {path}");
            let user = server.client.request(method, path, Some(&alice.token), body.as_ref()).await;
            assert_eq!((user.0, &user.1["errcode"]), (403, &json!("M_FORBIDDEN")), "{method} {path}: {}", user.1);
            if path.starts_with("/_synapse/") {
                assert_eq!(user.1["status"], "error", "{method} {path}");
            }
        }
    }

    async fn bad_input_is_refused_and_breaks_nothing(server) {
        let root = admin(server).await;
        for (method, path) in ENDPOINTS {
            let named = path
                .replace("@nobody:localhost", "nobody")
                .replace("!none:localhost", "none")
                .replace("$none", "%00");
            let body = r#"{"probe":"#.as_bytes().to_vec();
            let body = (*method != "GET").then_some(("application/json", body));
            let (status, _, answer) = server.client.raw(method, &named, Some(&root.token), body).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(status < 500, "{method} {named}: {status} {answer}");
            assert!(status == 200 || answer.contains("errcode"), "{method} {named}: {status} {answer}");
        }
        for path in [
            "/_synapse/admin/v2/users?limit=-1",
            "/_synapse/admin/v2/users?order_by=shoe_size",
            "/_synapse/admin/v2/users?guests=perhaps",
            "/_synapse/admin/v1/rooms?dir=sideways",
            "/_synapse/admin/v1/rooms?search_term=",
            "/_synapse/admin/v1/logs?level=loud",
            "/_synapse/admin/v1/statistics/users/media?from_ts=5&until_ts=5",
            "/_synapse/admin/v1/security/ip/reputation/example.org",
        ] {
            root.get(path).await.refused(400, "M_INVALID_PARAM");
        }
    }
}
