//! User-interactive authentication (client-server API, "User-Interactive Authentication API"): which stages somebody has
//! completed for one operation. Kept in memory: after a restart clients begin again.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use ruma::api::client::uiaa::{AuthData, ThirdpartyIdCredentials, UserIdentifier};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::email::{self, Proved};
use super::{localpart, password};
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Authentications under way; the oldest are forgotten first.
const MAX_SESSIONS: usize = 10_000;
/// Characters of a session's name.
const NAME: usize = 24;

/// A stage this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `m.login.dummy`
    Dummy,
    /// `m.login.password`
    Password,
    /// `m.login.registration_token`
    RegistrationToken,
    /// `m.login.email.identity`
    Email,
}

impl Stage {
    /// Its name in the protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dummy => "m.login.dummy",
            Self::Password => "m.login.password",
            Self::RegistrationToken => "m.login.registration_token",
            Self::Email => "m.login.email.identity",
        }
    }
}

/// Stages to be completed in order.
pub type Flow = &'static [Stage];

/// The flow of operations on one's own account.
pub const PASSWORD_FLOWS: &[Flow] = &[&[Stage::Password]];
/// The same where the user has a mail address, too.
pub const PASSWORD_OR_EMAIL_FLOWS: &[Flow] = &[&[Stage::Password], &[Stage::Email]];

/// Whoever has a mail address may recover an account with it.
pub const EMAIL_FLOWS: &[Flow] = &[&[Stage::Email]];

/// What a session is for: another operation, user or object cannot use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    operation: &'static str,
    user: Option<OwnedUserId>,
    object: [u8; 32],
}

