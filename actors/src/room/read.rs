//! What a user may read of a room, and reading it. Nothing here starts a room's actor.

use std::sync::Arc;

use entities::ids::{StateGroupId, StreamPos};
use ruma::api::client::filter::RoomEventFilter;
use ruma::{EventId, OwnedUserId, RoomId, UserId};

use super::event::{Status, StoredEvent};
use super::snapshot::RoomSnapshot;
use super::visibility::{At, HistoryVisibility, Standing, filter_visible, sees_at};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::session::sync::filter::event_allowed;
use crate::stream::token::Token;

/// The most events of one page.
pub const MAX_PAGE: usize = 500;
/// Events read from the database at a time.
const CHUNK: u32 = 100;
/// Chunks read for one page before it is answered with what there is.
const MAX_CHUNKS: usize = 10;

/// What a user may see of a room.
#[derive(Clone, Debug)]
pub struct Access {
    /// The room.
    pub room: Arc<RoomSnapshot>,
    /// Whose access.
    pub user: OwnedUserId,
    /// Everything up to here; for those who left, up to their departure.
    pub upto: StreamPos,
    /// Whether the user is joined.
    pub joined: bool,
    /// Whether the history visibility hides nothing: for administrators.
    pub all: bool,
}

impl Access {
    /// Of those events, the ones the user may see.
    async fn visible(&self, env: &Env, events: Vec<Arc<StoredEvent>>) -> Outcome<Vec<Arc<StoredEvent>>> {
        match self.all {
            true => Ok(events),
            false => filter_visible(&env.rooms, &self.user, &self.room, events).await,
        }
    }
}

/// An administrator's access to a room, whatever its history visibility and whoever is in it.
///
/// # Errors
/// `M_NOT_FOUND` for rooms that this server has no state of.
pub async fn everything(env: &Env, user: &UserId, room_id: &RoomId) -> Outcome<Access> {
    let missing = || DomainError::not_found(format!("Room not found: {room_id}"));
    let room = env.rooms.view(room_id).await?.ok_or_else(missing)?;
    Ok(Access {
        joined: room.is_joined(user),
        room,
        user: user.to_owned(),
        upto: env.visible(),
        all: true,
    })
}

/// The user's access to a room.
///
/// # Errors
/// `M_FORBIDDEN` for those who never were in the room if it is not world-readable, or if there is no such room.
pub async fn access(env: &Env, user: &UserId, room_id: &RoomId) -> Outcome<Access> {
    let denied = || DomainError::forbidden(format!("User {user} not in room {room_id}"));
    let room = env.rooms.view(room_id).await?.ok_or_else(denied)?;
    let standing = Standing::find(&env.rooms, &room, user).await?;
    let joined = standing.joined_since.is_some();
    let visible = env.visible();
    let world = HistoryVisibility::of(room.state_event("m.room.history_visibility", "").map(|e| &**e));
    let upto = if joined || world == HistoryVisibility::WorldReadable {
        visible
    } else if standing.was_ever_joined() && !has_forgotten(env, user, &room).await? {
        standing.joined_until.min(visible)
    } else {
        return Err(denied());
    };
    Ok(Access {
        room,
        user: user.to_owned(),
        upto,
        joined,
        all: false,
    })
}

/// Whoever forgot a room has no history there any more.
async fn has_forgotten(env: &Env, user: &UserId, room: &RoomSnapshot) -> Outcome<bool> {
    let row = env.store.membership(room.nid.0, user.as_str()).await?;
    Ok(row.is_some_and(|row| row.forgotten))
}

/// One page of a room's history.
#[derive(Clone, Debug)]
pub struct Page {
    /// In the direction asked for.
    pub events: Vec<Arc<StoredEvent>>,
    /// Where it began.
    pub start: Token,
    /// Where to go on; `None` at the end.
    pub end: Option<Token>,
}

/// Which page.
#[derive(Clone, Debug)]
pub struct PageQuery<'a> {
    /// Where to begin; `None` for the end the direction starts from.
    pub from: Option<Token>,
    /// Where to stop.
    pub to: Option<Token>,
    /// Newest first.
    pub backwards: bool,
    /// How many events.
    pub limit: usize,
    /// Which events.
    pub filter: &'a RoomEventFilter,
}

