//! The user's own account: who am I, password, deactivation, third-party identifiers.

use actors::error::{DomainError, Outcome};
use actors::flows;
use http::Method;
use ruma::api::client::account::{add_3pid, change_password, deactivate, get_3pids, whoami};
use serde_json::json;

use super::uia::{fix_auth, own_account};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.guest(who_am_i);
    // Not in the specification: MSC2000.
    t.raw(
        Method::GET,
        "/_matrix/client/v3/password_policy",
        Policy::Open,
        password_policy,
    )
    .also("/_matrix/client/r0/password_policy");
    t.user(set_password).limit(Class::Login).fix(fix_auth);
    t.user(end_account).limit(Class::Login).fix(fix_auth);
    t.user(threepids);
    t.user(add_threepid).fix(fix_auth);
    t.raw(
        Method::POST,
        "/_matrix/client/v3/account/3pid",
        Policy::User,
        no_session,
    )
    .also("/_matrix/client/r0/account/3pid");
    t.raw(
        Method::POST,
        "/_matrix/client/v3/account/3pid/bind",
        Policy::User,
        denied,
    )
    .also("/_matrix/client/r0/account/3pid/bind");
    t.raw(
        Method::POST,
        "/_matrix/client/v3/account/3pid/delete",
        Policy::User,
        nothing_bound,
    )
    .also("/_matrix/client/r0/account/3pid/delete");
    t.raw(
        Method::POST,
        "/_matrix/client/v3/account/3pid/unbind",
        Policy::User,
        nothing_bound,
    )
    .also("/_matrix/client/r0/account/3pid/unbind");
    for (v3, r0) in REQUEST_TOKEN {
        t.raw(Method::POST, v3, Policy::Open, denied)
            .also(r0)
            .limit(Class::Registration);
    }
}

/// Where a message to a third-party address is asked for.
const REQUEST_TOKEN: [(&str, &str); 6] = [
    (
        "/_matrix/client/v3/register/email/requestToken",
        "/_matrix/client/r0/register/email/requestToken",
    ),
    (
        "/_matrix/client/v3/register/msisdn/requestToken",
        "/_matrix/client/r0/register/msisdn/requestToken",
    ),
    (
        "/_matrix/client/v3/account/password/email/requestToken",
        "/_matrix/client/r0/account/password/email/requestToken",
    ),
    (
        "/_matrix/client/v3/account/password/msisdn/requestToken",
        "/_matrix/client/r0/account/password/msisdn/requestToken",
    ),
    (
        "/_matrix/client/v3/account/3pid/email/requestToken",
        "/_matrix/client/r0/account/3pid/email/requestToken",
    ),
    (
        "/_matrix/client/v3/account/3pid/msisdn/requestToken",
        "/_matrix/client/r0/account/3pid/msisdn/requestToken",
    ),
];

/// What passwords have to be like. Any will do that is not empty.
async fn password_policy(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "m.minimum_length": 1 }))
}

async fn who_am_i(ctx: Ctx, _request: whoami::v3::Request) -> Outcome<Reply> {
    let identity = ctx.user()?;
    let mut body = json!({ "user_id": identity.user_id, "is_guest": identity.is_guest });
    if identity.appservice.is_none() {
        body["device_id"] = identity.device_id.as_str().into();
    }
    Reply::json(&body)
}

async fn set_password(ctx: Ctx, request: change_password::v3::Request) -> Outcome<Reply> {
    let passed = own_account(&ctx, "password", b"", request.auth.as_ref()).await?;
    let identity = ctx.user()?;
    let keep = Some(identity.device_id.clone());
    let sessions = ctx.hub.sessions();
    sessions
        .set_password(&identity.user_id, &request.new_password, request.logout_devices, keep)
        .await?;
    passed.finish(&ctx);
    Ok(Reply::empty())
}

async fn end_account(ctx: Ctx, request: deactivate::v3::Request) -> Outcome<Reply> {
    let passed = own_account(&ctx, "deactivate", b"", request.auth.as_ref()).await?;
    flows::deactivate::deactivate(&ctx.hub, &ctx.user()?.user_id, request.erase).await?;
    passed.finish(&ctx);
    // There are no third-party identifiers to unbind.
    Reply::json(&json!({ "id_server_unbind_result": "success" }))
}

async fn threepids(_ctx: Ctx, _request: get_3pids::v3::Request) -> Outcome<Reply> {
    Reply::json(&json!({ "threepids": [] }))
}

/// No validation can have been begun.
async fn add_threepid(_ctx: Ctx, _request: add_3pid::v3::Request) -> Outcome<Reply> {
    Err(no_validation())
}

async fn no_session(_ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    Err(no_validation())
}

fn no_validation() -> DomainError {
    DomainError::matrix(400, "M_THREEPID_AUTH_FAILED", "No such validation session")
}

async fn nothing_bound(_ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "id_server_unbind_result": "no-support" }))
}

async fn denied(_ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    Err(DomainError::matrix(
        403,
        "M_THREEPID_DENIED",
        "This server takes no e-mail addresses or phone numbers",
    ))
}
