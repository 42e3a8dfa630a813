//! Cross-signing keys and signatures (client-server API, "Cross-signing").

use std::collections::BTreeMap;

use actors::error::{DomainError, Outcome};
use actors::session::keys::{CrossSigningUpload, Failures, is_free};
use http::Method;
use ruma::OwnedUserId;
use ruma::api::client::keys::upload_signing_keys;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::uia::{fix_auth, own_account};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    // It takes passwords.
    t.user(upload_keys)
        .limit(Class::Login)
        .fix(fix_auth)
        .also("/_matrix/client/r0/keys/device_signing/upload");
    t.raw(
        Method::POST,
        "/_matrix/client/v3/keys/signatures/upload",
        Policy::User,
        upload_signatures,
    )
    .also("/_matrix/client/r0/keys/signatures/upload")
    .also("/_matrix/client/unstable/keys/signatures/upload");
}

/// Users prove who they are unless they have no keys yet or upload nothing new (MSC3967).
async fn upload_keys(ctx: Ctx, request: upload_signing_keys::v3::Request) -> Outcome<Reply> {
    let identity = ctx.user()?;
    let (hub, user) = (&ctx.hub, &identity.user_id);
    let mut upload = CrossSigningUpload {
        master_key: request.master_key.map(|key| key.into_json()),
        self_signing_key: request.self_signing_key.map(|key| key.into_json()),
        user_signing_key: request.user_signing_key.map(|key| key.into_json()),
        // An administrator may let a user do without the password for some minutes.
        proved: identity.appservice.is_some() || hub.env().security.may_replace_cross_signing(user),
    };
    let view = hub.sessions().view(user).await?;
    let view = view.ok_or_else(|| DomainError::not_found("Unknown user"))?;
    let mut passed = None;
    if !upload.proved && !is_free(hub.env(), &view, &upload).await? {
        let keys = [&upload.master_key, &upload.self_signing_key, &upload.user_signing_key];
        let texts: Vec<&str> = keys
            .iter()
            .map(|key| key.as_ref().map_or("", |key| key.get()))
            .collect();
        let object = texts.join("\0");
        passed = Some(own_account(&ctx, "device_signing", object.as_bytes(), request.auth.as_ref()).await?);
        upload.proved = true;
    }
    hub.sessions().upload_cross_signing(user, upload).await?;
    if let Some(passed) = passed {
        passed.finish(&ctx);
    }
    Ok(Reply::empty())
}

async fn upload_signatures(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let signed: BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>> = request.json()?;
    let user = &ctx.user()?.user_id;
    let failures = ctx.hub.sessions().upload_signatures(user, signed).await?;
    Reply::json(&json!({ "failures": shown(failures) }))
}

fn shown(failures: Failures) -> Map<String, Value> {
    let error = |error: DomainError| match error {
        DomainError::Matrix { errcode, message, .. } => json!({ "errcode": errcode, "error": message }),
        other => json!({ "errcode": "M_UNKNOWN", "error": other.to_string() }),
    };
    let of_user = |keys: BTreeMap<String, DomainError>| -> Map<String, Value> {
        keys.into_iter().map(|(name, why)| (name, error(why))).collect()
    };
    let failures = failures.into_iter();
    failures
        .map(|(user, keys)| (user.to_string(), of_user(keys).into()))
        .collect()
}
