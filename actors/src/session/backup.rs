//! The room key backup (client-server API, "Server-side key backups").

use std::collections::BTreeMap;

use entities::error::StoreError;
use entities::store::backup::{BackupPut, BackupScope, BackupState};
use entities::{key_backup, key_backup_session};
use ruma::UserId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::quota;
use super::view::UserView;
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Bytes of a version's `auth_data`, and of a session's data.
const MAX_DATA: usize = 64 * 1024;
/// Versions in a list.
const MAX_LISTED: u32 = 100;
/// Bytes of a room's or session's name.
const MAX_NAME: usize = 255;
/// The largest number that all JSON implementations agree on.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// A session's keys, as clients write them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackedUp {
    /// The first message that can be read with them.
    pub first_message_index: u64,
    /// How often they were forwarded.
    pub forwarded_count: u64,
    /// Whether the device they come from was verified.
    pub is_verified: bool,
    /// Encrypted; a JSON object.
    pub session_data: Box<RawValue>,
}

/// Sessions by room, then by session id.
pub type Rooms = BTreeMap<String, BTreeMap<String, BackedUp>>;

/// Which sessions of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// Those of a room.
    Room(String),
    /// One.
    Session(String, String),
}

impl Scope {
    fn borrowed(&self) -> BackupScope<'_> {
        match self {
            Self::All => BackupScope::All,
            Self::Room(room) => BackupScope::Room(room),
            Self::Session(room, session) => BackupScope::Session(room, session),
        }
    }
}

/// What can be asked about backups. Versions count from 1; any other number is one that does not exist.
#[derive(Clone, Debug)]
pub enum BackupCommand {
    /// Begins a version, which becomes the current one.
    Create {
        /// How its keys are encrypted.
        algorithm: String,
        /// What that algorithm needs; a JSON object.
        auth_data: Box<RawValue>,
    },
    /// Changes a version's `auth_data`.
    Update {
        /// Which.
        version: i64,
        /// Must be the version's; `None` is not compared.
        algorithm: Option<String>,
        /// See `Create`.
        auth_data: Box<RawValue>,
    },
    /// Deletes a version with its keys. Repeating it is harmless.
    Delete {
        /// Which.
        version: i64,
    },
    /// Stores keys in the current version where they are better than those that are there.
    Put {
        /// Must be the current one.
        version: i64,
        /// The keys.
        rooms: Rooms,
    },
    /// Deletes keys.
    DeleteKeys {
        /// Of which version.
        version: i64,
        /// Which.
        scope: Scope,
    },
}

/// The answers.
#[derive(Clone, Debug)]
pub enum BackupReply {
    /// To `Create`.
    Created(i64),
    /// To `Put` and `DeleteKeys`: sessions in the version, and its etag.
    State {
        /// How many sessions.
        count: i64,
        /// Differs from what it was before each change.
        etag: i64,
    },
    /// To the others.
    Done,
}

/// A version.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// How its keys are encrypted.
    pub algorithm: String,
    /// What that algorithm needs.
    pub auth_data: Box<RawValue>,
    /// Sessions in it.
    pub count: i64,
    /// Differs from what it was before each change.
    pub etag: String,
    /// Its name.
    pub version: String,
}