/// A page of the events that the user sees.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn page(env: &Env, access: &Access, query: &PageQuery<'_>) -> Outcome<Page> {
    let newest = Token::Live(access.upto);
    let start = query.from.unwrap_or(if query.backwards {
        newest
    } else {
        Token::Live(StreamPos(0))
    });
    let mut cursor = if query.from.is_none() && !query.backwards {
        StreamPos(i64::MIN)
    } else {
        start.pos()
    };
    if query.backwards {
        cursor = cursor.min(access.upto);
    }
    let stop = query.to.map(Token::pos);
    let limit = query.limit.clamp(1, MAX_PAGE);
    let mut events: Vec<Arc<StoredEvent>> = Vec::new();
    let mut end = None;
    'chunks: for _ in 0..MAX_CHUNKS {
        let chunk = chunk(env, access, cursor, stop, query.backwards, limit - events.len()).await?;
        let last_chunk = chunk.read < chunk.asked;
        for event in chunk.events {
            if events.len() == limit {
                break 'chunks;
            }
            end = after(&event, query.backwards);
            if event_allowed(query.filter, &event) {
                events.push(event);
            }
        }
        cursor = chunk.cursor;
        end = chunk.end.or(end);
        if last_chunk {
            end = None;
            break;
        }
        if events.len() >= limit {
            break;
        }
    }
    Ok(Page { events, start, end })
}

struct Chunk {
    events: Vec<Arc<StoredEvent>>,
    read: usize,
    asked: usize,
    cursor: StreamPos,
    end: Option<Token>,
}

async fn chunk(
    env: &Env,
    access: &Access,
    cursor: StreamPos,
    stop: Option<StreamPos>,
    backwards: bool,
    wanted: usize,
) -> Outcome<Chunk> {
    let asked = u32::try_from(wanted).unwrap_or(CHUNK).max(10);
    let to = if backwards {
        stop
    } else {
        Some(stop.unwrap_or(access.upto).min(access.upto))
    };
    let nid = access.room.nid;
    let events = env
        .rooms
        .timeline_range(nid, Some(cursor.0), to.map(|pos| pos.0), asked, backwards)
        .await?;
    let read = events.len();
    let last = events.last().cloned();
    let end = last.as_ref().and_then(|event| after(event, backwards));
    let cursor = end.map_or(cursor, Token::pos);
    let events = access.visible(env, events).await?;
    let asked = usize::try_from(asked).unwrap_or(usize::MAX);
    // A whole chunk was looked at: unless the page fills up within it, reading goes on behind it.
    let end = end.filter(|_| read <= wanted);
    Ok(Chunk {
        events,
        read,
        asked,
        cursor,
        end,
    })
}

/// The token behind an event in the direction of reading.
#[must_use]
pub fn after(event: &StoredEvent, backwards: bool) -> Option<Token> {
    let pos = event.pos?;
    Some(Token::History {
        depth: event.pdu.depth,
        pos: if backwards { StreamPos(pos.0 - 1) } else { pos },
    })
}

/// An event that the user sees.
///
/// # Errors
/// `M_NOT_FOUND` otherwise.
pub async fn event(env: &Env, access: &Access, event_id: &EventId) -> Outcome<Arc<StoredEvent>> {
    let missing = || DomainError::not_found("Event not found.");
    let event = env.rooms.event_by_id(event_id).await?.ok_or_else(missing)?;
    let shown = event.room_nid == access.room.nid
        && event.status == Status::Accepted
        && !event.pdu.is_dummy()
        && event.pos.is_some_and(|pos| pos <= access.upto);
    if !shown {
        return Err(missing());
    }
    let seen = access.visible(env, vec![event]).await?;
    seen.into_iter().next().ok_or_else(missing)
}

/// An event with what surrounds it.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// Before it, newest first.
    pub before: Page,
    /// After it, oldest first.
    pub after: Page,
    /// The state at the last event.
    pub state: Vec<Arc<StoredEvent>>,
}

/// What comes before an event, as one page; `None` where nothing of it is wanted. `limit` is shared with what comes after it.
#[must_use]
pub fn before<'a>(event: &StoredEvent, limit: usize, filter: &'a RoomEventFilter) -> Option<PageQuery<'a>> {
    let pos = StreamPos(event.pos.unwrap_or_default().0 - 1);
    let depth = event.pdu.depth;
    (limit / 2 > 0).then_some(PageQuery {
        from: Some(Token::History { depth, pos }),
        to: None,
        backwards: true,
        limit: limit / 2,
        filter,
    })
}

