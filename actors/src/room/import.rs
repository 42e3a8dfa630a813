//! A room as another server has it: taken over with the join of a local user.
//!
//! Spec: server-server API, "Joining Rooms". Nothing is believed: every event of the given state and of its auth chain must
//! pass by its own auth events, and the join by the state that is left ([`check`]). The many rows are written in pieces where
//! no reader sees them ([`write`]): outliers without positions, the state of a room that has no head. One small submission
//! then makes the room.

mod check;
mod write;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use entities::ids::{EventNid, RoomNid};
use entities::room;
use ruma::{OwnedEventId, RoomVersionId};

use super::commands::{Import, Imported};
use super::event::{Status, StoredEvent};
use super::library::{Library, Numbers};
use super::snapshot::{RoomSnapshot, StateEntry, StateKey};
use super::{plan, rules};
use crate::cpu::Class;
use crate::error::{DomainError, Outcome};
use check::{Checked, Given};

/// Ids that are looked up with one statement.
const IDS_AT_ONCE: usize = 5_000;

/// What an import made, and the room with it.
pub(super) struct Made {
    pub room: Arc<RoomSnapshot>,
    pub imported: Imported,
}

/// Why there is no room.
pub(super) enum Failed {
    /// Nothing that readers see has changed.
    Refused(DomainError),
    /// What is stored may differ from the snapshot.
    InDoubt(DomainError),
}

impl From<DomainError> for Failed {
    fn from(error: DomainError) -> Self {
        Self::Refused(error)
    }
}

impl From<entities::error::StoreError> for Failed {
    fn from(error: entities::error::StoreError) -> Self {
        Self::Refused(error.into())
    }
}

/// The given state is none: the other server's fault.
fn bad_state(reason: impl Into<String>) -> DomainError {
    DomainError::matrix(502, "M_BAD_STATE", reason)
}

/// Takes a room over. `standing`: the room as it is; empty if there is none.
pub(super) async fn import(
    library: &impl Library,
    standing: &Arc<RoomSnapshot>,
    import: Import,
) -> Result<Made, Failed> {
    let version = RoomVersionId::try_from(import.version.as_str());
    let known = rules::rules_of(&import.version).zip(version.ok());
    let unknown = || DomainError::unsupported_room_version(format!("room version {}", import.version));
    let (rules, version) = known.ok_or_else(unknown)?;
    if let Some(made) = already(standing, &import)? {
        return Ok(made);
    }
    if !standing.extremities.is_empty() && standing.version != version {
        return Err(bad_state("the room is of another version").into());
    }
    let row = library.room_row(&standing.room_id).await?;
    let wanted = import.events.iter().chain([&import.join]).map(|event| &event.event_id);
    let wanted: HashSet<&OwnedEventId> = wanted.chain(&import.state).collect();
    let (stored, elsewhere) = stored(library, row.as_ref().map(|row| row.nid), wanted).await?;
    let partial = import.partial;
    let given = Given {
        room_id: standing.room_id.clone(),
        version: version.clone(),
        rules: rules.clone(),
        server: library.server().clone(),
        state: import.state,
        events: import.events,
        join: import.join,
        stored,
        elsewhere,
    };
    let checked = library.compute(Class::StateRes, move || check::check(given)).await??;
    let nid = match &row {
        Some(row) => row.nid,
        None => library.take_nids(1).await?,
    };
    let row = room::Model {
        nid,
        room_id: standing.room_id.to_string(),
        version: import.version,
        creator: checked.creator(),
        created_ts: row.map_or_else(|| library.now_ms(), |row| row.created_ts),
    };
    let is_new = standing.extremities.is_empty();
    let mut room = (**standing).clone();
    if is_new {
        room = plan::empty_room(RoomNid(nid), standing.room_id.clone(), version, rules);
        library.begin_import(&row).await?;
    }
    let (room, numbered) = number(library, room, checked).await?;
    write::outliers(library, &numbered).await?;
    if is_new {
        write::state(library, &room).await?;
    }
    write::publish(library, standing, room, numbered, partial).await
}

/// The answer to an import that was made before; an error if local users are in the room by another way.
fn already(standing: &Arc<RoomSnapshot>, import: &Import) -> Outcome<Option<Made>> {
    if standing.local_joined.is_empty() {
        return Ok(None);
    }
    let mut members = standing.state_of_kind("m.room.member");
    if !members.any(|event| event.pdu.event_id == import.join.event_id) {
        return Err(DomainError::conflict("local users are in the room already"));
    }
    let imported = Imported {
        pos: standing.pos.0,
        state: standing.state.len(),
        left_out: 0,
    };
    let room = standing.clone();
    Ok(Some(Made { room, imported }))
}

