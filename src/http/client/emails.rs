//! Mail addresses of accounts: proving them, adding, listing and removing them (client-server API, "Adding Account
//! Administrative Contact Information"). Phone numbers and identity servers are not served.

use actors::error::{DomainError, Outcome};
use actors::mail::canonical;
use actors::session::email::{self, CONFIRM, Purpose};
use http::header::LOCATION;
use http::{Method, StatusCode};
use ruma::api::client::account::{add_3pid, get_3pids};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fallback::{escaped, page};
use super::uia::{fix_auth, own_account};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Where a mail is asked for.
const CLAIM: [(&str, &str); 2] = [
    (
        "/_matrix/client/v3/register/email/requestToken",
        "/_matrix/client/r0/register/email/requestToken",
    ),
    (
        "/_matrix/client/v3/account/3pid/email/requestToken",
        "/_matrix/client/r0/account/3pid/email/requestToken",
    ),
];
const RECOVER: (&str, &str) = (
    "/_matrix/client/v3/account/password/email/requestToken",
    "/_matrix/client/r0/account/password/email/requestToken",
);
/// Where a short message would be asked for.
const PHONES: [(&str, &str); 3] = [
    (
        "/_matrix/client/v3/register/msisdn/requestToken",
        "/_matrix/client/r0/register/msisdn/requestToken",
    ),
    (
        "/_matrix/client/v3/account/password/msisdn/requestToken",
        "/_matrix/client/r0/account/password/msisdn/requestToken",
    ),
    (
        "/_matrix/client/v3/account/3pid/msisdn/requestToken",
        "/_matrix/client/r0/account/3pid/msisdn/requestToken",
    ),
];

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    for (v3, r0) in CLAIM {
        t.raw(Method::POST, v3, Policy::Open, claim)
            .also(r0)
            .limit(Class::Registration);
    }
    let (v3, r0) = RECOVER;
    t.raw(Method::POST, v3, Policy::Open, recover)
        .also(r0)
        .limit(Class::Registration);
    for (v3, r0) in PHONES {
        t.raw(Method::POST, v3, Policy::Open, no_phones)
            .also(r0)
            .limit(Class::Registration);
    }
    t.raw(Method::GET, CONFIRM, Policy::Open, show);
    t.raw(Method::POST, CONFIRM, Policy::Open, submit).limit(Class::Login);
    // Not in the specification: the API reference's way to bring a token back.
    t.raw(
        Method::POST,
        "/_matrix/client/v3/register/email/submitToken",
        Policy::Open,
        submit_json,
    )
    .also("/_matrix/client/r0/register/email/submitToken")
    .limit(Class::Login);
    t.user(list);
    t.user(add).fix(fix_auth);
    account_routes(t);
}

fn account_routes(t: &mut Table) {
    t.raw(
        Method::POST,
        "/_matrix/client/v3/account/3pid",
        Policy::User,
        add_at_once,
    )
    .also("/_matrix/client/r0/account/3pid");
    t.raw(
        Method::POST,
        "/_matrix/client/v3/account/3pid/bind",
        Policy::User,
        no_identity_server,
    )
    .also("/_matrix/client/r0/account/3pid/bind");
    t.raw(
        Method::POST,
        "/_matrix/client/v3/account/3pid/delete",
        Policy::User,
        remove,
    )
    .also("/_matrix/client/r0/account/3pid/delete");
    t.raw(
        Method::POST,
        "/_matrix/client/v3/account/3pid/unbind",
        Policy::User,
        unbind,
    )
    .also("/_matrix/client/r0/account/3pid/unbind");
}

/// The reference beside the specification leaves `send_attempt` out.
#[derive(Deserialize)]
struct Ask {
    email: String,
    client_secret: String,
    #[serde(default = "first")]
    send_attempt: i64,
    next_link: Option<String>,
}

fn first() -> i64 {
    1
}

async fn claim(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    if ctx.request.template.contains("/register/") && !ctx.config.registration.enabled {
        return Err(DomainError::forbidden("Registration is disabled"));
    }
    ask(&ctx, request.json()?, Purpose::Claim).await
}

async fn recover(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    ask(&ctx, request.json()?, Purpose::Recover).await
}

async fn ask(ctx: &Ctx, ask: Ask, purpose: Purpose) -> Outcome<Reply> {
    // Whoever asks and from wherever: nobody's mailbox is to be filled.
    ctx.limits
        .check(Class::Registration, &("mail to", canonical(&ask.email)?))?;
    let request = email::Request {
        address: ask.email,
        client_secret: ask.client_secret,
        send_attempt: ask.send_attempt,
        next_link: ask.next_link,
    };
    let sid = email::request(ctx.hub.env(), request, purpose).await?;
    Reply::json(&json!({ "sid": sid }))
}

