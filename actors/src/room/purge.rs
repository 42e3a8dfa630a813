//! What is deleted for good: rooms, and the messages of their past. The room's actor does it, so nobody writes in between.

use entities::ids::RoomNid;
use ruma::RoomId;

use super::commands::{PurgeHistory, Purged};
use super::snapshot::RoomSnapshot;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::failpoint::ROOM_PURGED;

/// Deletes a room. Interrupted, it can be repeated; readers have lost the room from the first commit on.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub(super) async fn room(env: &Env, room_id: &str) -> Outcome<()> {
    let parsed = RoomId::parse(room_id).map_err(|e| DomainError::invalid_param(format!("room id: {e}")))?;
    let Some(row) = env.store.room_by_id(room_id).await? else {
        return Ok(());
    };
    let nid = RoomNid(row.nid);
    env.store.delete_room_standing(row.nid, room_id).await?;
    env.rooms.forget(&parsed, nid, true);
    env.failpoints.pass(ROOM_PURGED);
    while env.store.delete_room_rest(row.nid).await? {}
    env.rooms.forget(&parsed, nid, true);
    Ok(())
}

/// Deletes a part of a room's past.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub(super) async fn history(env: &Env, room: &RoomSnapshot, wanted: PurgeHistory) -> Outcome<Purged> {
    let span = (wanted.above, wanted.before.min(room.pos.0.saturating_add(1)));
    let server = env.server_name.as_str();
    let page = env
        .store
        .history_to_purge(room.nid.0, span, server, wanted.local)
        .await?;
    let needed = |nid: i64| room.extremities.iter().any(|end| end.nid.0 == nid);
    let gone: Vec<i64> = page
        .iter()
        .filter(|(_, nid, deletable)| *deletable && !needed(*nid))
        .map(|(_, nid, _)| *nid)
        .collect();
    let deleted = match gone.is_empty() {
        true => 0,
        false => env.store.delete_events(&gone).await?,
    };
    env.rooms.forget(&room.room_id, room.nid, false);
    Ok(Purged {
        deleted,
        next: page.last().map(|(pos, ..)| *pos),
    })
}
