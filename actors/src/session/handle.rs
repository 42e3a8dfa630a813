//! The way to users: views for readers, typed commands for everything that writes.

use std::sync::Arc;

use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::account::{AccountCommand, AccountReply, NewDevice, NewSession, Registration};
use super::commands::{SessionCommand, SessionReply};
use super::devices::DeviceCommand;
use super::email::Proved;
use super::identity::Identity;
use super::kind::{SessionKind, unknown_user};
use super::token::{Secret, TokenHash};
use super::view::UserView;
use super::{account, load, password, token};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::supervisor::{Fabric, Handle, Settings};

/// Handle on all session actors.
#[derive(Clone)]
pub struct Sessions {
    env: Arc<Env>,
    actors: Handle<SessionKind>,
}

impl Sessions {
    /// Starts the supervisors of sessions.
    #[must_use]
    pub fn start(fabric: &Fabric, env: Arc<Env>, settings: Settings) -> Self {
        Self {
            actors: Handle::start(fabric, env.clone(), settings),
            env,
        }
    }

    /// The actors themselves.
    #[must_use]
    pub fn actors(&self) -> &Handle<SessionKind> {
        &self.actors
    }

    /// A local user, from memory or the database; `None` for users this server does not have. Starts no actor.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn view(&self, user: &UserId) -> Outcome<Option<Arc<UserView>>> {
        load::view(&self.env, user).await
    }

    /// Asks a user's actor.
    ///
    /// # Errors
    /// `M_NOT_FOUND` for unknown users, `Overloaded`, `Unavailable`, and what the command says.
    pub async fn ask(&self, user: &UserId, command: SessionCommand) -> Outcome<SessionReply> {
        if !self.env.is_local(user) {
            return Err(unknown_user());
        }
        self.actors.ask(user.as_str(), command).await
    }

    async fn account(&self, user: &UserId, command: AccountCommand) -> Outcome<AccountReply> {
        match self.ask(user, SessionCommand::Account(command)).await? {
            SessionReply::Account(reply) => Ok(reply),
            _ => Err(mixed_up()),
        }
    }

    async fn session(&self, user: &UserId, command: AccountCommand) -> Outcome<NewSession> {
        match self.account(user, command).await? {
            AccountReply::Session(session) => Ok(*session),
            AccountReply::Done => Err(mixed_up()),
        }
    }

    /// Makes a user; the session if a device was given.
    ///
    /// # Errors
    /// `M_USER_IN_USE`.
    pub async fn register(&self, user: &UserId, new: Registration) -> Outcome<Option<NewSession>> {
        match self.account(user, AccountCommand::Register(Box::new(new))).await? {
            AccountReply::Session(session) => Ok(Some(*session)),
            AccountReply::Done => Ok(None),
        }
    }

    /// Whether the name is free.
    ///
    /// # Errors
    /// `M_USER_IN_USE` if it is not.
    pub async fn check_free(&self, user: &UserId) -> Outcome<()> {
        match self.view(user).await? {
            Some(_) => Err(account::taken()),
            None => Ok(()),
        }
    }

    /// Logs a device in; who it is must have been proved.
    ///
    /// # Errors
    /// `M_USER_DEACTIVATED`, `M_USER_LOCKED`, `M_FORBIDDEN` for the id of a cross-signing key, `M_INVALID_PARAM`.
    pub async fn login(&self, user: &UserId, device: NewDevice) -> Outcome<NewSession> {
        self.session(user, AccountCommand::Login(Box::new(device))).await
    }

    /// Ends the device of a token.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn logout(&self, identity: &Identity) -> Outcome<()> {
        let command = AccountCommand::Logout {
            device_id: identity.device_id.clone(),
        };
        self.account(&identity.user_id, command).await.map(|_| ())
    }

    /// Ends all devices of a user.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn logout_all(&self, user: &UserId) -> Outcome<()> {
        self.account(user, AccountCommand::LogoutAll).await.map(|_| ())
    }

    /// Exchanges a refresh token.
    ///
    /// # Errors
    /// `M_UNKNOWN_TOKEN`, with `soft_logout` where it has only expired.
    pub async fn refresh(&self, refresh_token: &str) -> Outcome<NewSession> {
        let token_hash = token::hash(refresh_token);
        let unknown = || DomainError::unknown_token("Unknown refresh token");
        let row = self.env.store.refresh_token(&token_hash).await?.ok_or_else(unknown)?;
        let user: OwnedUserId = row.user_id.parse().map_err(|_| unknown())?;
        self.session(&user, AccountCommand::Refresh { token_hash }).await
    }

    /// Sets a password; with `logout_devices` ends all devices but `keep`.
    ///
    /// # Errors
    /// `M_WEAK_PASSWORD`, `M_INVALID_PARAM`, `M_USER_DEACTIVATED`.
    pub async fn set_password(
        &self,
        user: &UserId,
        new: &str,
        logout_devices: bool,
        keep: Option<OwnedDeviceId>,
    ) -> Outcome<()> {
        let hash: Option<Secret> = Some(password::hash(&self.env, new).await?);
        self.account(
            user,
            AccountCommand::SetPassword {
                hash,
                logout_devices,
                keep,
            },
        )
        .await
        .map(|_| ())
    }

    /// Adds a mail address that the user has proved to be theirs.
    ///
    /// # Errors
    /// `M_THREEPID_IN_USE`, `M_USER_DEACTIVATED`.
    pub async fn add_email(&self, user: &UserId, proved: Proved) -> Outcome<()> {
        let command = AccountCommand::AddEmail(proved);
        self.account(user, command).await.map(|_| ())
    }

    /// Takes a mail address away; nothing happens where the user has none like it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn remove_email(&self, user: &UserId, address: String) -> Outcome<()> {
        let command = AccountCommand::RemoveEmail { address };
        self.account(user, command).await.map(|_| ())
    }

    /// The password was proved again with this access token.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn note_authed(&self, user: &UserId, token_hash: TokenHash) -> Outcome<()> {
        self.account(user, AccountCommand::NoteAuthed { token_hash })
            .await
            .map(|_| ())
    }

    /// Sets rights; `None` leaves as it is.
    ///
    /// # Errors
    /// `M_NOT_FOUND`.
    pub async fn set_flags(
        &self,
        user: &UserId,
        admin: Option<bool>,
        locked: Option<bool>,
        suspended: Option<bool>,
    ) -> Outcome<()> {
        self.account(
            user,
            AccountCommand::SetFlags {
                admin,
                locked,
                suspended,
            },
        )
        .await
        .map(|_| ())
    }

    /// Ends the account, but for its rooms: see [`deactivate`](crate::flows::deactivate::deactivate).
    ///
    /// # Errors
    /// `M_NOT_FOUND`.
    pub async fn deactivate(&self, user: &UserId, erase: bool) -> Outcome<()> {
        self.account(user, AccountCommand::Deactivate { erase })
            .await
            .map(|_| ())
    }

    /// Gives a deactivated user the account back.
    ///
    /// # Errors
    /// `M_NOT_FOUND`, `M_WEAK_PASSWORD`, `M_INVALID_PARAM`.
    pub async fn reactivate(&self, user: &UserId, new: Option<&str>) -> Outcome<()> {
        let hash = match new {
            Some(new) => Some(password::hash(&self.env, new).await?),
            None => None,
        };
        self.account(user, AccountCommand::Reactivate { hash })
            .await
            .map(|_| ())
    }

    /// Renames a device.
    ///
    /// # Errors
    /// `M_NOT_FOUND`, `M_TOO_LARGE`.
    pub async fn rename_device(
        &self,
        user: &UserId,
        device_id: OwnedDeviceId,
        display_name: Option<String>,
    ) -> Outcome<()> {
        let command = DeviceCommand::Rename {
            device_id,
            display_name,
        };
        self.ask(user, SessionCommand::Devices(command)).await.map(|_| ())
    }

    /// Makes a device that nobody is logged in with; one that is there stays as it is.
    ///
    /// # Errors
    /// `M_NOT_FOUND`, `M_INVALID_PARAM`.
    pub async fn create_device(
        &self,
        user: &UserId,
        device_id: OwnedDeviceId,
        display_name: Option<String>,
    ) -> Outcome<()> {
        let command = DeviceCommand::Create {
            device_id,
            display_name,
        };
        self.ask(user, SessionCommand::Devices(command)).await.map(|_| ())
    }

    /// Ends devices.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn delete_devices(&self, user: &UserId, device_ids: Vec<OwnedDeviceId>) -> Outcome<()> {
        let command = DeviceCommand::Delete { device_ids };
        self.ask(user, SessionCommand::Devices(command)).await.map(|_| ())
    }
}

/// A session answered something else than it was asked: a mistake of this program.
pub(super) fn mixed_up() -> DomainError {
    DomainError::internal("a session answered something else")
}
