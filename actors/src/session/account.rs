//! Accounts: registration, login and logout, tokens, password, rights, deactivation.

use std::collections::HashSet;
use std::sync::Arc;

use entities::error::StoreError;
use entities::store::rows::Rows;
use entities::store::session::NewLogin;
use entities::{access_token, device, profile_field, refresh_token, user};
use ruma::push::Ruleset;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::token::{self, Secret, TokenHash};
use super::view::UserView;
use super::{auth, devices, email, load};
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Whether and how a login's tokens can be refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshing {
    /// One access token that never expires.
    No,
    /// An access token that expires, and a refresh token.
    Expiring,
    /// An access token that never expires, and a refresh token all the same.
    Lasting,
    /// One access token that expires at a time, Unix milliseconds.
    Until(Millis),
}

/// A device that logs in.
#[derive(Clone, Debug)]
pub struct NewDevice {
    /// `None`: the server picks one. A known id replaces that device's tokens.
    pub device_id: Option<OwnedDeviceId>,
    /// For a new device; cut after 100 characters.
    pub display_name: Option<String>,
    /// See [`Refreshing`].
    pub refreshing: Refreshing,
    /// Whether the user has just proved who they are with a password.
    pub password_proved: bool,
    /// From where.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
}

/// A user to be made.
#[derive(Clone, Debug)]
pub struct Registration {
    /// A PHC string; `None` where no password can log in.
    pub password_hash: Option<Secret>,
    /// A guest.
    pub guest: bool,
    /// An administrator.
    pub admin: bool,
    /// Display name, if any.
    pub displayname: Option<String>,
    /// The first device, unless login is inhibited.
    pub device: Option<NewDevice>,
}

/// What can be asked about the account.
#[derive(Clone, Debug)]
pub enum AccountCommand {
    /// Makes the user.
    Register(Box<Registration>),
    /// Logs a device in.
    Login(Box<NewDevice>),
    /// Ends one device.
    Logout {
        /// Which.
        device_id: OwnedDeviceId,
    },
    /// Ends all devices.
    LogoutAll,
    /// Exchanges a refresh token for a new pair.
    Refresh {
        /// SHA-256 of the refresh token.
        token_hash: TokenHash,
    },
    /// Sets or removes the password.
    SetPassword {
        /// A PHC string.
        hash: Option<Secret>,
        /// Ends all devices but `keep`.
        logout_devices: bool,
        /// The device that asks.
        keep: Option<OwnedDeviceId>,
    },
    /// The password was proved again with this access token.
    NoteAuthed {
        /// SHA-256 of the access token.
        token_hash: TokenHash,
    },
    /// Sets rights; `None` leaves as it is.
    SetFlags {
        /// Administrator.
        admin: Option<bool>,
        /// Locked.
        locked: Option<bool>,
        /// Suspended.
        suspended: Option<bool>,
    },
    /// Adds a mail address that the user has proved to be theirs.
    AddEmail(email::Proved),
    /// Takes a mail address away.
    RemoveEmail {
        /// In lower case.
        address: String,
    },
    /// Ends the account. Repeating it is harmless.
    Deactivate {
        /// Whether the user wants to be forgotten.
        erase: bool,
    },
    /// Gives a deactivated user the account back, empty as it is.
    Reactivate {
        /// A PHC string; `None` where no password can log in.
        hash: Option<Secret>,
    },
}

/// A device with its tokens.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The access token.
    pub access_token: Secret,
    /// The refresh token, if any.
    pub refresh_token: Option<Secret>,
    /// When the access token expires, in milliseconds from now; `None` for never.
    pub expires_in_ms: Option<i64>,
}

/// The answers.
#[derive(Clone, Debug)]
pub enum AccountReply {
    /// To `Register` without a device and all others.
    Done,
    /// To `Register` with a device, `Login` and `Refresh`.
    Session(Box<NewSession>),
}