type Stored = HashMap<OwnedEventId, Arc<StoredEvent>>;

/// Those events that are stored already, and the ids of those that other rooms have.
async fn stored(
    library: &impl Library,
    room: Option<i64>,
    wanted: HashSet<&OwnedEventId>,
) -> Outcome<(Stored, HashSet<OwnedEventId>)> {
    let wanted: Vec<&str> = wanted.into_iter().map(|id| id.as_str()).collect();
    let (mut here, mut elsewhere) = (Vec::new(), HashSet::new());
    for ids in wanted.chunks(IDS_AT_ONCE) {
        for row in library.stored(ids).await? {
            if Some(row.room_nid) == room {
                here.push(EventNid(row.nid));
            } else {
                elsewhere.extend(OwnedEventId::try_from(row.event_id));
            }
        }
    }
    let mut stored = Stored::with_capacity(here.len());
    for nids in here.chunks(IDS_AT_ONCE) {
        let events = library.events(nids).await?;
        stored.extend(events.into_values().map(|event| (event.pdu.event_id.clone(), event)));
    }
    Ok((stored, elsewhere))
}

/// A room's events with their numbers.
struct Numbered {
    /// New events.
    outliers: Vec<Arc<StoredEvent>>,
    /// State keys whose numbers are to be written, by number.
    keys: Vec<(StateKey, i64)>,
    checked: Checked,
    /// For the join, the groups before and after it, and a hole.
    nids: std::ops::Range<i64>,
}

/// Gives everything that is new a number, auth events before what they authorize, and the room its state.
async fn number(library: &impl Library, mut room: RoomSnapshot, checked: Checked) -> Outcome<(RoomSnapshot, Numbered)> {
    let count = checked.new.len();
    let first = library.take_nids(count + write::NIDS).await?;
    let outlier = |(pdu, nid): (&Arc<super::event::Pdu>, i64)| {
        Arc::new(StoredEvent {
            nid: EventNid(nid),
            room_nid: room.nid,
            pos: None,
            state_group: None,
            status: if pdu.rejected {
                Status::Rejected
            } else {
                Status::Outlier
            },
            redacted_by: None,
            txn: None,
            unsigned: None,
            pdu: pdu.clone(),
        })
    };
    let outliers: Vec<Arc<StoredEvent>> = checked.new.iter().zip(first..).map(outlier).collect();
    let new: HashMap<&OwnedEventId, &Arc<StoredEvent>> =
        outliers.iter().map(|event| (&event.pdu.event_id, event)).collect();
    let mut keys: Vec<StateKey> = checked.state.keys().cloned().collect();
    keys.extend(checked.join.key());
    let numbers = intern(library, &keys).await?;
    let mut state = imbl::OrdMap::new();
    for (key, id) in &checked.state {
        let event = new.get(id).copied().or_else(|| checked.stored.get(id));
        let missing = || DomainError::internal(format!("{id} was checked and is not there"));
        let entry = StateEntry {
            key_nid: numbers.get(key).ok_or_else(missing)?.0,
            event: event.ok_or_else(missing)?.clone(),
        };
        state.insert(key.clone(), entry);
    }
    room.state = state;
    let fresh = numbers.into_iter().filter(|(_, (_, stored))| !stored);
    let mut fresh: Vec<(StateKey, i64)> = fresh.map(|(key, (nid, _))| (key, nid.0)).collect();
    // Whoever writes the same numbers at the same time takes them in the same order.
    fresh.sort_by_key(|(_, nid)| *nid);
    let begin = first + i64::try_from(count).unwrap_or(i64::MAX);
    let numbered = Numbered {
        outliers,
        keys: fresh,
        checked,
        nids: begin..begin + i64::try_from(write::NIDS).unwrap_or_default(),
    };
    Ok((room, numbered))
}

async fn intern(library: &impl Library, keys: &[StateKey]) -> Outcome<Numbers> {
    let mut numbers = Numbers::with_capacity(keys.len());
    for keys in keys.chunks(IDS_AT_ONCE) {
        numbers.extend(library.intern(keys).await?);
    }
    Ok(numbers)
}

#[cfg(test)]
#[path = "import_tests.rs"]
pub(super) mod tests;
