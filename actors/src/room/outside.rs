//! Memberships of local users in rooms that no local user is joined to: invites and knocks over federation, and how they end.
//!
//! Spec: server-server API, "Inviting to a room", "Knocking on a room", "Leaving Rooms (Rejecting Invites)". The state that
//! would authorize such an event is not here. It is kept as an outlier with a position: part of no timeline, but its user's
//! membership follows it. Where this server was in the room before, its old state takes the event as well, until somebody
//! joins again.

use std::sync::Arc;

use entities::ids::{EventNid, RoomNid, StreamPos};
use entities::store::rows::{EventUpdate, Rows};
use entities::{membership, room, stripped_state};
use ruma::events::TimelineEventType;
use ruma::{OwnedUserId, RoomId, RoomVersionId, UserId};

use super::cache::RoomName;
use super::commands::OutOfRoom;
use super::event::{Pdu, Status, StoredEvent};
use super::import::Failed;
use super::snapshot::RoomSnapshot;
use super::{commit, parse, receive, rules};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// A member event that was read.
struct Ask {
    pdu: Arc<Pdu>,
    user: OwnedUserId,
    membership: String,
    stripped: String,
}

/// Takes the event. `standing`: the room as it is; empty if this server never was in it.
pub(super) async fn take(
    env: &Arc<Env>,
    standing: &Arc<RoomSnapshot>,
    command: OutOfRoom,
) -> Result<Arc<RoomSnapshot>, Failed> {
    if !standing.local_joined.is_empty() {
        return Ok(standing.clone());
    }
    let version = RoomVersionId::try_from(command.version.as_str());
    let known = rules::rules_of(&command.version).zip(version.ok());
    let unknown = || DomainError::unsupported_room_version(format!("room version {}", command.version));
    let (rules, version) = known.ok_or_else(unknown)?;
    let ask = read(env, &standing.room_id, &rules, &command)?;
    let row = env.store.room_by_id(standing.room_id.as_str()).await?;
    let pending = match &row {
        Some(row) => env.store.membership(row.nid, ask.user.as_str()).await?,
        None => None,
    };
    let stored = env.rooms.event_by_id(&ask.pdu.event_id).await?;
    if let (Some(event), Some(pending)) = (&stored, &pending)
        && event.nid.0 == pending.event_nid
    {
        return Ok(standing.clone());
    }
    check(env, &ask, pending.as_ref()).await?;
    if !standing.extremities.is_empty() {
        return into_old_state(env, standing, ask, stored).await;
    }
    let is_new = row.is_none();
    let row = room::Model {
        nid: match &row {
            Some(row) => row.nid,
            None => env.ids.take(1).await?,
        },
        room_id: standing.room_id.to_string(),
        creator: row.as_ref().map_or_else(String::new, |row| row.creator.clone()),
        created_ts: row.as_ref().map_or_else(|| env.clock.now_ms(), |row| row.created_ts),
        version: command.version.clone(),
    };
    if stored.as_ref().is_some_and(|event| event.room_nid.0 != row.nid) {
        return Err(DomainError::bad_json("the event belongs to another room").into());
    }
    if !is_new {
        // Who invites tells the version; whoever told another one was wrong, or is.
        env.store.begin_import(&row).await?;
    }
    env.rooms.remember_anew(&RoomName {
        nid: RoomNid(row.nid),
        room_id: standing.room_id.clone(),
        version,
        rules,
    });
    submit(env, ask, stored, (row, is_new)).await?;
    Ok(standing.clone())
}

fn read(
    env: &Env,
    room_id: &RoomId,
    rules: &ruma::room_version_rules::RoomVersionRules,
    command: &OutOfRoom,
) -> Outcome<Ask> {
    let bad = |reason: &str| DomainError::bad_json(reason);
    let event = &command.event;
    let pdu = parse::pdu_from_checked(&event.json, rules, event.event_id.clone()).map_err(|e| bad(&e.to_string()))?;
    if pdu.room_id != room_id {
        return Err(bad("the event belongs to another room"));
    }
    let user = pdu.state_key.as_deref().and_then(|key| UserId::parse(key).ok());
    let user = user.filter(|user| env.is_local(user) && pdu.kind == TimelineEventType::RoomMember);
    let user = user.ok_or_else(|| bad("not a member event of a user of this server"))?;
    let membership = pdu.membership().unwrap_or_default();
    let fits = match membership.as_str() {
        "invite" => pdu.sender != user,
        "knock" => pdu.sender == user,
        "leave" | "ban" => true,
        _ => false,
    };
    if !fits {
        return Err(bad("not an invite, a knock or the end of one"));
    }
    let stripped = serde_json::to_string(&command.stripped).map_err(|e| bad(&e.to_string()))?;
    Ok(Ask {
        pdu: Arc::new(pdu),
        user,
        membership,
        stripped,
    })
}

/// What ends an invite or a knock must be its user's own doing or name it.
async fn check(env: &Env, ask: &Ask, pending: Option<&membership::Model>) -> Outcome<()> {
    if !matches!(ask.membership.as_str(), "leave" | "ban") {
        return Ok(());
    }
    let pending = pending.filter(|row| matches!(row.membership.as_str(), "invite" | "knock"));
    let pending = pending.ok_or_else(|| DomainError::forbidden("no invite or knock is pending"))?;
    if ask.pdu.sender == ask.user {
        return Ok(());
    }
    let nid = EventNid(pending.event_nid);
    let event = env.rooms.events(&[nid]).await?.remove(&nid);
    let named = event.is_some_and(|event| ask.pdu.auth_events.contains(&event.pdu.event_id));
    if named {
        Ok(())
    } else {
        Err(DomainError::forbidden(
            "the event does not name the pending invite or knock",
        ))
    }
}