/// Does one command.
///
/// # Errors
/// `M_NOT_FOUND` for a version that does not exist, `M_WRONG_ROOM_KEYS_VERSION` with `current_version` for keys put into
/// another than the current one, `M_INVALID_PARAM` for another algorithm or names that are too long, `M_TOO_LARGE` for what
/// the user has no room for; `Unavailable` when nothing could be written.
pub async fn run(env: &Env, view: &UserView, command: BackupCommand) -> Outcome<(BackupReply, Option<UserView>)> {
    let user = &*view.user_id;
    let reply = match command {
        BackupCommand::Create { algorithm, auth_data } => {
            refuse_long(&algorithm)?;
            require_object(&auth_data)?;
            let growth = bytes(&algorithm) + bytes(auth_data.get());
            let created = env.store.create_backup(user.as_str(), &algorithm, auth_data.get());
            BackupReply::Created(grow(env, user, growth, created).await?)
        }
        BackupCommand::Update {
            version,
            algorithm,
            auth_data,
        } => {
            let backup = existing(env, user, version).await?;
            if algorithm.is_some_and(|algorithm| algorithm != backup.algorithm) {
                return Err(DomainError::invalid_param("Algorithm does not match"));
            }
            require_object(&auth_data)?;
            let auth_data = auth_data.get();
            let growth = bytes(auth_data) - bytes(&backup.auth_data);
            let updated = env.store.update_backup(user.as_str(), version, auth_data);
            grow(env, user, growth, updated).await?;
            BackupReply::Done
        }
        BackupCommand::Delete { version } => {
            let backup = env.store.backup(user.as_str(), version).await?.ok_or_else(unknown)?;
            if !backup.deleted {
                env.quota.note_backup(user, None);
                env.store.delete_backup(user.as_str(), version).await?;
            }
            BackupReply::Done
        }
        BackupCommand::Put { version, rooms } => state(put(env, user, version, rooms).await?),
        BackupCommand::DeleteKeys { version, scope } => {
            existing(env, user, version).await?;
            env.quota.note_backup(user, None);
            let deleted = env
                .store
                .delete_backup_sessions(user.as_str(), version, scope.borrowed());
            state(deleted.await?)
        }
    };
    Ok((reply, None))
}

fn state(BackupState { count, etag }: BackupState) -> BackupReply {
    BackupReply::State { count, etag }
}

fn unknown() -> DomainError {
    DomainError::not_found("Unknown backup version")
}

fn refuse_long(name: &str) -> Outcome<()> {
    match name.len() <= MAX_NAME && !name.contains('\0') {
        true => Ok(()),
        false => Err(DomainError::invalid_param(format!(
            "Names have at most {MAX_NAME} bytes"
        ))),
    }
}

fn require_object(json: &RawValue) -> Outcome<()> {
    if json.get().len() > MAX_DATA {
        return Err(DomainError::too_large(format!(
            "Data of a backup has at most {MAX_DATA} bytes"
        )));
    }
    match json.get().starts_with('{') {
        true => Ok(()),
        false => Err(DomainError::bad_json("A JSON object is expected")),
    }
}

async fn existing(env: &Env, user: &UserId, version: i64) -> Outcome<key_backup::Model> {
    let backup = env.store.backup(user.as_str(), version).await?;
    backup.filter(|backup| !backup.deleted).ok_or_else(unknown)
}

async fn put(env: &Env, user: &UserId, version: i64, rooms: Rooms) -> Outcome<BackupState> {
    let backups = env.store.backups(user.as_str(), 1).await?;
    let current = backups.last().ok_or_else(unknown)?.version;
    if version != current {
        let error = DomainError::matrix(403, "M_WRONG_ROOM_KEYS_VERSION", "Wrong backup version.");
        return Err(error.with("current_version", current.to_string()));
    }
    let mut sessions = Vec::new();
    for (room_id, by_id) in rooms {
        refuse_long(&room_id)?;
        for (session_id, session) in by_id {
            refuse_long(&session_id)?;
            require_object(&session.session_data)?;
            sessions.push(key_backup_session::Model {
                user_id: user.to_string(),
                version,
                room_id: room_id.clone(),
                session_id,
                first_message_index: number(session.first_message_index)?,
                forwarded_count: number(session.forwarded_count)?,
                is_verified: session.is_verified,
                session_data: session.session_data.get().to_owned(),
            });
        }
    }
    let used = quota::backup(env, user).await?;
    let room = quota::backup_room(env, used);
    env.quota.note_backup(user, None);
    let put = env
        .store
        .put_backup_sessions(user.as_str(), version, &sessions, room, replaces);
    match put.await? {
        BackupPut::Stored { state, growth } => {
            env.quota.note_backup(user, Some(used + growth));
            Ok(state)
        }
        BackupPut::NoRoom => {
            env.quota.note_backup(user, Some(used));
            Err(quota::backup_full())
        }
    }
}

