//! Devices of any local user, and from where they were seen.

use actors::error::{DomainError, Outcome};
use entities::device;
use http::Method;
use http::StatusCode;
use ruma::OwnedDeviceId;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::params::local_user;
use crate::http::auth::Policy;
use crate::http::client::devices::shown as shown_to_user;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    let all = "/_synapse/admin/v2/users/{user_id}/devices";
    t.raw(Method::GET, all, admin, list);
    t.raw(Method::POST, all, admin, create);
    let one = "/_synapse/admin/v2/users/{user_id}/devices/{device_id}";
    t.raw(Method::GET, one, admin, get);
    t.raw(Method::PUT, one, admin, rename);
    t.raw(Method::DELETE, one, admin, delete);
    t.raw(
        Method::POST,
        "/_synapse/admin/v2/users/{user_id}/delete_devices",
        admin,
        delete_many,
    );
    t.raw(Method::GET, "/_synapse/admin/v1/whois/{user_id}", admin, whois);
    t.raw(
        Method::GET,
        "/_matrix/client/v3/admin/whois/{user_id}",
        Policy::User,
        own_whois,
    )
    .also("/_matrix/client/r0/admin/whois/{user_id}")
    .also("/_matrix/client/unstable/admin/whois/{user_id}")
    .also("/_matrix/client/api/v1/admin/whois/{user_id}");
}

fn shown(row: &device::Model) -> Value {
    let mut device = shown_to_user(row);
    device["dehydrated"] = false.into();
    device
}

fn unknown() -> DomainError {
    DomainError::not_found("Unknown device")
}

async fn list(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let rows = ctx.hub.env().store.devices(user.as_str()).await?;
    Reply::json(&json!({ "devices": rows.iter().map(shown).collect::<Vec<_>>(), "total": rows.len() }))
}

/// A device that nobody is logged in with: the authentication service or the administrator gives it a token later.
async fn create(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        device_id: OwnedDeviceId,
        display_name: Option<String>,
    }
    let body: Body = request.json()?;
    let (user, view) = local_user(&ctx, &request, 0).await?;
    if view.deactivated {
        return Err(DomainError::user_deactivated("The user has been deactivated"));
    }
    let sessions = ctx.hub.sessions();
    sessions.create_device(&user, body.device_id, body.display_name).await?;
    Ok(Reply::empty().with_status(StatusCode::CREATED))
}

async fn get(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let row = ctx.hub.env().store.device(user.as_str(), request.arg(1)?).await?;
    Reply::json(&shown(&row.ok_or_else(unknown)?))
}

async fn rename(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        display_name: Option<String>,
    }
    let body: Body = request.json()?;
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let device: OwnedDeviceId = request.arg(1)?.into();
    let sessions = ctx.hub.sessions();
    sessions.rename_device(&user, device, body.display_name).await?;
    Ok(Reply::empty())
}

async fn delete(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, view) = local_user(&ctx, &request, 0).await?;
    let device: OwnedDeviceId = request.arg(1)?.into();
    if !view.devices.contains_key(&device) {
        return Err(unknown());
    }
    ctx.hub.sessions().delete_devices(&user, vec![device]).await?;
    Ok(Reply::empty())
}

async fn delete_many(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        devices: Vec<OwnedDeviceId>,
    }
    let body: Body = request.json()?;
    let (user, _) = local_user(&ctx, &request, 0).await?;
    ctx.hub.sessions().delete_devices(&user, body.devices).await?;
    Ok(Reply::empty())
}

async fn whois(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let rows = ctx.hub.env().store.devices(user.as_str()).await?;
    let session = |row: &device::Model| {
        let connection = json!({
            "ip": row.last_seen_ip,
            "last_seen": row.last_seen_ts,
            "user_agent": row.user_agent,
        });
        let sessions = json!({ "sessions": [{ "connections": [connection] }] });
        (row.device_id.clone(), sessions)
    };
    let devices: Map<String, Value> = rows.iter().map(session).collect();
    Reply::json(&json!({ "user_id": user, "devices": devices }))
}

/// Everybody may ask about themselves.
async fn own_whois(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user: OwnedUserId = request.parse(0)?;
    let identity = ctx.user()?;
    if identity.user_id != user && !identity.is_admin {
        return Err(DomainError::forbidden("You are not a server administrator"));
    }
    whois(ctx, request).await
}