/// A room that this server has no state of: rows, and a fact for the user.
async fn submit(
    env: &Arc<Env>,
    ask: Ask,
    stored: Option<Arc<StoredEvent>>,
    (row, is_new): (room::Model, bool),
) -> Result<(), Failed> {
    let nid = match &stored {
        Some(event) => event.nid.0,
        None => env.ids.take(1).await?,
    };
    let event = StoredEvent {
        nid: EventNid(nid),
        room_nid: RoomNid(row.nid),
        pos: Some(StreamPos(0)),
        state_group: None,
        status: Status::Outlier,
        redacted_by: None,
        txn: None,
        unsigned: None,
        pdu: ask.pdu.clone(),
    };
    let mut rows = Rows::default();
    if stored.is_some() {
        rows.event_updates.push(EventUpdate {
            nid,
            pos: Some(0),
            state_group: None,
            status: Status::Outlier.code(),
        });
    } else {
        rows.events.push(event.to_row());
    }
    rows.memberships.push(membership_row(row.nid, nid, &ask));
    set_stripped(&mut rows, row.nid, &ask);
    if is_new {
        rows.rooms.push(row);
    }
    let (cache, room_id, user) = (env.rooms.clone(), ask.pdu.room_id.clone(), ask.user);
    let publish = Box::new(move |base: StreamPos| {
        let event = Arc::new(StoredEvent {
            pos: Some(base),
            ..event
        });
        cache.keep_changed(&event);
        let kind = FactKind::Event {
            room_id,
            event,
            servers: Arc::from([]),
        };
        vec![Fact {
            pos: base,
            users: Arc::from([user]),
            kind,
        }]
    });
    let submission = Submission {
        rows,
        positions: 1,
        publish,
    };
    match env.journal.submit(submission).await {
        Ok(_) => Ok(()),
        Err(error @ DomainError::Overloaded { .. }) => Err(Failed::Refused(error)),
        Err(error) => Err(Failed::InDoubt(error)),
    }
}

fn membership_row(room: i64, event: i64, ask: &Ask) -> membership::Model {
    membership::Model {
        room_nid: room,
        user_id: ask.user.to_string(),
        membership: ask.membership.clone(),
        sender: ask.pdu.sender.to_string(),
        event_nid: event,
        pos: 0,
        forgotten: false,
    }
}

fn set_stripped(rows: &mut Rows, room: i64, ask: &Ask) {
    if matches!(ask.membership.as_str(), "invite" | "knock") {
        rows.stripped_states.push(stripped_state::Model {
            room_nid: room,
            user_id: ask.user.to_string(),
            events: ask.stripped.clone(),
        });
    } else {
        rows.stripped_states_removed.push((room, ask.user.to_string()));
    }
}

/// A room that this server was in: what it knows of the state takes the event.
async fn into_old_state(
    env: &Arc<Env>,
    standing: &Arc<RoomSnapshot>,
    ask: Ask,
    stored: Option<Arc<StoredEvent>>,
) -> Result<Arc<RoomSnapshot>, Failed> {
    if stored.as_ref().is_some_and(|event| event.room_nid != standing.nid) {
        return Err(DomainError::bad_json("the event belongs to another room").into());
    }
    let mut rows = Rows::default();
    set_stripped(&mut rows, standing.nid.0, &ask);
    let key = ask.pdu.key();
    let numbers = env.rooms.keys().intern(&key.into_iter().collect::<Vec<_>>()).await?;
    let first = env.ids.take(2).await?;
    let outside = receive::Outside {
        pdu: ask.pdu,
        known: stored.into_iter().collect(),
        keys: numbers,
        nids: first..first + 2,
        rows,
    };
    let plan = receive::outside(standing, env.server_name.clone(), outside)?;
    let positions = i64::from(plan.positions);
    match commit::commit(env, plan, Rows::default(), Vec::new(), positions).await {
        Ok((_, newer)) => Ok(newer.unwrap_or_else(|| standing.clone())),
        Err(error @ DomainError::Overloaded { .. }) => Err(Failed::Refused(error)),
        Err(error) => Err(Failed::InDoubt(error)),
    }
}

/// Forgets a room without state for a user whose invite or knock has ended.
///
/// # Errors
/// `M_UNKNOWN` for pending ones and where there never was one.
pub(super) async fn forget(env: &Arc<Env>, room_id: &RoomId, user: &UserId) -> Outcome<()> {
    let never = || DomainError::unknown(format!("you never were in {room_id}"));
    let room = env.store.room_by_id(room_id.as_str()).await?.ok_or_else(never)?;
    let row = env.store.membership(room.nid, user.as_str()).await?.ok_or_else(never)?;
    if !matches!(row.membership.as_str(), "leave" | "ban") {
        return Err(DomainError::unknown("leave the room before you forget it"));
    }
    let mut rows = Rows::default();
    rows.forgotten.push((room.nid, user.to_string()));
    let users: Arc<[OwnedUserId]> = Arc::from([user.to_owned()]);
    let publish = Box::new(move |pos| {
        let kind = FactKind::Forgotten {
            room_nid: RoomNid(room.nid),
        };
        vec![Fact { pos, users, kind }]
    });
    let submission = Submission {
        rows,
        positions: 1,
        publish,
    };
    env.journal.submit(submission).await.map(|_| ())
}

#[cfg(test)]
#[path = "outside_tests.rs"]
mod tests;