/// Makes a user that does not exist yet.
///
/// # Errors
/// `M_USER_IN_USE` if it does.
pub async fn register(env: &Env, user_id: OwnedUserId, new: Registration) -> Outcome<(AccountReply, UserView)> {
    let now = env.clock.now_ms();
    let user = user::Model {
        user_id: user_id.to_string(),
        password_hash: new.password_hash.map(Secret::into_inner),
        is_admin: new.admin,
        is_guest: new.guest,
        deactivated: false,
        erased: false,
        locked: false,
        suspended: false,
        created_ts: now,
    };
    let mut view = UserView {
        is_admin: new.admin,
        is_guest: new.guest,
        ..load::fresh(user_id.clone())
    };
    let mut profile = Vec::new();
    if let Some(name) = new.displayname {
        let value = serde_json::Value::from(name).to_string();
        Arc::make_mut(&mut view.profile).insert("displayname".to_owned(), value.clone());
        profile.push(profile_field::Model {
            user_id: user_id.to_string(),
            name: "displayname".to_owned(),
            value,
        });
    }
    let (login, reply) = match new.device {
        None => (None, AccountReply::Done),
        Some(device) => {
            let (login, session) = make_login(env, &user_id, device, now)?;
            view = devices::with_device(&view, &login.device);
            (Some(login), AccountReply::Session(Box::new(session)))
        }
    };
    match env.store.create_user(&user, &profile, login.as_ref()).await {
        Ok(()) => Ok((reply, view)),
        Err(StoreError::Duplicate(_)) => Err(taken()),
        Err(error) => Err(error.into()),
    }
}

/// What somebody gets who wants a name that another has.
#[must_use]
pub fn taken() -> DomainError {
    DomainError::user_in_use("The user name is taken")
}

/// Does one command; the view comes back where it changed.
///
/// # Errors
/// See the commands; `Unavailable` when nothing could be written.
pub async fn run(env: &Env, view: &UserView, command: AccountCommand) -> Outcome<(AccountReply, Option<UserView>)> {
    let user = view.user_id.as_str();
    let changed = match command {
        AccountCommand::Register(_) => return Err(taken()),
        AccountCommand::Login(device) => return login(env, view, *device).await,
        AccountCommand::Refresh { token_hash } => {
            let session = refresh(env, view, token_hash).await?;
            return Ok((AccountReply::Session(Box::new(session)), None));
        }
        AccountCommand::Logout { device_id } => devices::delete(env, view, &[device_id]).await?,
        AccountCommand::LogoutAll => devices::delete(env, view, &all_but(view, None)).await?,
        AccountCommand::SetPassword {
            hash,
            logout_devices,
            keep,
        } => {
            refuse_deactivated(view)?;
            env.store.set_password(user, hash.as_ref().map(Secret::expose)).await?;
            match logout_devices {
                true => devices::delete(env, view, &all_but(view, keep.as_ref())).await?,
                false => None,
            }
        }
        AccountCommand::NoteAuthed { token_hash } => {
            env.store.set_token_authed(&token_hash, env.clock.now_ms()).await?;
            env.tokens.invalidate(&token_hash);
            None
        }
        AccountCommand::SetFlags {
            admin,
            locked,
            suspended,
        } => {
            let changed = UserView {
                is_admin: admin.unwrap_or(view.is_admin),
                locked: locked.unwrap_or(view.locked),
                suspended: suspended.unwrap_or(view.suspended),
                ..view.clone()
            };
            env.store
                .set_user_flags(user, changed.is_admin, changed.locked, changed.suspended)
                .await?;
            Some(changed)
        }
        AccountCommand::AddEmail(proved) => {
            refuse_deactivated(view)?;
            email::add(env, &view.user_id, &proved).await?;
            None
        }
        AccountCommand::RemoveEmail { address } => {
            env.store.remove_email(user, &address).await?;
            None
        }
        AccountCommand::Deactivate { erase } => Some(deactivate(env, view, erase).await?),
        AccountCommand::Reactivate { hash } => {
            env.store
                .reactivate_user(user, hash.as_ref().map(Secret::expose))
                .await?;
            Some(UserView {
                deactivated: false,
                ..view.clone()
            })
        }
    };
    Ok((AccountReply::Done, changed))
}

