//! Credentials for a TURN server (client-server API, "Voice over IP").

use actors::clock::Millis;
use actors::error::{DomainError, Outcome};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ruma::UserId;
use ruma::api::client::voip::get_turn_server_info::v3::Request;
use serde_json::json;
use sha1::Sha1;

use crate::config::Turn;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.guest(turn_server);
}

async fn turn_server(ctx: Ctx, _: Request) -> Outcome<Reply> {
    let turn = &ctx.config.turn;
    let identity = ctx.user()?;
    if identity.is_guest && !turn.allow_guests {
        return Err(DomainError::guest_forbidden("Guests get no TURN credentials"));
    }
    let credentials = credentials(turn, &identity.user_id, ctx.hub.env().clock.now_ms())?;
    let Some((username, password)) = credentials else {
        return Err(DomainError::not_found("No TURN server is configured"));
    };
    Reply::json(&json!({
        "username": username,
        "password": password,
        "uris": turn.uris,
        "ttl": turn.user_lifetime_secs,
    }))
}

/// User name and password; `None` without a TURN server. With a shared secret they expire, as the TURN server can tell by
/// itself: "A REST API For Access To TURN Services" (draft-uberti-behave-turn-rest-00).
fn credentials(turn: &Turn, user: &UserId, now: Millis) -> Outcome<Option<(String, String)>> {
    if turn.uris.is_empty() {
        return Ok(None);
    }
    if let Some(secret) = &turn.shared_secret {
        let lifetime = Millis::try_from(turn.user_lifetime_secs).unwrap_or(Millis::MAX);
        let username = format!("{}:{user}", (now / 1_000).saturating_add(lifetime));
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes())
            .map_err(|error| DomainError::internal(format!("turn.shared_secret: {error}")))?;
        mac.update(username.as_bytes());
        let password = STANDARD.encode(mac.finalize().into_bytes());
        return Ok(Some((username, password)));
    }
    let fixed = turn.username.clone().zip(turn.password.as_ref());
    Ok(fixed.map(|(username, password)| (username, password.expose().to_owned())))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::config;

    fn of(turn: &str) -> Option<(String, String)> {
        let config = config::parse("test", turn, []).unwrap_or_else(|error| panic!("{error}"));
        credentials(&config.turn, user_id!("@alice:example.org"), 1_700_000_000_999).expect("the secret is usable")
    }

    #[test]
    fn a_shared_secret_makes_credentials_that_expire() {
        let turn = "[turn]\nuris = [\"turn:t.example.org\"]\nshared_secret = \"hush\"\nuser_lifetime_secs = 100\n";
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
