//! Devices and keys of this server's users (server-server API, "Device Management" and "End-to-End Encryption").

use std::collections::{BTreeMap, BTreeSet};

use actors::error::{DomainError, Outcome};
use actors::flows::{self, claims};
use actors::session::keys::query::{Wanted, device_list, local_keys};
use http::Method;
use ruma::api::federation::device::get_devices;
use ruma::api::federation::keys::{claim_keys, get_keys};
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::json;

use crate::http::auth::Policy;
use crate::http::client::keys::claim_local;
use crate::http::context::{Ctx, RawRequest};
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
        .limit(Class::Federation);
    let several = "/_matrix/federation/unstable/user/keys/claim";
    t.raw(Method::POST, several, Policy::Server, claim_several)
        .limit(Class::Federation);
    let status = "/_matrix/federation/unstable/org.matrix.msc3720/account_status";
    t.raw(Method::POST, status, Policy::Server, account_status)
        .also("/_matrix/federation/unstable/org.matrix.msc3720/query/account_status")
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

#[derive(Deserialize)]
struct Several {
    one_time_keys: claims::Several,
}

/// Several keys of a device at once, and its fallback key (MSC3983).
async fn claim_several(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let Several { mut one_time_keys } = request.json()?;
    one_time_keys.retain(|user, _| ctx.hub.env().is_local(user));
    check_size(one_time_keys.len())?;
    let keys = claims::local(&ctx.hub, one_time_keys).await;
    Reply::json(&json!({ "one_time_keys": keys }))
}

async fn account_status(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let users = users_of_status(&request)?;
    if let Some(user) = users.iter().find(|user| !ctx.hub.env().is_local(user)) {
        return Err(DomainError::invalid_param(format!(
            "{user} is not a user of this server"
        )));
    }
    if users.is_empty() {
        return Reply::json(&json!({}));
    }
    Reply::json(&flows::account_status::local(&ctx.hub, users).await)
}

/// Whose accounts are asked about (MSC3720).
pub(in crate::http) fn users_of_status(request: &RawRequest) -> Outcome<BTreeSet<OwnedUserId>> {
    #[derive(Deserialize)]
    struct Body {
        user_ids: Vec<String>,
    }
    let Body { user_ids } = request.json()?;
    check_size(user_ids.len())?;
    let parsed = |id: String| {
        UserId::parse(&id).map_err(|error| DomainError::invalid_param(format!("invalid user id {id:?}: {error}")))
    };
    user_ids.into_iter().map(parsed).collect()
}

fn check_size(users: usize) -> Outcome<()> {
    match users <= MAX_USERS {
        true => Ok(()),
        false => Err(DomainError::invalid_param(format!(
            "keys of at most {MAX_USERS} users at once"
        ))),
    }
}
