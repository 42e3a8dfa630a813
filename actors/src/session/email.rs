//! Proofs that a mail address is somebody's: a token goes there and comes back (client-server API, "Adding Account
//! Administrative Contact Information"; Identity service API, "Email associations").

use entities::{email_session, user_email};
use ruma::{OwnedUserId, UserId};
use subtle::ConstantTimeEq as _;
use url::Url;
use url::form_urlencoded::Serializer;

use super::token;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::mail::{Mailer, canonical};

/// The path of the page that the links in mails open.
pub const CONFIRM: &str = "/_matrix/client/unstable/registration/email/submit_token";
/// Characters of a session's id and of a token.
const NAME: usize = 24;
const TOKEN: usize = 40;
/// The longest client secret and link (identity service API: 255 characters of `[0-9a-zA-Z.=_-]`).
const MAX_SECRET: usize = 255;
const MAX_LINK: usize = 2_048;
/// How long what was proved can be used, milliseconds.
const PROOF_LIFETIME_MS: i64 = 24 * 60 * 60 * 1_000;

/// What somebody asks a proof for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To register, or to add the address to their account: it must be nobody's.
    Claim,
    /// To set a new password: it must be somebody's.
    Recover,
}

/// `POST …/email/requestToken`.
#[derive(Clone, Debug)]
pub struct Request {
    /// As the client has it.
    pub address: String,
    /// Names the session together with the address.
    pub client_secret: String,
    /// Only a higher number than before sends another mail.
    pub send_attempt: i64,
    /// Where the browser goes on.
    pub next_link: Option<String>,
}

/// An address that somebody has proved to be theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// In lower case.
    pub address: String,
    /// The session.
    pub sid: String,
    /// When, Unix milliseconds.
    pub ts: i64,
}

/// 403 `M_THREEPID_DENIED`: this server sends no mail.
#[must_use]
pub fn denied() -> DomainError {
    DomainError::matrix(
        403,
        "M_THREEPID_DENIED",
        "This server sends no mail to prove addresses with",
    )
}

/// 400 `M_THREEPID_IN_USE`: the address is somebody's here.
#[must_use]
pub fn in_use() -> DomainError {
    DomainError::matrix(400, "M_THREEPID_IN_USE", "The address is in use")
}

/// 400 `M_THREEPID_NOT_FOUND`: the address is nobody's here.
#[must_use]
pub fn unknown_address() -> DomainError {
    DomainError::matrix(400, "M_THREEPID_NOT_FOUND", "The address is nobody's here")
}

/// Sends the mail; the answer is the session's id.
///
/// # Errors
/// `M_THREEPID_DENIED`, `M_THREEPID_IN_USE`, `M_THREEPID_NOT_FOUND`, `M_INVALID_PARAM`; `Unavailable` when the mail could
/// not be sent.
pub async fn request(env: &Env, request: Request, purpose: Purpose) -> Outcome<String> {
    let mailer = env.mail.as_ref().ok_or_else(denied)?;
    let address = canonical(&request.address)?;
    check(&request)?;
    let owned = env.store.email_owner(&address).await?.is_some();
    match purpose {
        Purpose::Claim if owned => return Err(in_use()),
        Purpose::Recover if !owned => return Err(unknown_address()),
        Purpose::Claim | Purpose::Recover => {}
    }
    let token = env.rng.alphanumeric(TOKEN);
    let new = email_session::Model {
        sid: env.rng.alphanumeric(NAME),
        client_secret: request.client_secret,
        address,
        token_hash: token::hash(&token).to_vec(),
        send_attempt: request.send_attempt,
        next_link: request.next_link,
        created_ts: env.clock.now_ms(),
        validated_ts: None,
    };
    let session = env.store.begin_email_session(&new).await?;
    if session.token_hash != new.token_hash {
        // A repeated request: the mail is on its way already, or the proof is there.
        return Ok(session.sid);
    }
    if let Err(error) = mailer
        .send(
            &session.address,
            subject(purpose),
            letter(env, mailer, &session, &token, purpose),
        )
        .await
    {
        env.store.end_email_session(&session.sid).await?;
        return Err(error);
    }
    Ok(session.sid)
}

