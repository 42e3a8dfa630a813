//! Rooms with many branches: events that say nothing join them, so that the next ones need not.
//!
//! Branches pile up where other servers speak at the same time and nobody here answers. Resolving their states costs with
//! every event, for this server and for those who get an event of it.

use std::sync::Arc;

use entities::ids::RoomNid;
use ruma::OwnedUserId;
use serde_json::value::RawValue;

use super::auth::Power;
use super::commands::{Append, Draft};
use super::commit::{self, End, Item};
use super::event::DUMMY;
use super::receive::Received;
use super::snapshot::RoomSnapshot;
use crate::env::Env;
use crate::error::DomainError;

/// So many branches are left alone.
const MAX_EXTREMITIES: usize = 10;
/// Between two such events in a room, milliseconds: other servers do the same.
const PAUSE_MS: i64 = 60_000;

/// Joins the room's branches after events came in, if there are too many.
pub(super) async fn after(env: &Arc<Env>, ended: Received) -> Received {
    let (room, verdicts) = match ended {
        Received::Settled(room, Ok(verdicts)) => (room, verdicts),
        other => return other,
    };
    let Some(sender) = who(env, &room) else {
        return Received::Settled(room, Ok(verdicts));
    };
    env.rooms.note_healed(room.nid, env.clock.now_ms());
    let content = RawValue::from_string("{}".to_owned()).expect("an object");
    let draft = Draft::message(sender, DUMMY, content, None);
    let items = vec![Item::Append(Append { drafts: vec![draft] })];
    match commit::run(env, &room, items).await {
        End::Settled(newer, answers) => {
            if let Some(Err(error)) = answers.first() {
                tracing::warn!(room_id = %room.room_id, %error, "branches could not be joined");
            }
            Received::Settled(newer, Ok(verdicts))
        }
        End::InDoubt(_) => Received::InDoubt(DomainError::unavailable("the room is read again")),
    }
}

/// Who joins the branches: a local user who may speak. `None` where there is no need, nobody, or it was done lately.
fn who(env: &Env, room: &RoomSnapshot) -> Option<OwnedUserId> {
    if room.extremities.len() <= MAX_EXTREMITIES || was_lately(env, room.nid) {
        return None;
    }
    let state = |kind: &str, key: &str| room.state_event(kind, key).map(|event| event.pdu.clone());
    let power = Power::of(&room.rules, state).ok()?;
    let mut users = room.local_joined.iter();
    users.find(|user| power.may_send(user, DUMMY, false)).cloned()
}

fn was_lately(env: &Env, room: RoomNid) -> bool {
    let now = env.clock.now_ms();
    env.rooms.last_healed(room).is_some_and(|last| now < last + PAUSE_MS)
}

#[cfg(test)]
#[path = "heal_tests.rs"]
mod tests;
