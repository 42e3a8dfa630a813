//! The session actor: the only writer of what belongs to one local user.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};

use super::account::{self, AccountCommand};
use super::commands::{SessionCommand, SessionReply};
use super::view::UserView;
use super::{backup, data, devices, friends, keys, load, to_device};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::failpoint::{SESSION_AFTER, SESSION_BEFORE};
use crate::supervisor::{Kind, Managed, Missing, Ran};

/// The kind of actor.
pub struct SessionKind;

/// A session's state.
#[derive(Clone, Debug)]
pub struct Session {
    /// `None` until the user is registered.
    pub view: Option<Arc<UserView>>,
}

impl Managed for SessionKind {
    const KIND: Kind = Kind::Session;
    type Env = Env;
    type State = Session;
    type Command = SessionCommand;
    type Reply = SessionReply;

    fn load(env: Arc<Env>, key: Arc<str>) -> BoxFuture<'static, Outcome<Option<Arc<Session>>>> {
        Box::pin(async move {
            let Ok(user) = UserId::parse(&key) else {
                return Ok(None);
            };
            let Some(view) = load::from_store(&env, &user).await? else {
                return Ok(None);
            };
            let view = Arc::new(view);
            env.users.publish(user, view.clone());
            Ok(Some(Arc::new(Session { view: Some(view) })))
        })
    }

    fn run(
        env: Arc<Env>,
        key: Arc<str>,
        state: Arc<Session>,
        batch: Vec<SessionCommand>,
    ) -> BoxFuture<'static, Ran<Self>> {
        Box::pin(async move {
            let mut state = state;
            let mut replies = Vec::with_capacity(batch.len());
            let mut commands = batch.into_iter();
            while let Some(command) = commands.next() {
                env.failpoints.pass(SESSION_BEFORE);
                let done = one(&env, &key, &state, command).await;
                env.failpoints.pass(SESSION_AFTER);
                match done {
                    Ok((reply, changed)) => {
                        if let Some(view) = changed {
                            state = Arc::new(Session { view: Some(view) });
                        }
                        replies.push(Ok(reply));
                    }
                    Err(error) if in_doubt(&error) => {
                        replies.push(Err(error));
                        let again = || Err(DomainError::unavailable("the session starts again"));
                        replies.extend(commands.map(|_| again()));
                        if let Ok(user) = UserId::parse(&key) {
                            env.users.invalidate(&user);
                        }
                        return Ran::Reload { replies };
                    }
                    Err(error) => replies.push(Err(error)),
                }
            }
            Ran::Done { state, replies }
        })
    }

    fn creates(command: &SessionCommand) -> bool {
        matches!(command, SessionCommand::Account(AccountCommand::Register(_)))
    }

    fn fresh(_env: &Arc<Env>, _key: &Arc<str>, _command: &SessionCommand) -> Option<Arc<Session>> {
        Some(Arc::new(Session { view: None }))
    }

    fn exists(state: &Session) -> bool {
        state.view.is_some()
    }

    fn absent(_key: &str, _why: Missing, _command: &SessionCommand) -> Outcome<SessionReply> {
        Err(unknown_user())
    }

    fn weight(state: &Session) -> u64 {
        1 + state.view.as_ref().map_or(0, |view| view.devices.len() as u64)
    }

    fn observe(state: &Session) -> Value {
        let Some(view) = &state.view else {
            return json!({ "registered": false });
        };
        json!({
            "registered": true,
            "guest": view.is_guest,
            "admin": view.is_admin,
            "deactivated": view.deactivated,
            "locked": view.locked,
            "suspended": view.suspended,
            "devices": view.devices.len(),
            "ignored_users": view.ignored.len(),
            "profile_fields": view.profile.keys().collect::<Vec<_>>(),
        })
    }
}

/// What commands to users get that this server does not have.
#[must_use]
pub fn unknown_user() -> DomainError {
    DomainError::not_found("Unknown user")
}

/// Whether the database may hold something else than the view after this error.
fn in_doubt(error: &DomainError) -> bool {
    matches!(error, DomainError::Unavailable { .. } | DomainError::Internal(_))
}

async fn one(
    env: &Env,
    key: &str,
    state: &Session,
    command: SessionCommand,
) -> Outcome<(SessionReply, Option<Arc<UserView>>)> {
    let Some(view) = &state.view else {
        return create(env, key, command).await;
    };
    let (reply, changed) = match command {
        SessionCommand::Account(command) => part(account::run(env, view, command).await?, SessionReply::Account),
        SessionCommand::Devices(command) => part(devices::run(env, view, command).await?, SessionReply::Devices),
        SessionCommand::Keys(command) => part(keys::run(env, view, command).await?, SessionReply::Keys),
        SessionCommand::Backup(command) => part(backup::run(env, view, command).await?, SessionReply::Backup),
        SessionCommand::ToDevice(command) => part(to_device::run(env, view, command).await?, SessionReply::ToDevice),
        SessionCommand::Data(command) => part(data::run(env, view, command).await?, SessionReply::Data),
        SessionCommand::Friends(command) => part(friends::run(env, view, command).await?, SessionReply::Friends),
    };
    let changed = changed.map(Arc::new);
    if let Some(view) = &changed {
        // Where a submission published it already, this is the same view once more: nobody else writes it.
        env.users.publish(view.user_id.clone(), view.clone());
    }
    Ok((reply, changed))
}

fn part<R>(
    (reply, changed): (R, Option<UserView>),
    wrap: impl FnOnce(R) -> SessionReply,
) -> (SessionReply, Option<UserView>) {
    (wrap(reply), changed)
}

async fn create(env: &Env, key: &str, command: SessionCommand) -> Outcome<(SessionReply, Option<Arc<UserView>>)> {
    let SessionCommand::Account(AccountCommand::Register(new)) = command else {
        return Err(unknown_user());
    };
    let user: OwnedUserId = UserId::parse(key).map_err(|error| DomainError::invalid_username(error.to_string()))?;
    let (reply, view) = account::register(env, user.clone(), *new).await?;
    let view = Arc::new(view);
    env.users.publish(user, view.clone());
    Ok((SessionReply::Account(reply), Some(view)))
}
