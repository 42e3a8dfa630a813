//! What this server speaks: versions and capabilities.

use actors::error::Outcome;
use actors::room::rules;
use http::Method;
use ruma::api::client::discovery::{get_capabilities, get_supported_versions};
use serde_json::json;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Versions of the specification whose client endpoints clients may rely on.
const VERSIONS: [&str; 23] = [
    "r0.5.0", "r0.6.0", "r0.6.1", "v1.0", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9",
    "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];
/// What is served beyond the specification, or was before it became part of it.
const FEATURES: [&str; 17] = [
    "org.matrix.label_based_filtering",
    "org.matrix.e2e_cross_signing",
    "org.matrix.msc2285.stable",
    "org.matrix.msc2432",
    "org.matrix.msc3827.stable",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3391",
    "org.matrix.msc3773",
    "org.matrix.msc3771",
    "org.matrix.msc3814",
    "org.matrix.msc3916.stable",
    "org.matrix.msc3967",
    "org.matrix.msc3983",
    "org.matrix.msc4143",
    "org.matrix.msc4155",
    "org.matrix.msc4222",
    "org.matrix.msc4306",
];

const RETENTION: &str = "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration";

/// Registers the chapter.
pub fn routes(table: &mut Table) {
    table.optional::<get_supported_versions::Request, _>(versions);
    table.user::<get_capabilities::v3::Request, _>(capabilities);
    table.raw(Method::GET, RETENTION, Policy::User, retention);
}

async fn versions(ctx: Ctx, _: get_supported_versions::Request) -> Outcome<Reply> {
    let mut features: serde_json::Map<_, _> = FEATURES.iter().map(|name| ((*name).to_owned(), json!(true))).collect();
    let schedules = ctx.config.delayed_events.max_scheduled_per_user > 0;
    features.insert("org.matrix.msc4140".to_owned(), json!(schedules));
    Reply::json(&json!({ "versions": VERSIONS, "unstable_features": features }))
}

async fn capabilities(ctx: Ctx, _: get_capabilities::v3::Request) -> Outcome<Reply> {
    let on = json!({ "enabled": true });
    let off = json!({ "enabled": false });
    let mut answer = json!({
        "capabilities": {
            "m.change_password": on,
            "m.set_displayname": on,
            "m.set_avatar_url": on,
            "m.profile_fields": on,
            "m.3pid_changes": { "enabled": ctx.hub.env().mail.is_some() },
            "m.get_login_token": on,
            "org.matrix.msc3720.account_status": on,
            "m.forget_forced_upon_leave": off,
            "m.room_versions": {
                "default": ctx.config.default_room_version,
                "available": rules::available(),
            },
        }
    });
    let delayed = ctx.hub.env().settings.delayed;
    answer["capabilities"]["org.matrix.msc4140.delayed_events"] = json!({
        "max_delay_ms": delayed.max_delay_ms,
        "max_scheduled": delayed.max_scheduled,
    });
    if ctx.user()?.is_admin {
        answer["capabilities"]["m.account_moderation"] = json!({ "lock": true, "suspend": true });
    }
    Reply::json(&answer)
}

/// How long messages are kept (MSC1763): this server deletes none by itself, and limits no room's policy.
async fn retention(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "policies": {}, "limits": {} }))
}
