//! Credentials for a TURN server (client-server API, "Voice over IP"), and two extensions for clients that ask more.

use actors::clock::Millis;
use actors::error::{DomainError, Outcome};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Method;
use ruma::api::client::voip::get_turn_server_info::v3::Request;
use serde::Serialize;
use serde_json::json;
use sha1::Sha1;

use crate::config::Turn;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Characters that tell guests without a token apart.
const GUEST_LEN: usize = 12;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.guest(turn_server).limit(Class::Voip);
    t.raw(Method::GET, "/_matrix/client/v3/voip/config", Policy::Optional, config)
        .also("/_matrix/client/r0/voip/config")
        .limit(Class::Voip);
    t.raw(
        Method::GET,
        "/_matrix/client/v3/voip/turnServer/guest",
        Policy::Open,
        guest_turn_server,
    )
    .also("/_matrix/client/r0/voip/turnServer/guest")
    .limit(Class::Voip);
}

/// What clients are told of a TURN server.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Credentials {
    username: String,
    password: String,
    uris: Vec<String>,
    /// Seconds.
    ttl: u64,
}

fn not_configured() -> DomainError {
    DomainError::not_found("VoIP/TURN service is not configured")
}

async fn turn_server(ctx: Ctx, _: Request) -> Outcome<Reply> {
    match of_caller(&ctx)? {
        Some(credentials) => Reply::json(&credentials),
        None => Err(not_configured()),
    }
}

/// For the owner of the token.
fn of_caller(ctx: &Ctx) -> Outcome<Option<Credentials>> {
    let turn = &ctx.config.turn;
    let identity = ctx.user()?;
    if identity.is_guest && !turn.allow_guests {
        return Err(DomainError::guest_forbidden("Guests get no TURN credentials"));
    }
    let lifetime = match identity.is_guest {
        true => turn.guest_lifetime_secs,
        false => turn.user_lifetime_secs,
    };
    credentials(turn, identity.user_id.as_str(), lifetime, ctx.hub.env().clock.now_ms())
}

/// For anybody: only credentials that expire, and only where guests may have them.
fn of_stranger(ctx: &Ctx) -> Outcome<Option<Credentials>> {
    let turn = &ctx.config.turn;
    if !turn.allow_guests || turn.shared_secret.is_none() {
        return Ok(None);
    }
    let env = ctx.hub.env();
    let name = format!("guest-{}", env.rng.alphanumeric(GUEST_LEN));
    credentials(turn, &name, turn.guest_lifetime_secs, env.clock.now_ms())
}

async fn guest_turn_server(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    if !ctx.config.turn.uris.is_empty() && !ctx.config.turn.allow_guests {
        return Err(DomainError::guest_forbidden("Guests get no TURN credentials"));
    }
    match of_stranger(&ctx)? {
        Some(credentials) => Reply::json(&credentials),
        None => Err(not_configured()),
    }
}

/// Without a token, or for guests who get none, `turn_servers` is `null` as where there is no TURN server.
async fn config(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let turn = &ctx.config.turn;
    let found = match ctx.identity.as_deref() {
        Some(identity) if identity.is_guest && !turn.allow_guests => None,
        Some(_) => of_caller(&ctx)?,
        None => of_stranger(&ctx)?,
    };
    let stun = Some(&turn.stun_uris).filter(|uris| !uris.is_empty());
    Reply::json(&json!({ "turn_servers": found.map(|credentials| [credentials]), "stun_servers": stun }))
}

/// `None` without a TURN server. With a shared secret they expire, as the TURN server can tell by itself: "A REST API For
/// Access To TURN Services" (draft-uberti-behave-turn-rest-00).
fn credentials(turn: &Turn, name: &str, lifetime_secs: u64, now: Millis) -> Outcome<Option<Credentials>> {
    if turn.uris.is_empty() {
        return Ok(None);
    }
    let made = |(username, password)| Credentials {
        username,
        password,
        uris: turn.uris.clone(),
        ttl: lifetime_secs,
    };
    if let Some(secret) = &turn.shared_secret {
        let lifetime = Millis::try_from(lifetime_secs).unwrap_or(Millis::MAX);
        let username = format!("{}:{name}", (now / 1_000).saturating_add(lifetime));
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes())
            .map_err(|error| DomainError::internal(format!("turn.shared_secret: {error}")))?;
        mac.update(username.as_bytes());
        let password = STANDARD.encode(mac.finalize().into_bytes());
        return Ok(Some(made((username, password))));
    }
    let fixed = turn.username.clone().zip(turn.password.as_ref());
    Ok(fixed.map(|(username, password)| made((username, password.expose().to_owned()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn of(turn: &str) -> Option<(String, String)> {
        let config = config::parse("test", turn, []).unwrap_or_else(|error| panic!("{error}"));
        let found = credentials(&config.turn, "@alice:example.org", 100, 1_700_000_000_999);
        found
            .expect("the secret is usable")
            .map(|credentials| (credentials.username, credentials.password))
    }

    #[test]
    fn a_shared_secret_makes_credentials_that_expire() {
        let turn = "[turn]\nuris = [\"turn:t.example.org\"]\nshared_secret = \"hush\"\n";
        let expected = (
            "1700000100:@alice:example.org".to_owned(),
            "4AFT/jz99V6XaOIfDQ4mhA1LV/4=".to_owned(),
        );
        assert_eq!(of(turn), Some(expected));
    }

    #[test]
    fn otherwise_they_are_as_configured() {
        let turn = "[turn]\nuris = [\"turn:t.example.org\"]\nusername = \"u\"\npassword = \"p\"\n";
        assert_eq!(of(turn), Some(("u".to_owned(), "p".to_owned())));
        assert_eq!(of(""), None);
    }
}
