//! The user's devices (client-server API, "Device management").

use actors::error::{DomainError, Outcome};
use entities::device;
use ruma::api::client::device::{delete_device, delete_devices, get_device, get_devices, update_device};
use serde_json::{Value, json};

use super::uia::{fix_auth, own_account};
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.guest(list);
    t.guest(get);
    t.guest(rename);
    // They take passwords.
    t.user(delete_one).limit(Class::Login).fix(fix_auth);
    t.user(delete_many).limit(Class::Login).fix(fix_auth);
}

/// A device as its user and administrators see it.
#[must_use]
pub fn shown(row: &device::Model) -> Value {
    json!({
        "device_id": row.device_id,
        "display_name": row.display_name,
        "last_seen_ip": row.last_seen_ip,
        "last_seen_ts": row.last_seen_ts,
        "last_seen_user_agent": row.user_agent,
        "user_id": row.user_id,
    })
}

async fn list(ctx: Ctx, _request: get_devices::v3::Request) -> Outcome<Reply> {
    let rows = ctx.hub.env().store.devices(ctx.user()?.user_id.as_str()).await?;
    Reply::json(&json!({ "devices": rows.iter().map(shown).collect::<Vec<_>>() }))
}

async fn get(ctx: Ctx, request: get_device::v3::Request) -> Outcome<Reply> {
    let user = ctx.user()?.user_id.as_str();
    let row = ctx.hub.env().store.device(user, request.device_id.as_str()).await?;
    Reply::json(&shown(&row.ok_or_else(|| DomainError::not_found("Unknown device"))?))
}

async fn rename(ctx: Ctx, request: update_device::v3::Request) -> Outcome<Reply> {
    let user = &ctx.user()?.user_id;
    // Absent leaves the name as it is, after saying whether the device is there.
    match request.display_name {
        Some(name) => {
            ctx.hub
                .sessions()
                .rename_device(user, request.device_id, Some(name))
                .await?
        }
        None => {
            let view = ctx.hub.sessions().view(user).await?;
            if !view.is_some_and(|view| view.devices.contains_key(&request.device_id)) {
                return Err(DomainError::not_found("Unknown device"));
            }
        }
    }
    Ok(Reply::empty())
}

async fn delete_one(ctx: Ctx, request: delete_device::v3::Request) -> Outcome<Reply> {
    let object = request.device_id.as_str().as_bytes();
    let passed = own_account(&ctx, "delete_device", object, request.auth.as_ref()).await?;
    ctx.hub
        .sessions()
        .delete_devices(&ctx.user()?.user_id, vec![request.device_id.clone()])
        .await?;
    passed.finish(&ctx);
    Ok(Reply::empty())
}

async fn delete_many(ctx: Ctx, request: delete_devices::v3::Request) -> Outcome<Reply> {
    let mut devices = request.devices;
    devices.sort();
    let object = devices.iter().map(|id| id.as_str()).collect::<Vec<_>>().join("\0");
    let passed = own_account(&ctx, "delete_devices", object.as_bytes(), request.auth.as_ref()).await?;
    ctx.hub.sessions().delete_devices(&ctx.user()?.user_id, devices).await?;
    passed.finish(&ctx);
    Ok(Reply::empty())
}