fn all_but(view: &UserView, keep: Option<&OwnedDeviceId>) -> Vec<OwnedDeviceId> {
    view.devices.keys().filter(|id| Some(*id) != keep).cloned().collect()
}

fn refuse_deactivated(view: &UserView) -> Outcome<()> {
    match view.deactivated {
        true => Err(DomainError::user_deactivated("The user has been deactivated")),
        false => Ok(()),
    }
}

async fn login(env: &Env, view: &UserView, new: NewDevice) -> Outcome<(AccountReply, Option<UserView>)> {
    refuse_deactivated(view)?;
    if view.locked {
        return Err(locked());
    }
    if let Some(id) = &new.device_id {
        refuse_cross_signing_id(env, &view.user_id, id.as_str()).await?;
    }
    let known = new.device_id.as_ref().is_some_and(|id| view.devices.contains_key(id));
    let (login, session) = make_login(env, &view.user_id, new, env.clock.now_ms())?;
    let reply = AccountReply::Session(Box::new(session));
    if known {
        let gone = env.store.replace_tokens(&login.access, login.refresh.as_ref()).await?;
        auth::invalidate(&env.tokens, &gone);
        return Ok((reply, None));
    }
    let changed = devices::with_device(view, &login.device);
    let rows = Rows {
        devices: vec![login.device],
        access_tokens: vec![login.access],
        refresh_tokens: login.refresh.into_iter().collect(),
        ..Rows::default()
    };
    devices::announce(env, rows, &changed, Vec::new()).await?;
    Ok((reply, Some(changed)))
}

/// What locked users get (client-server API, "Account locking").
#[must_use]
pub fn locked() -> DomainError {
    DomainError::matrix(401, "M_USER_LOCKED", "This account has been locked").with("soft_logout", true)
}

/// A device must not be called like one of the user's cross-signing keys: signatures name both alike.
async fn refuse_cross_signing_id(env: &Env, user: &UserId, device_id: &str) -> Outcome<()> {
    let keys = env.store.cross_signing_texts(user.as_str()).await?;
    let named = format!("ed25519:{device_id}");
    let clashes = |json: &String| {
        serde_json::from_str::<serde_json::Value>(json).is_ok_and(|key| key["keys"].get(&named).is_some())
    };
    match keys.iter().any(clashes) {
        true => Err(DomainError::forbidden("The device id is that of a cross-signing key")),
        false => Ok(()),
    }
}

fn make_login(env: &Env, user: &UserId, new: NewDevice, now: Millis) -> Outcome<(NewLogin, NewSession)> {
    let device_id = new.device_id.unwrap_or_else(|| token::device_id(&env.rng).into());
    let id = device_id.as_str();
    devices::check_id(id)?;
    let device = device::Model {
        user_id: user.to_string(),
        device_id: id.to_owned(),
        display_name: new
            .display_name
            .map(|name| name.chars().take(devices::MAX_NAME).collect()),
        last_seen_ts: now,
        last_seen_ip: new.ip,
        user_agent: new.user_agent,
        created_ts: now,
    };
    let authed_ts = if new.password_proved { now } else { 0 };
    let (access, refresh, session) = make_tokens(env, user, &device_id, new.refreshing, authed_ts, now);
    Ok((
        NewLogin {
            device,
            access,
            refresh,
        },
        session,
    ))
}

