//! Logins as requests ask for them and responses show them.

use actors::session::account::{NewDevice, NewSession, Refreshing};
use ruma::OwnedDeviceId;
use serde_json::{Map, Value};

use crate::http::context::Ctx;

/// The device of a request that logs in.
#[must_use]
pub fn new_device(
    ctx: &Ctx,
    device_id: Option<OwnedDeviceId>,
    display_name: Option<String>,
    refresh_token: bool,
    password_proved: bool,
) -> NewDevice {
    let refreshing = match (refresh_token, ctx.seed_profile()) {
        (true, _) => Refreshing::Expiring,
        // Its clients did not ask, but find a refresh token.
        (false, true) => Refreshing::Lasting,
        (false, false) => Refreshing::No,
    };
    NewDevice {
        device_id,
        display_name,
        refreshing,
        password_proved,
        ip: Some(ctx.request.ip.to_string()),
        user_agent: ctx.request.user_agent.clone(),
    }
}

/// `access_token` and, where there is one, `refresh_token` with the lifetime (as the specification and as the reference
/// beside it name it).
#[must_use]
pub fn tokens(ctx: &Ctx, session: &NewSession) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("access_token".to_owned(), session.access_token.expose().into());
    let Some(refresh) = &session.refresh_token else {
        return body;
    };
    body.insert("refresh_token".to_owned(), refresh.expose().into());
    let usual = ctx.hub.env().settings.refreshable_access_token_lifetime_ms;
    let lifetime = session.expires_in_ms.or_else(|| ctx.seed_profile().then_some(usual));
    if let Some(ms) = lifetime {
        body.insert("expires_in_ms".to_owned(), ms.into());
        body.insert("expires_in".to_owned(), ms.into());
    }
    body
}

/// The answer to a registration or login.
#[must_use]
pub fn logged_in(ctx: &Ctx, session: &NewSession) -> Map<String, Value> {
    let mut body = tokens(ctx, session);
    body.insert("user_id".to_owned(), session.user_id.as_str().into());
    body.insert("device_id".to_owned(), session.device_id.as_str().into());
    body.insert("home_server".to_owned(), session.user_id.server_name().as_str().into());
    body
}