async fn no_phones(_ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    Err(DomainError::matrix(
        403,
        "M_THREEPID_DENIED",
        "This server takes no phone numbers",
    ))
}

#[derive(Deserialize)]
struct Proof {
    sid: String,
    client_secret: String,
    token: String,
}

async fn submit_json(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let proof: Proof = request.json()?;
    email::confirm(ctx.hub.env(), &proof.sid, &proof.client_secret, &proof.token).await?;
    Reply::json(&json!({ "success": true }))
}

/// Only a button confirms: programs that look at mails before their readers follow links, but press no buttons.
async fn show(ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    let field = |name: &str| {
        let value = ctx.request.query_param(name).unwrap_or_default();
        format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escaped(&value))
    };
    let fields: String = ["sid", "client_secret", "token"].into_iter().map(field).collect();
    let form = format!("<p>Is this mail address yours?</p><form method=\"post\">{fields}<button>Yes</button></form>");
    Ok(page(StatusCode::OK, &form))
}

async fn submit(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let field = |name: &str| request.form_field(name).unwrap_or_default();
    let confirmed = email::confirm(ctx.hub.env(), &field("sid"), &field("client_secret"), &field("token")).await;
    match confirmed {
        Ok(Some(link)) => Reply::text("text/plain", "")
            .with_status(StatusCode::FOUND)
            .with_header(LOCATION, link),
        Ok(None) => Ok(page(
            StatusCode::OK,
            "<p>Thank you. You can close this window and go on in your client.</p>",
        )),
        Err(DomainError::Matrix { status: 400, .. }) => Ok(page(
            StatusCode::BAD_REQUEST,
            "<p>This link is wrong or too old. Have another mail sent.</p>",
        )),
        Err(error) => Err(error),
    }
}

async fn list(ctx: Ctx, _request: get_3pids::v3::Request) -> Outcome<Reply> {
    let emails = ctx.hub.env().store.emails_of(ctx.user()?.user_id.as_str()).await?;
    let entry = |email: &entities::user_email::Model| {
        json!({
            "medium": "email", "address": email.address,
            "validated_at": email.validated_ts, "added_at": email.added_ts,
        })
    };
    let threepids: Vec<Value> = emails.iter().map(entry).collect();
    Reply::json(&json!({ "threepids": threepids }))
}

async fn add(ctx: Ctx, request: add_3pid::v3::Request) -> Outcome<Reply> {
    let passed = own_account(&ctx, "add a mail address", b"", request.auth.as_ref()).await?;
    let reply = add_proved(&ctx, request.sid.as_str(), request.client_secret.as_str()).await?;
    passed.finish(&ctx);
    Ok(reply)
}

#[derive(Deserialize)]
struct AtOnce {
    #[serde(alias = "threePidCreds")]
    three_pid_creds: Credentials,
}

#[derive(Deserialize)]
struct Credentials {
    sid: String,
    client_secret: String,
}

/// The deprecated form, without a proof of the password.
async fn add_at_once(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let AtOnce { three_pid_creds } = request.json()?;
    add_proved(&ctx, &three_pid_creds.sid, &three_pid_creds.client_secret).await
}

async fn add_proved(ctx: &Ctx, sid: &str, client_secret: &str) -> Outcome<Reply> {
    let proved = email::proved(ctx.hub.env(), sid, client_secret).await?;
    let proved = proved
        .ok_or_else(|| DomainError::matrix(400, "M_THREEPID_AUTH_FAILED", "The address has not been confirmed"))?;
    ctx.hub.sessions().add_email(&ctx.user()?.user_id, proved).await?;
    Ok(Reply::empty())
}

async fn no_identity_server(_ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    Err(DomainError::matrix(
        403,
        "M_THREEPID_DENIED",
        "This server speaks with no identity server",
    ))
}

#[derive(Deserialize)]
struct Named {
    medium: String,
    address: String,
}

async fn remove(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let named: Named = request.json()?;
    if named.medium == "email" {
        let address = canonical(&named.address)?;
        ctx.hub.sessions().remove_email(&ctx.user()?.user_id, address).await?;
    }
    Reply::json(&json!({ "id_server_unbind_result": "no-support" }))
}

/// Nothing was ever bound.
async fn unbind(_ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "id_server_unbind_result": "no-support" }))
}
