//! Dehydrated devices (MSC3814).

use actors::error::{DomainError, Outcome};
use actors::session::keys::{Dehydrate, Upload};
use actors::stream::token::SyncToken;
use entities::dehydrated_device;
use entities::ids::StreamPos;
use http::Method;
use ruma::OwnedDeviceId;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::keys::Keys;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

const DEVICE: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";
const EVENTS: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events";
/// Messages in one answer.
const PAGE: u32 = 100;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.raw(Method::GET, DEVICE, Policy::User, get);
    t.raw(Method::PUT, DEVICE, Policy::User, put);
    t.raw(Method::DELETE, DEVICE, Policy::User, delete);
    t.raw(Method::GET, EVENTS, Policy::User, events);
    t.raw(Method::POST, EVENTS, Policy::User, events);
}

async fn stored(ctx: &Ctx) -> Outcome<dehydrated_device::Model> {
    let user = ctx.user()?.user_id.as_str();
    let device = ctx.hub.env().store.dehydrated_device(user).await?;
    device.ok_or_else(|| DomainError::not_found("No dehydrated device available"))
}

async fn get(ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    let device = stored(&ctx).await?;
    let data = RawValue::from_string(device.device_data)
        .map_err(|error| DomainError::internal(format!("stored device_data: {error}")))?;
    Reply::json(&json!({ "device_id": device.device_id, "device_data": data }))
}

#[derive(Deserialize)]
struct PutBody {
    device_id: OwnedDeviceId,
    initial_device_display_name: Option<String>,
    device_data: Box<RawValue>,
    device_keys: Box<RawValue>,
    one_time_keys: Option<Keys>,
    fallback_keys: Option<Keys>,
}

async fn put(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let body: PutBody = request.json()?;
    let answer = json!({ "device_id": body.device_id });
    let new = Dehydrate {
        keys: Upload {
            device_id: body.device_id,
            device_keys: Some(body.device_keys),
            one_time_keys: body.one_time_keys.unwrap_or_default(),
            fallback_keys: body.fallback_keys.unwrap_or_default(),
        },
        device_data: body.device_data,
        display_name: body.initial_device_display_name,
    };
    ctx.hub.sessions().dehydrate(&ctx.user()?.user_id, new).await?;
    Reply::json(&answer)
}

async fn delete(ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    let device = stored(&ctx).await?;
    let id = OwnedDeviceId::from(device.device_id);
    let sessions = ctx.hub.sessions();
    sessions.delete_devices(&ctx.user()?.user_id, vec![id.clone()]).await?;
    Reply::json(&json!({ "device_id": id }))
}

#[derive(Deserialize)]
struct EventsBody {
    next_batch: Option<String>,
}

/// Messages stay until the device is deleted, so that a rehydration that fails can begin again.
async fn events(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let device = stored(&ctx).await?;
    if device.device_id != request.arg(0)? {
        return Err(DomainError::forbidden("This is not your dehydrated device"));
    }
    let token = match request.body.is_empty() {
        true => ctx.request.query_param("next_batch"),
        false => request.json::<EventsBody>()?.next_batch,
    };
    let token = token.as_deref().map(SyncToken::parse).transpose()?;
    let (env, after) = (ctx.hub.env(), token.map_or(StreamPos(0), |token| token.pos));
    let upto = env.visible();
    let page = env
        .store
        .to_device_page(&device.user_id, &device.device_id, after.0, upto.0, PAGE);
    let rows = page.await?;
    let last = rows.last().map_or(after, |row| StreamPos(row.pos));
    let events: Vec<Box<RawValue>> = rows
        .into_iter()
        .filter_map(|row| RawValue::from_string(row.json).ok())
        .collect();
    let next = SyncToken { pos: last, inbox: last };
    Reply::json(&json!({ "events": events, "next_batch": next.to_string() }))
}