/// `/context`: `limit` is shared by both sides; `before` is the page that [`before`] asks for.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn surroundings(
    env: &Env,
    access: &Access,
    event: Arc<StoredEvent>,
    before: Option<Page>,
    limit: usize,
    filter: &RoomEventFilter,
) -> Outcome<Surroundings> {
    let pos = event.pos.unwrap_or_default();
    let depth = event.pdu.depth;
    let at = |pos| Some(Token::History { depth, pos });
    let following = |limit| PageQuery {
        from: at(pos),
        to: None,
        backwards: false,
        limit,
        filter,
    };
    let nothing = |token| Page {
        events: Vec::new(),
        start: token,
        end: Some(token),
    };
    let half = limit / 2;
    let (back, forth) = (
        Token::History {
            depth,
            pos: StreamPos(pos.0 - 1),
        },
        Token::History { depth, pos },
    );
    let mut before = before.unwrap_or_else(|| nothing(back));
    let mut later = match limit.saturating_sub(half) {
        0 => nothing(forth),
        _ if limit == 1 => nothing(forth),
        rest => page(env, access, &following(rest)).await?,
    };
    before.end = before
        .end
        .or(before.events.last().and_then(|event| after(event, true)))
        .or(Some(back));
    later.end = later
        .end
        .or(later.events.last().and_then(|event| after(event, false)))
        .or(Some(forth));
    let last = later.events.last().unwrap_or(&event).clone();
    let state = match last.state_group {
        Some(group) => state_at(env, &access.room, group).await?,
        None => Vec::new(),
    };
    Ok(Surroundings {
        event,
        before,
        after: later,
        state,
    })
}

/// The whole state of a group, in the order of its keys.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn state_at(env: &Env, room: &RoomSnapshot, group: StateGroupId) -> Outcome<Vec<Arc<StoredEvent>>> {
    if group == room.state_group {
        return Ok(room.state.values().map(|entry| entry.event.clone()).collect());
    }
    Ok(env.rooms.state_at_group(group).await?.values().cloned().collect())
}

/// The state the user may see: the current one, or that of its departure.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn state(env: &Env, access: &Access) -> Outcome<Vec<Arc<StoredEvent>>> {
    state_upto(env, access, access.upto).await
}

/// The state after everything up to `upto`, at most what the user may see.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn state_upto(env: &Env, access: &Access, upto: StreamPos) -> Outcome<Vec<Arc<StoredEvent>>> {
    let upto = upto.min(access.upto);
    let room = &access.room;
    let mut group = room.state_group;
    if room.pos > upto {
        let next = env.rooms.timeline_range(room.nid, Some(upto.0), None, 1, false).await?;
        group = next.first().and_then(|event| event.state_group).unwrap_or(group);
    }
    state_at(env, room, group).await
}

/// The state after everything up to `upto`, for users who see what happened there: somebody who joined later need not have
/// been meant to know who was there before.
///
/// # Errors
/// `M_FORBIDDEN` where the user does not see what happened there; `Unavailable` when the database does not answer.
pub async fn state_seen(env: &Env, access: &Access, upto: StreamPos) -> Outcome<Vec<Arc<StoredEvent>>> {
    let state = state_upto(env, access, upto).await?;
    if upto >= access.upto {
        return Ok(state);
    }
    let standing = Standing::find(&env.rooms, &access.room, &access.user).await?;
    let find = |kind: &str, key: &str| state.iter().find(|event| event.pdu.is_state(kind, key));
    let at = At {
        visibility: HistoryVisibility::of(find("m.room.history_visibility", "").map(|event| &**event)),
        membership: find("m.room.member", access.user.as_str())
            .and_then(|event| event.pdu.membership())
            .unwrap_or_else(|| "leave".to_owned()),
    };
    match sees_at(standing, upto, &at) {
        true => Ok(state),
        false => Err(DomainError::forbidden("you do not see the room as it was at that time")),
    }
}

/// One entry of the state the user may see.
///
/// # Errors
/// `M_NOT_FOUND` where there is none.
pub async fn state_event(env: &Env, access: &Access, kind: &str, state_key: &str) -> Outcome<Arc<StoredEvent>> {
    let missing = || DomainError::not_found("Event not found.");
    if access.room.pos <= access.upto {
        return access.room.state_event(kind, state_key).cloned().ok_or_else(missing);
    }
    let state = state(env, access).await?;
    state
        .into_iter()
        .find(|event| event.pdu.is_state(kind, state_key))
        .ok_or_else(missing)
}