fn make_tokens(
    env: &Env,
    user: &UserId,
    device_id: &OwnedDeviceId,
    refreshing: Refreshing,
    authed_ts: Millis,
    now: Millis,
) -> (access_token::Model, Option<refresh_token::Model>, NewSession) {
    let settings = &env.settings;
    let expires_in_ms = match refreshing {
        Refreshing::Expiring => Some(settings.refreshable_access_token_lifetime_ms),
        Refreshing::Until(ts) => Some(ts.saturating_sub(now)),
        Refreshing::No | Refreshing::Lasting => None,
    };
    let access = token::generate(&env.rng, "srt");
    let refreshes = matches!(refreshing, Refreshing::Expiring | Refreshing::Lasting);
    let refresh = refreshes.then(|| token::generate(&env.rng, "srr"));
    let access_row = access_token::Model {
        token_hash: access.hash().to_vec(),
        user_id: user.to_string(),
        device_id: device_id.to_string(),
        expires_ts: expires_in_ms.map(|ms| now.saturating_add(ms)),
        authed_ts,
        refresh_hash: refresh.as_ref().map(|token| token.hash().to_vec()),
    };
    let refresh_row = refresh.as_ref().map(|token| refresh_token::Model {
        token_hash: token.hash().to_vec(),
        user_id: user.to_string(),
        device_id: device_id.to_string(),
        next_hash: None,
        expires_ts: settings.refresh_token_lifetime_ms.map(|ms| now.saturating_add(ms)),
    });
    let session = NewSession {
        user_id: user.to_owned(),
        device_id: device_id.clone(),
        access_token: access,
        refresh_token: refresh,
        expires_in_ms,
    };
    (access_row, refresh_row, session)
}

/// The old pair stays until the new one is first used: the answer may get lost.
async fn refresh(env: &Env, view: &UserView, hash: TokenHash) -> Outcome<NewSession> {
    let unknown = || DomainError::unknown_token("Unknown refresh token");
    refuse_deactivated(view)?;
    if view.locked {
        return Err(locked());
    }
    let user = view.user_id.as_str();
    let old = env.store.refresh_token(&hash).await?.filter(|old| old.user_id == user);
    let old = old.ok_or_else(unknown)?;
    let now = env.clock.now_ms();
    if old.expires_ts.is_some_and(|ts| ts <= now) {
        return Err(DomainError::unknown_token("The refresh token has expired").with("soft_logout", true));
    }
    let access = env.store.access_token_of_refresh(user, &old.device_id, &hash).await?;
    let refreshing = match &access {
        Some(access) if access.expires_ts.is_none() => Refreshing::Lasting,
        _ => Refreshing::Expiring,
    };
    let authed_ts = access.map_or(0, |access| access.authed_ts);
    let device_id = OwnedDeviceId::from(old.device_id);
    let (access, refresh, session) = make_tokens(env, &view.user_id, &device_id, refreshing, authed_ts, now);
    let refresh = refresh.ok_or_else(|| DomainError::internal("a refresh without a refresh token"))?;
    let gone = env.store.exchange_refresh(&hash, &access, &refresh).await?;
    auth::invalidate(&env.tokens, &gone.ok_or_else(unknown)?);
    Ok(session)
}

/// Devices end last: whoever finds the view deactivated is refused already.
async fn deactivate(env: &Env, view: &UserView, erase: bool) -> Outcome<UserView> {
    env.store.deactivate_user(view.user_id.as_str(), erase).await?;
    env.quota.note_account_data(&view.user_id, None);
    env.quota.note_backup(&view.user_id, None);
    let mut changed = UserView {
        deactivated: true,
        is_admin: false,
        push_rules: Arc::new(Ruleset::server_default(&view.user_id)),
        ignored: Arc::new(HashSet::new()),
        ..view.clone()
    };
    if erase {
        changed.profile = Arc::default();
    }
    env.users.publish(view.user_id.clone(), Arc::new(changed.clone()));
    let ended = devices::delete(env, &changed, &all_but(&changed, None)).await?;
    Ok(ended.unwrap_or(changed))
}
