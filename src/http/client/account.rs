//! The user's own account: who am I, password, deactivation.

use actors::error::{DomainError, Outcome};
use actors::flows;
use actors::session::email;
use actors::session::uia::{self, Attempt, Bound, EMAIL_FLOWS, PASSWORD_FLOWS, PASSWORD_OR_EMAIL_FLOWS};
use http::Method;
use ruma::api::client::account::{change_password, deactivate, whoami};
use serde_json::json;

use super::uia::{fix_auth, own_account, own_account_by};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::federation::users::users_of_status;
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
    let status = "/_matrix/client/unstable/org.matrix.msc3720/account_status";
    t.raw(Method::POST, status, Policy::User, account_status)
        .limit(Class::Default);
    t.optional(set_password).limit(Class::Login).fix(fix_auth);
    t.user(end_account).limit(Class::Login).fix(fix_auth);
}

/// What passwords have to be like. Any will do that is not empty.
async fn password_policy(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "m.minimum_length": 1 }))
}

/// Whether accounts exist, and are in use (MSC3720).
async fn account_status(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let users = users_of_status(&request)?;
    if users.is_empty() {
        return Reply::json(&json!({}));
    }
    Reply::json(&flows::account_status::anybodys(&ctx.hub, users).await)
}

async fn who_am_i(ctx: Ctx, _request: whoami::v3::Request) -> Outcome<Reply> {
    let identity = ctx.user()?;
    let mut body = json!({ "user_id": identity.user_id, "is_guest": identity.is_guest });
    if identity.appservice.is_none() {
        body["device_id"] = identity.device_id.as_str().into();
    }
    Reply::json(&body)
}

/// With a token, its owner's; without one, that of whoever the proved mail address belongs to.
async fn set_password(ctx: Ctx, request: change_password::v3::Request) -> Outcome<Reply> {
    let sessions = ctx.hub.sessions();
    let Ok(identity) = ctx.user() else {
        return recover(&ctx, request).await;
    };
    Policy::User.admit(identity, false)?;
    let flows = match ctx.hub.env().mail {
        Some(_) => PASSWORD_OR_EMAIL_FLOWS,
        None => PASSWORD_FLOWS,
    };
    let passed = own_account_by(&ctx, flows, "password", b"", request.auth.as_ref()).await?;
    let keep = Some(identity.device_id.clone());
    sessions
        .set_password(&identity.user_id, &request.new_password, request.logout_devices, keep)
        .await?;
    passed.finish(&ctx);
    Ok(Reply::empty())
}

async fn recover(ctx: &Ctx, request: change_password::v3::Request) -> Outcome<Reply> {
    let env = ctx.hub.env();
    if env.mail.is_none() {
        return Err(DomainError::missing_token("An access token is missing"));
    }
    let attempt = Attempt {
        bound: Bound::new("recover", None, b""),
        flows: EMAIL_FLOWS,
        auth: request.auth.as_ref(),
    };
    let authorised = uia::authorise(env, attempt).await?;
    let proved = authorised
        .email
        .ok_or_else(|| DomainError::internal("an e-mail stage without an address"))?;
    let user = email::owner(env, &proved.address).await?;
    let user = user.ok_or_else(email::unknown_address)?;
    ctx.hub
        .sessions()
        .set_password(&user, &request.new_password, request.logout_devices, None)
        .await?;
    env.uia.finish(&authorised.session);
    env.store.end_email_session(&proved.sid).await?;
    Ok(Reply::empty())
}

async fn end_account(ctx: Ctx, request: deactivate::v3::Request) -> Outcome<Reply> {
    let passed = own_account(&ctx, "deactivate", b"", request.auth.as_ref()).await?;
    flows::deactivate::deactivate(&ctx.hub, &ctx.user()?.user_id, request.erase).await?;
    passed.finish(&ctx);
    // Nothing was ever bound on an identity server.
    Reply::json(&json!({ "id_server_unbind_result": "success" }))
}
