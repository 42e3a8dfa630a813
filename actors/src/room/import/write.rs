//! Writing a room that was taken over: in pieces what nobody sees, then the room.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::StateGroupId;
use entities::store::rows::Rows;
use entities::{current_state, membership, partial_room, state_key};
use ruma::{OwnedUserId, UserId};

use super::{Failed, Made, Numbered};
use crate::cpu::Class;
use crate::error::{DomainError, Outcome};
use crate::room::commands::{Imported, PartialState};
use crate::room::library::Library;
use crate::room::members;
use crate::room::receive::{self, Arrival};
use crate::room::snapshot::{RoomSnapshot, StateKey};
use crate::room::state_group::{FullMap, NewGroup};

/// Rows of one transaction: the journal waits for it where there is one connection.
const ROWS_AT_ONCE: usize = 500;
/// Internal numbers of the join, of the groups before and after it, and of a hole.
pub(super) const NIDS: usize = 4;

/// The events and the state keys.
pub(super) async fn outliers(library: &impl Library, numbered: &Numbered) -> Outcome<()> {
    let keys: Vec<StateKey> = numbered.keys.iter().map(|(key, _)| key.clone()).collect();
    for chunk in numbered.keys.chunks(ROWS_AT_ONCE) {
        let row = |(key, nid): &(StateKey, i64)| state_key::Model {
            nid: *nid,
            r#type: key.0.to_string(),
            state_key: key.1.to_string(),
        };
        let rows = Rows {
            state_keys: chunk.iter().map(row).collect(),
            ..Rows::default()
        };
        library.import(rows).await?;
    }
    library.confirm(&keys);
    for chunk in numbered.outliers.chunks(ROWS_AT_ONCE) {
        let chunk = chunk.to_vec();
        let job = move || Rows {
            events: chunk.iter().map(|event| event.to_row()).collect(),
            ..Rows::default()
        };
        let rows = library.compute(Class::Plan, job).await?;
        library.import(rows).await?;
    }
    Ok(())
}

/// The state of a room without a head, but for the memberships of local users, which they would see.
pub(super) async fn state(library: &impl Library, room: &RoomSnapshot) -> Outcome<()> {
    let entries: Vec<_> = room.state.iter().collect();
    for chunk in entries.chunks(ROWS_AT_ONCE) {
        let mut rows = Rows::default();
        for (key, entry) in chunk {
            rows.current_state.push(current_state::Model {
                room_nid: room.nid.0,
                r#type: key.0.to_string(),
                state_key: key.1.to_string(),
                event_nid: entry.event.nid.0,
            });
            if let Some(user) = member(key).filter(|user| !library.is_local(user)) {
                rows.memberships.push(membership_row(room, &user, 0));
            }
        }
        library.import(rows).await?;
    }
    Ok(())
}

fn member(key: &StateKey) -> Option<OwnedUserId> {
    (&*key.0 == "m.room.member")
        .then(|| UserId::parse(&*key.1).ok())
        .flatten()
}

/// A user's membership by the room's state; the user must have an event there.
fn membership_row(room: &RoomSnapshot, user: &UserId, pos: i64) -> membership::Model {
    let event = room.state_event("m.room.member", user.as_str());
    membership::Model {
        room_nid: room.nid.0,
        user_id: user.to_string(),
        membership: room.membership(user),
        sender: event.map_or_else(String::new, |event| event.pdu.sender.to_string()),
        event_nid: event.map_or(0, |event| event.nid.0),
        pos,
        forgotten: false,
    }
}