fn bytes(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

/// Carries out a write by which the backup grows by `growth` bytes, if there is room for them.
async fn grow<T>(
    env: &Env,
    user: &UserId,
    growth: i64,
    write: impl Future<Output = Result<T, StoreError>>,
) -> Outcome<T> {
    let used = quota::backup(env, user).await?;
    if growth > quota::backup_room(env, used) {
        return Err(quota::backup_full());
    }
    env.quota.note_backup(user, None);
    let written = write.await?;
    env.quota.note_backup(user, Some(used + growth));
    Ok(written)
}

fn number(number: u64) -> Outcome<i64> {
    let fits = number <= MAX_NUMBER;
    let number = i64::try_from(number).ok().filter(|_| fits);
    number.ok_or_else(|| DomainError::bad_json("A number is too large"))
}

/// Whether a session is better than the stored one: verified first, then the earlier start, then fewer hands between
/// (`PUT /room_keys/keys/{roomId}/{sessionId}`).
#[must_use]
pub fn replaces(stored: &key_backup_session::Model, new: &key_backup_session::Model) -> bool {
    let rank = |session: &key_backup_session::Model| {
        (
            !session.is_verified,
            session.first_message_index,
            session.forwarded_count,
        )
    };
    rank(new) < rank(stored)
}

/// A user's newest versions that were not deleted, the current one last.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn list(env: &Env, user: &UserId) -> Outcome<Vec<Info>> {
    let backups = env.store.backups(user.as_str(), MAX_LISTED).await?;
    describe(env, user, backups).await
}

/// One version.
///
/// # Errors
/// `M_NOT_FOUND` for one that does not exist; `Unavailable` when the database does not answer.
pub async fn info(env: &Env, user: &UserId, version: i64) -> Outcome<Info> {
    let backup = existing(env, user, version).await?;
    describe(env, user, vec![backup]).await?.pop().ok_or_else(unknown)
}

async fn describe(env: &Env, user: &UserId, backups: Vec<key_backup::Model>) -> Outcome<Vec<Info>> {
    if backups.is_empty() {
        return Ok(Vec::new());
    }
    let counts: BTreeMap<i64, i64> = env.store.backup_counts(user.as_str()).await?.into_iter().collect();
    let shown = |backup: key_backup::Model| {
        let auth_data = RawValue::from_string(backup.auth_data)
            .map_err(|error| DomainError::internal(format!("stored auth_data: {error}")))?;
        Ok(Info {
            algorithm: backup.algorithm,
            auth_data,
            count: counts.get(&backup.version).copied().unwrap_or(0),
            etag: backup.etag.to_string(),
            version: backup.version.to_string(),
        })
    };
    backups.into_iter().map(shown).collect()
}

/// Keys of a version.
///
/// # Errors
/// `M_NOT_FOUND` for a version that does not exist; `Unavailable` when the database does not answer.
pub async fn keys(env: &Env, user: &UserId, version: i64, scope: &Scope) -> Outcome<Rooms> {
    existing(env, user, version).await?;
    let rows = env
        .store
        .backup_sessions(user.as_str(), version, scope.borrowed())
        .await?;
    let mut rooms = Rooms::new();
    for row in rows {
        let session = BackedUp {
            first_message_index: u64::try_from(row.first_message_index).unwrap_or(0),
            forwarded_count: u64::try_from(row.forwarded_count).unwrap_or(0),
            is_verified: row.is_verified,
            session_data: RawValue::from_string(row.session_data)
                .map_err(|error| DomainError::internal(format!("stored session_data: {error}")))?,
        };
        rooms.entry(row.room_id).or_default().insert(row.session_id, session);
    }
    Ok(rooms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(is_verified: bool, first_message_index: i64, forwarded_count: i64) -> key_backup_session::Model {
        key_backup_session::Model {
            user_id: String::new(),
            version: 1,
            room_id: String::new(),
            session_id: String::new(),
            first_message_index,
            forwarded_count,
            is_verified,
            session_data: "{}".to_owned(),
        }
    }

    #[test]
    fn the_better_session_stays() {
        let worst_to_best = [
            session(false, 9, 9),
            session(false, 9, 2),
            session(false, 1, 3),
            session(true, 9, 9),
            session(true, 3, 9),
            session(true, 3, 0),
        ];
        for (i, a) in worst_to_best.iter().enumerate() {
            for (j, b) in worst_to_best.iter().enumerate() {
                assert_eq!(replaces(a, b), j > i, "{b:?} in place of {a:?}");
            }
        }
    }

    #[test]
    fn numbers_are_those_of_json() {
        assert_eq!(number(MAX_NUMBER).ok(), Some((1 << 53) - 1));
        assert!(number(MAX_NUMBER + 1).is_err());
        assert!(number(u64::MAX).is_err());
    }
}
