//! Devices and keys of this server's users (server-server API, "Device Management" and "End-to-End Encryption").

use std::collections::BTreeMap;

use actors::error::{DomainError, Outcome};
use actors::session::keys::query::{Wanted, device_list, local_keys};
use ruma::api::federation::device::get_devices;
use ruma::api::federation::keys::{claim_keys, get_keys};
use serde_json::json;

use crate::http::client::keys::claim_local;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Users that one request may ask about.
const MAX_USERS: usize = 1_000;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(devices);
    t.server(keys).also("/_matrix/federation/v2/user/keys/query");
    t.server(claim)
        .also("/_matrix/federation/v1/keys/claim")
        .also("/_matrix/federation/unstable/user/keys/claim")
        .limit(Class::Federation);
}

async fn devices(ctx: Ctx, request: get_devices::v1::Request) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let known = ctx.hub.sessions().view(&request.user_id).await?;
    if known.is_none_or(|view| view.deactivated) {
        return Err(DomainError::not_found("Unknown user"));
    }
    Reply::json(&device_list(env, &request.user_id).await?)
}

async fn keys(ctx: Ctx, request: get_keys::v1::Request) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let wanted: Wanted = request
        .device_keys
        .into_iter()
        .filter(|(user, _)| env.is_local(user))
        .collect();
    check_size(wanted.len())?;
    let found = local_keys(env, None, &wanted).await?;
    Reply::json(&json!({
        "device_keys": found.device_keys,
        "master_keys": found.master_keys,
        "self_signing_keys": found.self_signing_keys,
    }))
}

async fn claim(ctx: Ctx, request: claim_keys::v1::Request) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let wanted: BTreeMap<_, Vec<_>> = request
        .one_time_keys
        .into_iter()
        .filter(|(user, _)| env.is_local(user))
        .map(|(user, devices)| {
            let devices = devices.into_iter().map(|(id, algorithm)| (id, algorithm.to_string()));
            (user, devices.collect())
        })
        .collect();
    check_size(wanted.len())?;
    let keys = claim_local(&ctx.hub, wanted).await;
    Reply::json(&json!({ "one_time_keys": keys }))
}

fn check_size(users: usize) -> Outcome<()> {
    match users <= MAX_USERS {
        true => Ok(()),
        false => Err(DomainError::invalid_param(format!(
            "keys of at most {MAX_USERS} users at once"
        ))),
    }
}