fn check(request: &Request) -> Outcome<()> {
    let secret = &request.client_secret;
    let known = |next: char| next.is_ascii_alphanumeric() || ".=_-".contains(next);
    if secret.is_empty() || secret.len() > MAX_SECRET || !secret.chars().all(known) {
        return Err(DomainError::invalid_param(
            "client_secret must be 1 to 255 of a-z, A-Z, 0-9, . = _ -",
        ));
    }
    let Some(link) = &request.next_link else { return Ok(()) };
    let followed = Url::parse(link).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
    if !followed || link.len() > MAX_LINK {
        return Err(DomainError::invalid_param("next_link must be a web address"));
    }
    Ok(())
}

fn subject(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Claim => "Confirm your mail address",
        Purpose::Recover => "Set a new password",
    }
}

fn letter(env: &Env, mailer: &Mailer, session: &email_session::Model, token: &str, purpose: Purpose) -> String {
    let query = Serializer::new(String::new())
        .append_pair("sid", &session.sid)
        .append_pair("client_secret", &session.client_secret)
        .append_pair("token", token)
        .finish();
    let why = match purpose {
        Purpose::Claim => "Somebody, we hope you, wants to use this address with an account on",
        Purpose::Recover => "Somebody, we hope you, wants to set a new password for the account of this address on",
    };
    format!(
        "{why} {server}.\n\nIf it was you, open this link and then go on where you began:\n\n{base}{CONFIRM}?{query}\n\n\
         If it was not you, there is nothing to do.\n",
        server = env.server_name,
        base = mailer.settings().base_url,
    )
}

/// The token came back. The answer is where the browser goes on.
///
/// # Errors
/// 400 `M_UNKNOWN_TOKEN` where it is not the newest mail's or came too late.
pub async fn confirm(env: &Env, sid: &str, client_secret: &str, given: &str) -> Outcome<Option<String>> {
    let unknown = || DomainError::matrix(400, "M_UNKNOWN_TOKEN", "The link is wrong or too old");
    let lifetime = env.mail.as_ref().ok_or_else(denied)?.settings().link_lifetime_ms;
    let session = find(env, sid, client_secret).await?.ok_or_else(unknown)?;
    let good = bool::from(session.token_hash.ct_eq(&token::hash(given)[..]));
    if !good || (session.validated_ts.is_none() && session.created_ts + lifetime < env.clock.now_ms()) {
        return Err(unknown());
    }
    env.store.validate_email(sid, env.clock.now_ms()).await?;
    Ok(session.next_link)
}

async fn find(env: &Env, sid: &str, client_secret: &str) -> Outcome<Option<email_session::Model>> {
    if sid.contains('\0') {
        return Ok(None);
    }
    let session = env.store.email_session(sid).await?;
    Ok(session.filter(|session| bool::from(session.client_secret.as_bytes().ct_eq(client_secret.as_bytes()))))
}

/// What a session has proved; `None` where the token has not come back (or too long ago).
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn proved(env: &Env, sid: &str, client_secret: &str) -> Outcome<Option<Proved>> {
    let session = find(env, sid, client_secret).await?;
    let now = env.clock.now_ms();
    Ok(session.and_then(|session| {
        let ts = session.validated_ts.filter(|ts| ts + PROOF_LIFETIME_MS > now)?;
        Some(Proved {
            address: session.address,
            sid: session.sid,
            ts,
        })
    }))
}

/// Whose address it is.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn owner(env: &Env, address: &str) -> Outcome<Option<OwnedUserId>> {
    let Ok(address) = canonical(address) else {
        return Ok(None);
    };
    let owner = env.store.email_owner(&address).await?;
    Ok(owner.and_then(|user| user.parse().ok()))
}

/// Adds a proved address to an account, as its session actor does it.
///
/// # Errors
/// `M_THREEPID_IN_USE` where it became another's meanwhile.
pub async fn add(env: &Env, user: &UserId, proved: &Proved) -> Outcome<()> {
    let email = user_email::Model {
        address: proved.address.clone(),
        user_id: user.to_string(),
        validated_ts: proved.ts,
        added_ts: env.clock.now_ms(),
    };
    match env.store.add_email(&email).await? {
        true => Ok(env.store.end_email_session(&proved.sid).await?),
        false => Err(in_use()),
    }
}
