//! Web pages for clients that do not know a stage of user-interactive authentication (client-server API, "Fallback").

use actors::error::{DomainError, Outcome};
use actors::session::uia::{self, Proof, Stage};
use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderValue, Method, StatusCode};

use super::uia::count_attempt;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

const STAGES: [Stage; 3] = [Stage::Dummy, Stage::Password, Stage::RegistrationToken];

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.raw(
        Method::GET,
        "/_matrix/client/v3/auth/{stage}/fallback/web",
        Policy::Open,
        show,
    )
    .also("/_matrix/client/r0/auth/{stage}/fallback/web");
    t.raw(
        Method::POST,
        "/_matrix/client/v3/auth/{stage}/fallback/web",
        Policy::Open,
        submit,
    )
    .also("/_matrix/client/r0/auth/{stage}/fallback/web")
    .limit(Class::Login);
}

async fn show(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let stage = stage(&request)?;
    Ok(page(StatusCode::OK, &form(stage, &session(&ctx)?, "")))
}

async fn submit(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let stage = stage(&request)?;
    let session = match request.form_field("session") {
        Some(session) => session,
        None => session(&ctx)?,
    };
    let given = request.form_field("secret").unwrap_or_default();
    if stage == Stage::Password
        && let Some(user) = uia::account(ctx.hub.env(), &session)
    {
        count_attempt(&ctx, &user)?;
    }
    Ok(match uia::prove(ctx.hub.env(), &session, stage, &given).await? {
        Proof::Passed => page(StatusCode::OK, DONE),
        Proof::Failed(why) => page(StatusCode::UNAUTHORIZED, &form(stage, &session, why)),
        Proof::NoSession => page(StatusCode::BAD_REQUEST, EXPIRED),
    })
}

fn stage(request: &RawRequest) -> Outcome<Stage> {
    let name = request.arg(0)?;
    let found = STAGES.into_iter().find(|stage| stage.name() == name);
    found.ok_or_else(|| DomainError::not_found(format!("There is no authentication stage {name:?}")))
}

fn session(ctx: &Ctx) -> Outcome<String> {
    let session = ctx.request.query_param("session");
    session.ok_or_else(|| DomainError::missing_param("session is missing"))
}

const DONE: &str = "<p>Thank you. You can close this window and go on in your client.</p><script>\
    if (window.onAuthDone) { window.onAuthDone(); }\
    else if (window.opener && window.opener.postMessage) { window.opener.postMessage(\"authDone\", \"*\"); }\
    </script>";
const EXPIRED: &str = "<p>This authentication is unknown or has expired. Go back to your client and begin again.</p>";

fn form(stage: Stage, session: &str, message: &str) -> String {
    let field = match stage {
        Stage::Dummy => "<p>Press the button to go on.</p>",
        Stage::Password => {
            "<label for=\"secret\">Your password</label><input id=\"secret\" name=\"secret\" type=\"password\" \
             autocomplete=\"current-password\" required>"
        }
        Stage::Email => "<p>Open the link in the mail.</p>",
        Stage::RegistrationToken => {
            "<label for=\"secret\">Registration token</label><input id=\"secret\" name=\"secret\" \
             autocomplete=\"off\" required>"
        }
    };
    format!(
        "<form method=\"post\"><input type=\"hidden\" name=\"session\" value=\"{}\">{field}<button>Go on</button></form>\
         <p role=\"alert\">{}</p>",
        escaped(session),
        escaped(message),
    )
}

/// A page of this server; `body` is HTML.
pub(super) fn page(status: StatusCode, body: &str) -> Reply {
    const POLICY: HeaderValue = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'",
    );
    let html = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Authentication</title><style>\
         body{{font:16px sans-serif;max-width:22em;margin:4em auto;padding:0 1em}}\
         label,input,button{{display:block;width:100%;box-sizing:border-box;font:inherit;margin:.25em 0}}\
         </style></head><body><h1>Authentication</h1>{body}</body></html>"
    );
    let mut reply = Reply::text("text/html; charset=utf-8", html).with_status(status);
    reply.headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    reply
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_address_says_does_not_become_html() {
        let html = form(Stage::Dummy, "\"><script>alert(1)</script>", "");
        assert!(!html.contains("<script>"), "{html}");
        assert!(html.contains("value=\"&quot;&gt;&lt;script&gt;"), "{html}");
    }
}
