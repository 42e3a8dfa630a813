//! User-interactive authentication as endpoints use it.

use actors::error::{DomainError, Outcome};
use actors::session::uia::{self, Attempt, Bound, Flow, PASSWORD_FLOWS};
use ruma::UserId;
use ruma::api::client::uiaa::AuthData;
use serde_json::{Value, json};

use crate::http::context::{Ctx, RequestInfo};
use crate::http::limits::Class;

/// The caller may go on.
#[must_use = "the session must be finished once the operation is done"]
pub struct Passed(Option<String>);

impl Passed {
    /// The operation was done: the session does not serve again.
    pub fn finish(self, ctx: &Ctx) {
        if let Some(session) = self.0 {
            ctx.hub.env().uia.finish(&session);
        }
    }
}

/// Lets the user prove their password before `operation`, which is about `object`. On the paths of the reference beside
/// the specification a password proved lately is enough.
///
/// # Errors
/// `Uiaa` with what is to be done; `M_FORBIDDEN`.
pub async fn own_account(
    ctx: &Ctx,
    operation: &'static str,
    object: &[u8],
    auth: Option<&AuthData>,
) -> Outcome<Passed> {
    own_account_by(ctx, PASSWORD_FLOWS, operation, object, auth).await
}

/// The same, in any of the ways that `flows` are.
///
/// # Errors
/// As [`own_account`].
pub async fn own_account_by(
    ctx: &Ctx,
    flows: &[Flow],
    operation: &'static str,
    object: &[u8],
    auth: Option<&AuthData>,
) -> Outcome<Passed> {
    let identity = ctx.user()?;
    let env = ctx.hub.env();
    if auth.is_none() && ctx.seed_profile() {
        let age = env.clock.now_ms().saturating_sub(identity.authed_ts);
        if identity.authed_ts > 0 && age <= env.settings.uia_session_ms {
            return Ok(Passed(None));
        }
    }
    let bound = Bound::new(operation, Some(&identity.user_id), object);
    let authorised = uia::authorise(env, Attempt { bound, flows, auth }).await?;
    if authorised.password_proved {
        ctx.hub
            .sessions()
            .note_authed(&identity.user_id, identity.token_hash)
            .await?;
    }
    Ok(Passed(Some(authorised.session)))
}

/// Counts an attempt to prove an account's password without a token of that account, wherever it comes from.
///
/// # Errors
/// 429 `M_LIMIT_EXCEEDED` when there were too many.
pub fn count_attempt(ctx: &Ctx, account: &UserId) -> Outcome<()> {
    ctx.limits.check(Class::Login, &("password of", account))
}

/// Accepts `auth` as older clients send it: `null` or empty for none, `user` instead of `identifier`.
pub fn fix_auth(body: &mut Value, _request: &RequestInfo) {
    mend_auth(body);
}

fn mend_auth(body: &mut Value) {
    let Some(object) = body.as_object_mut() else { return };
    let nothing = |auth: &Value| auth.is_null() || auth.as_object().is_some_and(serde_json::Map::is_empty);
    if object.get("auth").is_some_and(nothing) {
        object.remove("auth");
    }
    let Some(auth) = object.get_mut("auth").and_then(Value::as_object_mut) else {
        return;
    };
    if auth.contains_key("identifier") || auth.get("type") != Some(&json!("m.login.password")) {
        return;
    }
    if let Some(user) = auth.get("user").cloned() {
        auth.insert("identifier".to_owned(), json!({ "type": "m.id.user", "user": user }));
    }
}

/// 403 `M_FORBIDDEN`: the answer to credentials that are wrong, whatever is wrong with them.
#[must_use]
pub fn wrong_credentials() -> DomainError {
    DomainError::forbidden("Invalid user name or password")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(mut body: Value) -> Value {
        mend_auth(&mut body);
        body
    }

    #[test]
    fn auth_of_older_clients_is_understood() {
        assert_eq!(fixed(json!({ "auth": null })), json!({}));
        assert_eq!(fixed(json!({ "auth": {} })), json!({}));
        let old = json!({ "auth": { "type": "m.login.password", "user": "a", "password": "p" } });
        assert_eq!(
            fixed(old)["auth"]["identifier"],
            json!({ "type": "m.id.user", "user": "a" })
        );
        let dummy = json!({ "auth": { "type": "m.login.dummy", "session": "s" } });
        assert_eq!(fixed(dummy.clone()), dummy);
    }
}
