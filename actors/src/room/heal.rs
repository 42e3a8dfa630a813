//! Rooms with many branches: events that say nothing join them, so that the next ones need not.
//!
//! Branches pile up where other servers speak at the same time and nobody here answers. Resolving their states costs with
//! every event, for this server and for those who get an event of it.

use std::sync::Arc;

use entities::ids::RoomNid;
use ruma::OwnedUserId;
use serde_json::value::RawValue;

use super::auth::Power;
use super::commands::{Append, Draft, Incoming, Ingest, Verdict};
use super::commit::{self, End, Item};
use super::event::DUMMY;
use super::export::template;
use super::ingest::MAX_PREV_EVENTS;
use super::plan;
use super::receive::{self, Received};
use super::snapshot::RoomSnapshot;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::policy;

/// So many branches are left alone.
const MAX_EXTREMITIES: usize = 10;
/// Joining events before what local users say.
const ROUNDS: usize = 8;
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
    let drafts = vec![silent(sender)];
    let items = vec![Item::Append(Append { drafts })];
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

/// Joins branches until one event can follow all that are left, before local users say something: the state before an event
/// that follows only some of them would not be the room's. Each joining event is placed like one from elsewhere, so it is exact.
///
/// # Errors
/// `Unavailable` when what is stored may differ from the snapshot.
pub(super) async fn before(env: &Arc<Env>, room: Arc<RoomSnapshot>) -> Outcome<Arc<RoomSnapshot>> {
    let mut room = room;
    for _ in 0..ROUNDS {
        if room.extremities.len() <= MAX_PREV_EVENTS {
            break;
        }
        let Some(sender) = speaker(&room) else { break };
        let joining = match joining(env, &room, sender).await {
            Ok(joining) => joining,
            Err(error) => {
                tracing::warn!(room_id = %room.room_id, %error, "branches could not be joined");
                break;
            }
        };
        match receive::receive(env, &room, joining).await {
            Received::Settled(newer, Ok(verdicts)) if verdicts == [Verdict::Accepted] => room = newer,
            Received::Settled(same, _) => return Ok(same),
            Received::InDoubt(error) => return Err(error),
        }
    }
    Ok(room)
}

/// An event that says nothing and follows as many branches as one may.
async fn joining(env: &Arc<Env>, room: &Arc<RoomSnapshot>, sender: OwnedUserId) -> Outcome<Ingest> {
    let object = template::unsigned(env, room, &silent(sender)).await?;
    let pdu = policy::agreed(env, room, plan::seal(object, &room.rules, &commit::origin(env))?).await?;
    let incoming = Incoming {
        relay: true,
        ..Incoming::of(&pdu)
    };
    Ok(Ingest {
        pdus: vec![incoming],
        outliers: Vec::new(),
    })
}

fn silent(sender: OwnedUserId) -> Draft {
    let content = RawValue::from_string("{}".to_owned()).expect("an object");
    Draft::message(sender, DUMMY, content, None)
}

/// Who joins the branches. `None` where there is no need, nobody, or it was done lately.
fn who(env: &Env, room: &RoomSnapshot) -> Option<OwnedUserId> {
    if room.extremities.len() <= MAX_EXTREMITIES || was_lately(env, room.nid) {
        return None;
    }
    speaker(room)
}

/// A local user who may speak.
fn speaker(room: &RoomSnapshot) -> Option<OwnedUserId> {
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
