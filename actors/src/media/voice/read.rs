//! Who may read which voice messages. Those that were sent follow the rules of their room and event; others are their owner's.

use std::collections::HashMap;

use entities::media;
use entities::store::voice::VoicePage;
use entities::voice_message;
use ruma::{EventId, OwnedUserId, RoomId, UserId};

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::read::{self, Access};

/// Somebody who reads.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// `None` without a token.
    pub user: Option<&'a UserId>,
    /// Administrators read everything.
    pub is_admin: bool,
}

/// A page of messages, newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What the reader may see.
    pub messages: Vec<voice_message::Model>,
    /// Where to go on; `None` at the end.
    pub next: Option<String>,
}

/// What messages add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many.
    pub messages: i64,
    /// Milliseconds.
    pub duration_ms: i64,
    /// Bytes.
    pub size_bytes: i64,
}

/// Rooms that were asked for already.
type Rooms = HashMap<String, Option<Access>>;

impl Reader<'_> {
    fn owns(&self, user_id: &str) -> bool {
        self.is_admin || self.user.is_some_and(|user| user.as_str() == user_id)
    }

    /// Without a token the rules for a stranger hold, whom no user id that can be registered stands for.
    fn as_user(&self, env: &Env) -> Outcome<OwnedUserId> {
        match self.user {
            Some(user) => Ok(user.to_owned()),
            None => UserId::parse(format!("@:{}", env.server_name))
                .map_err(|e| DomainError::internal(format!("no user id for strangers: {e}"))),
        }
    }

    async fn access(&self, env: &Env, room_id: &str) -> Outcome<Option<Access>> {
        let Ok(room_id) = RoomId::parse(room_id) else {
            return Ok(None);
        };
        match read::access(env, &self.as_user(env)?, &room_id).await {
            Ok(access) => Ok(Some(access)),
            Err(DomainError::Matrix { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn sees(&self, env: &Env, row: &voice_message::Model, rooms: &mut Rooms) -> Outcome<bool> {
        if self.owns(&row.user_id) {
            return Ok(true);
        }
        let (Some(room_id), Some(Ok(event_id))) = (&row.room_id, row.event_id.as_deref().map(EventId::parse)) else {
            return Ok(false);
        };
        if !rooms.contains_key(room_id) {
            rooms.insert(room_id.clone(), self.access(env, room_id).await?);
        }
        let Some(Some(access)) = rooms.get(room_id) else {
            return Ok(false);
        };
        match read::event(env, access, &event_id).await {
            Ok(event) => Ok(event.redacted_by.is_none()),
            Err(DomainError::Matrix { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A message that the reader may see.
///
/// # Errors
/// `M_NOT_FOUND` otherwise.
pub(super) async fn visible(env: &Env, reader: &Reader<'_>, message_id: &str) -> Outcome<voice_message::Model> {
    let missing = || DomainError::not_found("Voice message not found.");
    let row = env.store.voice_message(message_id).await?.ok_or_else(missing)?;
    if reader.sees(env, &row, &mut Rooms::new()).await? {
        Ok(row)
    } else {
        Err(missing())
    }
}

/// A message that the reader may see, with its media.
///
/// # Errors
/// `M_NOT_FOUND` otherwise.
pub async fn content(
    env: &Env,
    reader: &Reader<'_>,
    message_id: &str,
) -> Outcome<(voice_message::Model, media::Model)> {
    let row = visible(env, reader, message_id).await?;
    let media = crate::media::find(env, env.server_name.as_str(), &row.media_id).await?;
    Ok((row, media))
}

/// A user's messages, as far as the reader may see them.
///
/// # Errors
/// `M_INVALID_PARAM` for a place that no page ended at.
pub async fn list_of_user(
    env: &Env,
    reader: &Reader<'_>,
    user_id: &UserId,
    from: Option<&str>,
    limit: u32,
) -> Outcome<Page> {
    let place = place(env, from, limit)?;
    let rows = env.store.voice_messages_of_user(user_id.as_str(), place).await?;
    page(env, reader, rows, limit).await
}

/// The messages that were sent into a room, as far as the reader may see them.
///
/// # Errors
/// `M_FORBIDDEN` for rooms that the reader may not read, whether they exist or not; `M_INVALID_PARAM`.
pub async fn list_of_room(
    env: &Env,
    reader: &Reader<'_>,
    room_id: &RoomId,
    from: Option<&str>,
    limit: u32,
) -> Outcome<Page> {
    let place = place(env, from, limit)?;
    if !reader.is_admin && reader.access(env, room_id.as_str()).await?.is_none() {
        return Err(DomainError::forbidden("You may not read this room."));
    }
    let rows = env.store.voice_messages_of_room(room_id.as_str(), place).await?;
    page(env, reader, rows, limit).await
}

/// `from` is the time and the id of the last message of the page before.
fn place<'a>(env: &'a Env, from: Option<&'a str>, limit: u32) -> Outcome<VoicePage<'a>> {
    let wrong = || DomainError::invalid_param("`from` is not where a page ended");
    let (before_ts, before_id) = match from {
        None => (i64::MAX, ""),
        Some(from) => {
            let (ts, id) = from.split_once('~').ok_or_else(wrong)?;
            (ts.parse().map_err(|_| wrong())?, id)
        }
    };
    Ok(VoicePage {
        origin: env.server_name.as_str(),
        before_ts,
        before_id,
        limit: i64::from(limit) + 1,
    })
}

async fn page(env: &Env, reader: &Reader<'_>, mut rows: Vec<voice_message::Model>, limit: u32) -> Outcome<Page> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|row| format!("{}~{}", row.created_ts, row.message_id));
    let (mut rooms, mut messages) = (Rooms::new(), Vec::with_capacity(rows.len()));
    for row in rows {
        if reader.sees(env, &row, &mut rooms).await? {
            messages.push(row);
        }
    }
    Ok(Page { messages, next })
}

/// What a user's messages add up to: all for themselves, for others those in rooms that they read now.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn totals(env: &Env, reader: &Reader<'_>, user_id: &UserId) -> Outcome<Totals> {
    let mut sum = Totals::default();
    let visible_now = env.visible();
    for part in env
        .store
        .voice_totals(env.server_name.as_str(), user_id.as_str())
        .await?
    {
        let counts = reader.owns(user_id.as_str())
            || match &part.room_id {
                Some(room_id) => {
                    let access = reader.access(env, room_id).await?;
                    access.is_some_and(|access| access.upto >= visible_now)
                }
                None => false,
            };
        if counts {
            sum.messages += part.messages;
            sum.duration_ms += part.duration_ms;
            sum.size_bytes += part.size_bytes;
        }
    }
    Ok(sum)
}