/// Makes the room. `room` has the state before the join.
pub(super) async fn publish(
    library: &impl Library,
    standing: &Arc<RoomSnapshot>,
    mut room: RoomSnapshot,
    numbered: Numbered,
    partial: Option<PartialState>,
) -> Result<Made, Failed> {
    let Numbered { checked, mut nids, .. } = numbered;
    let (state, left_out) = (room.state.len(), checked.left_out);
    let rejoined = !standing.extremities.is_empty();
    let group = StateGroupId(nids.next().unwrap_or_default());
    let entries = room.state.clone();
    let full = move || {
        let map = FullMap::from_entries(entries.values().map(|entry| (entry.key_nid, entry.event.nid)));
        NewGroup::full(&map)
    };
    let full = library.compute(Class::Plan, full).await?;
    let full = full.map_err(|e| DomainError::internal(format!("state group: {e}")))?;
    (room.state_group, room.state_chain) = (group, full.chain);
    room.extremities = Arc::from([]);
    members::recount(&mut room, library.server());
    let join = checked.join;
    let mut rows = changes(library, standing, &room, &join.sender).await?;
    rows.state_groups.push(full.to_row(group, room.nid));
    rows.partial_rooms.extend(partial.map(|partial| partial_room::Model {
        room_nid: room.nid.0,
        event_id: join.event_id.to_string(),
        via: partial.via.to_string(),
        servers: serde_json::json!(partial.servers).to_string(),
        started_ts: library.now_ms(),
    }));
    let mut known = library.events_by_id(&join.prev_events).await?;
    known.extend(
        checked
            .stored
            .get(&join.event_id)
            .map(|event| (join.event_id.clone(), event.clone())),
    );
    let arrival = Arrival {
        keys: super::intern(library, &join.key().into_iter().collect::<Vec<_>>()).await?,
        known: known.into_values().filter(|event| event.room_nid == room.nid).collect(),
        join,
        nids,
        rejoined,
        rows,
    };
    let plan = receive::arrive(&room, library.server().clone(), arrival)?;
    match library.commit(plan).await {
        Ok((_, Some(room))) => {
            let pos = room.pos.0;
            let imported = Imported { pos, state, left_out };
            Ok(Made { room, imported })
        }
        Ok((_, None)) => Err(Failed::InDoubt(DomainError::internal(
            "an imported room was not published",
        ))),
        Err(error @ DomainError::Overloaded { .. }) => Err(Failed::Refused(error)),
        Err(error) => Err(Failed::InDoubt(error)),
    }
}

/// What changes with the room's new state and was not written before: everything where the room had another state, else the
/// memberships of local users. The join itself comes on top.
async fn changes(
    library: &impl Library,
    standing: &RoomSnapshot,
    room: &RoomSnapshot,
    joiner: &UserId,
) -> Outcome<Rows> {
    let mut rows = Rows::default();
    rows.stripped_states_removed.push((room.nid.0, joiner.to_string()));
    let mut users: HashMap<OwnedUserId, Option<membership::Model>> = HashMap::new();
    if standing.extremities.is_empty() {
        for row in library.memberships(room.nid).await? {
            let user = UserId::parse(row.user_id.as_str());
            users.extend(
                user.ok()
                    .filter(|user| library.is_local(user))
                    .map(|user| (user, Some(row))),
            );
        }
        for user in room
            .state
            .keys()
            .filter_map(member)
            .filter(|user| library.is_local(user))
        {
            users.entry(user).or_default();
        }
    } else {
        for key in changed(standing, room) {
            users.extend(member(&key).map(|user| (user, None)));
            let (kind, state_key) = (key.0.to_string(), key.1.to_string());
            match room.state.get(&key) {
                Some(entry) => rows.current_state.push(current_state::Model {
                    room_nid: room.nid.0,
                    r#type: kind,
                    state_key,
                    event_nid: entry.event.nid.0,
                }),
                None => rows.current_state_removed.push((room.nid.0, kind, state_key)),
            }
        }
    }
    for (user, before) in users {
        if user == joiner {
            continue;
        }
        let mut row = membership_row(room, &user, 0);
        let standing = standing.state_event("m.room.member", user.as_str());
        if row.event_nid == 0 {
            // The row keeps pointing at the event that was.
            let Some((sender, nid)) = before
                .as_ref()
                .map(|row| (row.sender.clone(), row.event_nid))
                .or_else(|| standing.map(|event| (event.pdu.sender.to_string(), event.nid.0)))
            else {
                continue;
            };
            (row.sender, row.event_nid) = (sender, nid);
        }
        let same = |old: &membership::Model| old.membership == row.membership && old.event_nid == row.event_nid;
        if before.as_ref().is_some_and(same) {
            continue;
        }
        if library.is_local(&user) {
            rows.stripped_states_removed.push((room.nid.0, user.to_string()));
        }
        rows.memberships.push(row);
    }
    Ok(rows)
}

/// The keys under which the room has another event than before.
fn changed(before: &RoomSnapshot, after: &RoomSnapshot) -> Vec<StateKey> {
    use imbl::ordmap::DiffItem::{Add, Remove, Update};
    let changes = before.state.diff(&after.state);
    changes
        .map(|change| match change {
            Add(key, _) | Remove(key, _) | Update { new: (key, _), .. } => key.clone(),
        })
        .collect()
}
