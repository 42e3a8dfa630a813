//! OpenID tokens, by which other services learn who somebody is (client-server API, "OpenID"; server-server API, "OpenID").

use actors::error::{DomainError, Outcome};
use actors::session::token;
use entities::short_token;
use ruma::api::client::account::request_openid_token;
use ruma::api::federation::openid::get_openid_userinfo;
use serde_json::json;

use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// The kind of short-lived token that tells who its owner is.
const OPENID: &str = "openid";

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.user(request);
    t.open(user_info).limit(Class::Default);
}

async fn request(ctx: Ctx, request: request_openid_token::v3::Request) -> Outcome<Reply> {
    let user = &ctx.user()?.user_id;
    if request.user_id != *user {
        return Err(DomainError::forbidden("Tokens are given for oneself only"));
    }
    let env = ctx.hub.env();
    let lifetime = i64::try_from(ctx.config.tokens.openid_token_lifetime_secs).unwrap_or(0);
    let (now, openid) = (env.clock.now_ms(), token::generate(&env.rng, "sro"));
    let row = short_token::Model {
        token_hash: openid.hash().to_vec(),
        kind: OPENID.to_owned(),
        user_id: user.to_string(),
        expires_ts: now.saturating_add(lifetime.saturating_mul(1_000)),
    };
    env.store.create_short_token(&row, now).await?;
    Reply::json(&json!({
        "access_token": openid.expose(),
        "token_type": "Bearer",
        "matrix_server_name": env.server_name,
        "expires_in": lifetime,
    }))
}

async fn user_info(ctx: Ctx, request: get_openid_userinfo::v1::Request) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let found = env
        .store
        .short_token(&token::hash(&request.access_token), OPENID)
        .await?;
    let found = found.filter(|found| found.expires_ts > env.clock.now_ms());
    let found = found.ok_or_else(|| DomainError::unknown_token("The token is unknown or has expired"))?;
    Reply::json(&json!({ "sub": found.user_id }))
}
