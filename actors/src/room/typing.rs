//! Who is typing: in memory only, with a stream position for every change so that `/sync` finds it.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use entities::ids::{RoomNid, StreamPos};
use entities::store::rows::Rows;
use ruma::{OwnedUserId, RoomId, UserId};

use super::snapshot::RoomSnapshot;
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// The longest a notice holds without being repeated.
pub const MAX_TIMEOUT_MS: u64 = 120_000;
/// Users shown at once in one room.
const MAX_USERS: usize = 100;

#[derive(Debug, Default)]
struct Room {
    pos: StreamPos,
    /// Sorted by user; until when each one types, in Unix milliseconds.
    users: Vec<(OwnedUserId, Millis)>,
    /// Whether a task waits for the next deadline.
    watched: bool,
}

/// Who is typing where.
#[derive(Debug, Default)]
pub struct Typing {
    rooms: DashMap<RoomNid, Room>,
}

impl Typing {
    /// Who is typing in the room, and the position of the last change; 0 if nobody has typed since the server started.
    #[must_use]
    pub fn in_room(&self, room: RoomNid) -> (Vec<OwnedUserId>, StreamPos) {
        match self.rooms.get(&room) {
            Some(entry) => (entry.users.iter().map(|(user, _)| user.clone()).collect(), entry.pos),
            None => (Vec::new(), StreamPos(0)),
        }
    }

    /// The position of the last change of who is typing in the room; 0 if nobody has typed since the server started.
    #[must_use]
    pub fn last_change(&self, room: RoomNid) -> StreamPos {
        self.rooms.get(&room).map_or(StreamPos(0), |entry| entry.pos)
    }

    /// Notes what a user does. Tells whether that changes who types, and whether somebody must watch the deadlines.
    fn note(&self, room: RoomNid, user: &UserId, until: Option<Millis>) -> (bool, bool) {
        let mut entry = self.rooms.entry(room).or_default();
        let at = entry.users.binary_search_by(|(other, _)| (**other).cmp(user));
        let changed = match (at, until) {
            (Ok(at), Some(until)) => {
                entry.users[at].1 = until;
                false
            }
            (Ok(at), None) => {
                entry.users.remove(at);
                true
            }
            (Err(at), Some(until)) if entry.users.len() < MAX_USERS => {
                entry.users.insert(at, (user.to_owned(), until));
                true
            }
            (Err(_), _) => false,
        };
        let watch = !entry.watched && !entry.users.is_empty();
        entry.watched |= watch;
        (changed, watch)
    }

    /// Drops those whose time is up. Tells whether there were any, and the next deadline.
    fn expire(&self, room: RoomNid, now: Millis) -> (bool, Option<Millis>) {
        let Some(mut entry) = self.rooms.get_mut(&room) else {
            return (false, None);
        };
        let before = entry.users.len();
        entry.users.retain(|(_, until)| *until > now);
        let next = entry.users.iter().map(|(_, until)| *until).min();
        entry.watched = next.is_some();
        (entry.users.len() < before, next)
    }

    fn moved(&self, room: RoomNid, pos: StreamPos) {
        if let Some(mut entry) = self.rooms.get_mut(&room) {
            entry.pos = entry.pos.max(pos);
        }
    }
}

/// Sets or clears a joined user's notice.
///
/// # Errors
/// `M_FORBIDDEN` for users who are not joined; `Unavailable` when the stream does not move.
pub(super) async fn set(
    env: &Arc<Env>,
    room: &Arc<RoomSnapshot>,
    user: &UserId,
    timeout_ms: Option<u64>,
) -> Outcome<()> {
    if !room.is_joined(user) {
        return Err(DomainError::forbidden("you are not in this room"));
    }
    let timeout = timeout_ms.map(|ms| i64::try_from(ms.min(MAX_TIMEOUT_MS)).unwrap_or(0));
    let until = timeout.map(|ms| env.clock.now_ms() + ms);
    let (changed, watch) = env.rooms.typing().note(room.nid, user, until);
    if watch {
        env.io
            .spawn(watch_deadlines(env.clone(), room.nid, room.room_id.to_owned()));
    }
    if changed { announce(env, room).await } else { Ok(()) }
}

async fn announce(env: &Arc<Env>, room: &Arc<RoomSnapshot>) -> Outcome<()> {
    let (cache, nid, room_id) = (env.rooms.clone(), room.nid, room.room_id.clone());
    let users = room.local_joined.clone();
    let publish = Box::new(move |pos| {
        cache.typing().moved(nid, pos);
        vec![Fact {
            pos,
            users,
            kind: FactKind::Typing { room_nid: nid, room_id },
        }]
    });
    env.journal
        .submit(Submission {
            rows: Rows::default(),
            positions: 1,
            publish,
        })
        .await
        .map(|_| ())
}

/// Runs while somebody types in the room.
async fn watch_deadlines(env: Arc<Env>, nid: RoomNid, room_id: ruma::OwnedRoomId) {
    loop {
        let now = env.clock.now_ms();
        let (expired, next) = env.rooms.typing().expire(nid, now);
        if expired && let Err(error) = announce_by_id(&env, &room_id).await {
            tracing::warn!(%error, "an expired typing notice was not announced");
        }
        let Some(next) = next else { return };
        let wait = u64::try_from(next - env.clock.now_ms()).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait + 1)).await;
    }
}

async fn announce_by_id(env: &Arc<Env>, room_id: &RoomId) -> Outcome<()> {
    match env.rooms.view(room_id).await? {
        Some(room) => announce(env, &room).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::user_id;

    const ROOM: RoomNid = RoomNid(1);

    #[test]
    fn a_repeated_notice_only_moves_the_deadline() {
        let typing = Typing::default();
        assert_eq!(typing.note(ROOM, user_id!("@a:x"), Some(10)), (true, true));
        assert_eq!(typing.note(ROOM, user_id!("@a:x"), Some(20)), (false, false));
        assert_eq!(typing.expire(ROOM, 15), (false, Some(20)));
        assert_eq!(typing.note(ROOM, user_id!("@b:x"), Some(30)), (true, false));
        assert_eq!(typing.expire(ROOM, 20), (true, Some(30)));
        assert_eq!(typing.in_room(ROOM).0, [user_id!("@b:x").to_owned()]);
        assert_eq!(typing.note(ROOM, user_id!("@b:x"), None), (true, false));
        assert_eq!(typing.note(ROOM, user_id!("@b:x"), None), (false, false));
        assert_eq!(typing.expire(ROOM, 31), (false, None));
    }

    #[test]
    fn positions_only_rise() {
        let typing = Typing::default();
        typing.note(ROOM, user_id!("@a:x"), Some(10));
        typing.moved(ROOM, StreamPos(7));
        typing.moved(ROOM, StreamPos(5));
        assert_eq!(typing.in_room(ROOM).1, StreamPos(7));
    }
}