impl Bound {
    /// `object` is what else must not change from one request to the next, such as the devices to delete.
    #[must_use]
    pub fn new(operation: &'static str, user: Option<&UserId>, object: &[u8]) -> Self {
        Self {
            operation,
            user: user.map(ToOwned::to_owned),
            object: Sha256::digest(object).into(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Progress {
    completed: Vec<Stage>,
    registration_token: Option<String>,
    email: Option<Proved>,
}

/// What a completed stage brings with it.
enum Gain {
    Nothing,
    RegistrationToken(String),
    Email(Proved),
}

struct Session {
    bound: Bound,
    progress: Progress,
    expires: Millis,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Never begun, forgotten or expired.
    Nothing,
    /// Begun for something else.
    Foreign,
    Open(Progress),
}

/// The sessions.
pub struct Uia {
    sessions: Mutex<LruCache<String, Session>>,
    timeout_ms: Millis,
}

impl Uia {
    /// Sessions end after `timeout_ms`.
    #[must_use]
    pub fn new(timeout_ms: Millis) -> Self {
        let capacity = NonZeroUsize::new(MAX_SESSIONS).unwrap_or(NonZeroUsize::MIN);
        Self {
            sessions: Mutex::new(LruCache::new(capacity)),
            timeout_ms,
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<String, Session>> {
        // Every change is a single step: a panic elsewhere leaves nothing half done.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: String, bound: Bound, now: Millis) {
        let session = Session {
            bound,
            progress: Progress::default(),
            expires: now + self.timeout_ms,
        };
        self.lock().put(name, session);
    }

    fn find(&self, name: &str, bound: &Bound, now: Millis) -> Found {
        let mut sessions = self.lock();
        match sessions.get(name) {
            None => Found::Nothing,
            Some(session) if session.expires <= now => {
                sessions.pop(name);
                Found::Nothing
            }
            Some(session) if session.bound != *bound => Found::Foreign,
            Some(session) => Found::Open(session.progress.clone()),
        }
    }

    /// The user of an open session; an outer `None` when there is no such session.
    fn user(&self, name: &str, now: Millis) -> Option<Option<OwnedUserId>> {
        let mut sessions = self.lock();
        let session = sessions.get(name).filter(|session| session.expires > now)?;
        Some(session.bound.user.clone())
    }

    fn complete(&self, name: &str, stage: Stage, gain: Gain) -> Progress {
        let mut sessions = self.lock();
        let Some(session) = sessions.get_mut(name) else {
            return Progress::default();
        };
        let progress = &mut session.progress;
        if !progress.completed.contains(&stage) {
            progress.completed.push(stage);
        }
        match gain {
            Gain::Nothing => {}
            Gain::RegistrationToken(token) => progress.registration_token = Some(token),
            Gain::Email(proved) => progress.email = Some(proved),
        }
        progress.clone()
    }

    /// The operation was done: the session does not serve again.
    pub fn finish(&self, session: &str) {
        self.lock().pop(session);
    }
}

/// One request to an operation that needs authentication.
pub struct Attempt<'a> {
    /// What the session is bound to.
    pub bound: Bound,
    /// What may be done.
    pub flows: &'a [Flow],
    /// `auth` of the request.
    pub auth: Option<&'a AuthData>,
}

/// All stages of a flow are completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorised {
    /// To be finished with [`Uia::finish`] once the operation is done.
    pub session: String,
    /// The token given in `m.login.registration_token`.
    pub registration_token: Option<String>,
    /// The mail address proved in `m.login.email.identity`.
    pub email: Option<Proved>,
    /// Whether the user's password was proved.
    pub password_proved: bool,
}

/// Takes one step.
///
/// # Errors
/// `Uiaa` with what is to be done next; `M_FORBIDDEN` when the session belongs to another operation or the password to
/// another user.
pub async fn authorise(env: &Env, attempt: Attempt<'_>) -> Outcome<Authorised> {
    let Attempt { bound, flows, auth } = attempt;
    let now = env.clock.now_ms();
    let begin = || {
        let name = env.rng.alphanumeric(NAME);
        env.uia.begin(name.clone(), bound.clone(), now);
        name
    };
    let Some(auth) = auth else {
        return Err(challenge(flows, &begin(), &[], None));
    };
    let (session, progress) = match auth.session() {
        None => (begin(), Progress::default()),
        Some(name) => match env.uia.find(name, &bound, now) {
            Found::Open(progress) => (name.to_owned(), progress),
            Found::Foreign => {
                return Err(DomainError::forbidden(
                    "The operation has changed during its authentication",
                ));
            }
            Found::Nothing => {
                let error = Some(("M_UNKNOWN", "The authentication session is unknown or has expired"));
                return Err(challenge(flows, &begin(), &[], error));
            }
        },
    };
    let progress = match step(env, &bound, flows, &progress, auth).await? {
        Step::Passed(stage, gain) => env.uia.complete(&session, stage, gain),
        Step::Nothing => progress,
        Step::Failed(errcode, message) => {
            return Err(challenge(
                flows,
                &session,
                &progress.completed,
                Some((errcode, message)),
            ));
        }
    };
    if !is_complete(flows, &progress.completed) {
        return Err(challenge(flows, &session, &progress.completed, None));
    }
    Ok(Authorised {
        session,
        password_proved: progress.completed.contains(&Stage::Password),
        registration_token: progress.registration_token,
        email: progress.email,
    })
}

/// The challenge after a flow was completed whose proof has lost its worth meanwhile (a used-up registration token).
#[must_use]
pub fn refuse(env: &Env, bound: Bound, flows: &[Flow], message: &str) -> DomainError {
    let name = env.rng.alphanumeric(NAME);
    env.uia.begin(name.clone(), bound, env.clock.now_ms());
    challenge(flows, &name, &[], Some(("M_UNAUTHORIZED", message)))
}

enum Step {
    Passed(Stage, Gain),
    /// Nothing was attempted, or the stage was completed before.
    Nothing,
    Failed(&'static str, &'static str),
}

async fn step(env: &Env, bound: &Bound, flows: &[Flow], progress: &Progress, auth: &AuthData) -> Outcome<Step> {
    let stage = match auth {
        AuthData::FallbackAcknowledgement(_) => return Ok(Step::Nothing),
        AuthData::Dummy(_) => Stage::Dummy,
        AuthData::Password(_) => Stage::Password,
        AuthData::RegistrationToken(_) => Stage::RegistrationToken,
        AuthData::EmailIdentity(_) => Stage::Email,
        _ => return Ok(Step::Failed("M_UNRECOGNIZED", "Unknown authentication type")),
    };
    if progress.completed.contains(&stage) {
        return Ok(Step::Nothing);
    }
    if !may_follow(flows, &progress.completed, stage) {
        return Ok(Step::Failed(
            "M_FORBIDDEN",
            "This stage is not the next one of any flow",
        ));
    }
    match auth {
        AuthData::Password(data) => prove_password(env, bound, &data.identifier, &data.password).await,
        AuthData::RegistrationToken(data) => {
            if is_registration_token_valid(env, &data.token).await? {
                Ok(Step::Passed(stage, Gain::RegistrationToken(data.token.clone())))
            } else {
                Ok(Step::Failed("M_UNAUTHORIZED", "Invalid registration token"))
            }
        }
        AuthData::EmailIdentity(data) => prove_email(env, bound, &data.thirdparty_id_creds).await,
        _ => Ok(Step::Passed(stage, Gain::Nothing)),
    }
}

/// The address must be the user's own, where the operation has a user.
async fn prove_email(env: &Env, bound: &Bound, given: &ThirdpartyIdCredentials) -> Outcome<Step> {
    let proved = email::proved(env, given.sid.as_str(), given.client_secret.as_str()).await?;
    let Some(proved) = proved else {
        return Ok(Step::Failed(
            "M_UNAUTHORIZED",
            "The mail address has not been confirmed yet",
        ));
    };
    if bound.user.is_some() && email::owner(env, &proved.address).await? != bound.user {
        return Err(DomainError::forbidden("The authentication is another user's"));
    }
    Ok(Step::Passed(Stage::Email, Gain::Email(proved)))
}

async fn prove_password(env: &Env, bound: &Bound, who: &UserIdentifier, given: &str) -> Outcome<Step> {
    let Some(user) = &bound.user else {
        return Ok(Step::Failed("M_FORBIDDEN", "There is no user to prove the password of"));
    };
    let meant = match who {
        UserIdentifier::Matrix(id) => localpart::meant(&id.user, &env.server_name),
        _ => None,
    };
    if meant.as_ref() != Some(user) {
        return Err(DomainError::forbidden("The authentication is another user's"));
    }
    if password::verify(env, Some(user), given).await? {
        Ok(Step::Passed(Stage::Password, Gain::Nothing))
    } else {
        Ok(Step::Failed("M_FORBIDDEN", "Invalid password"))
    }
}

/// What became of a stage that was attempted on a web page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is completed.
    Passed,
    /// It is not, and why.
    Failed(&'static str),
    /// The session is unknown or has expired.
    NoSession,
}

/// Whose password an open session asks for; `None` where there is none or it is nobody's.
#[must_use]
pub fn account(env: &Env, session: &str) -> Option<OwnedUserId> {
    env.uia.user(session, env.clock.now_ms()).flatten()
}

/// Completes one stage of a session outside of the operation (client-server API, "Fallback"); the client then goes on with
/// the session alone. `given` is the password or registration token.
///
/// # Errors
/// `Overloaded` when too many wait; `Unavailable` when the database does not answer.
pub async fn prove(env: &Env, session: &str, stage: Stage, given: &str) -> Outcome<Proof> {
    let Some(user) = env.uia.user(session, env.clock.now_ms()) else {
        return Ok(Proof::NoSession);
    };
    let mut gain = Gain::Nothing;
    match stage {
        Stage::Dummy => {}
        Stage::Password => {
            if user.is_none() || !password::verify(env, user.as_deref(), given).await? {
                return Ok(Proof::Failed("Invalid password"));
            }
        }
        Stage::RegistrationToken => {
            if !is_registration_token_valid(env, given).await? {
                return Ok(Proof::Failed("Invalid registration token"));
            }
            gain = Gain::RegistrationToken(given.to_owned());
        }
        Stage::Email => return Ok(Proof::Failed("A mail address is confirmed with the link in the mail")),
    }
    env.uia.complete(session, stage, gain);
    Ok(Proof::Passed)
}

/// Whether somebody could register with this token now.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn is_registration_token_valid(env: &Env, token: &str) -> Outcome<bool> {
    if token.contains('\0') {
        return Ok(false);
    }
    let row = env.store.registration_token(token).await?;
    let now = env.clock.now_ms();
    Ok(row.is_some_and(|row| {
        row.uses_allowed
            .is_none_or(|allowed| row.completed + row.pending < allowed)
            && row.expires_ts.is_none_or(|ts| ts > now)
    }))
}

/// Whether `next` comes directly after `completed` in some flow.
fn may_follow(flows: &[Flow], completed: &[Stage], next: Stage) -> bool {
    flows
        .iter()
        .any(|flow| flow.starts_with(completed) && flow.get(completed.len()) == Some(&next))
}

fn is_complete(flows: &[Flow], completed: &[Stage]) -> bool {
    flows.contains(&completed)
}

fn challenge(flows: &[Flow], session: &str, completed: &[Stage], error: Option<(&str, &str)>) -> DomainError {
    let names = |stages: &[Stage]| stages.iter().map(|stage| stage.name()).collect::<Vec<_>>();
    let mut body = Map::new();
    let flows: Vec<Value> = flows.iter().map(|flow| json!({ "stages": names(flow) })).collect();
    body.insert("flows".to_owned(), flows.into());
    body.insert("params".to_owned(), Map::new().into());
    body.insert("session".to_owned(), session.into());
    body.insert("completed".to_owned(), names(completed).into());
    if let Some((errcode, message)) = error {
        body.insert("errcode".to_owned(), errcode.into());
        body.insert("error".to_owned(), message.into());
    }
    DomainError::Uiaa(body)
}

#[cfg(test)]
#[path = "uia_tests.rs"]
mod tests;
