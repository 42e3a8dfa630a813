//! The room directory: aliases and published rooms (client-server API, "Room aliases" and "Listing rooms").

use std::collections::HashMap;
use std::sync::Arc;

use entities::error::StoreError;
use entities::ids::RoomNid;
use entities::room_alias;
use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, UserId};
use serde_json::{Map, Value};

use super::alias::{self, Target};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::auth::Power;
use crate::room::commands::Draft;
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;
use crate::room::summary::{Summary, TYPES};

/// Rooms that one search looks at together.
const CHUNK: usize = 200;
/// The most rooms on one page.
const MAX_PAGE: usize = 500;

/// Who asks for a change of the directory.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The local user.
    pub user: &'a UserId,
    /// Whether it may do everything.
    pub is_admin: bool,
}

/// The room of an alias, and the servers that are in it.
///
/// # Errors
/// As [`alias::resolve`].
pub async fn look_up(hub: &Hub, alias: &RoomAliasId) -> Outcome<(OwnedRoomId, Vec<OwnedServerName>)> {
    let Target { room_id, servers } = alias::resolve(hub, alias).await?;
    Ok((room_id, servers))
}

/// The servers in a room, this one first.
#[must_use]
pub fn servers(env: &Env, room: Option<&RoomSnapshot>) -> Vec<OwnedServerName> {
    let joined = room.map(|room| room.joined_servers.to_vec()).unwrap_or_default();
    let others = joined.into_iter().filter(|server| *server != env.server_name);
    std::iter::once(env.server_name.clone()).chain(others).collect()
}

/// Makes an alias. `members_only`: its room must be one that the user is in.
///
/// # Errors
/// `M_UNKNOWN` (409) if it is taken; `M_INVALID_PARAM` for aliases of other servers; `M_FORBIDDEN`; `M_NOT_FOUND`.
pub async fn make_alias(
    hub: &Hub,
    asker: Asker<'_>,
    alias: &RoomAliasId,
    room_id: &RoomId,
    members_only: bool,
) -> Outcome<()> {
    let env = hub.env();
    require_local(env, alias)?;
    if alias.as_str().len() > 255 {
        return Err(DomainError::invalid_param("the alias is longer than 255 bytes"));
    }
    let room = hub.rooms().view(room_id).await?;
    if members_only && !asker.is_admin && !room.as_ref().is_some_and(|room| room.is_joined(asker.user)) {
        return Err(DomainError::forbidden(
            "you are not in the room that the alias would lead to",
        ));
    }
    if room.is_none() {
        return Err(DomainError::not_found(format!("there is no room {room_id}")));
    }
    let row = room_alias::Model {
        alias: alias.to_string(),
        room_id: room_id.to_string(),
        creator: asker.user.to_string(),
    };
    match env.store.insert_alias(row).await {
        Err(StoreError::Duplicate(_)) => Err(DomainError::matrix(
            409,
            "M_UNKNOWN",
            format!("the room alias {alias} exists already"),
        )),
        result => Ok(result?),
    }
}

fn require_local(env: &Env, alias: &RoomAliasId) -> Outcome<()> {
    if alias.server_name() == env.server_name {
        return Ok(());
    }
    Err(DomainError::invalid_param(format!("{alias} belongs to another server")))
}

/// Deletes an alias: its maker, whoever may name the room, and administrators may. The room's canonical alias follows
/// where the user may change it.
///
/// # Errors
/// `M_NOT_FOUND`, `M_FORBIDDEN`.
pub async fn delete_alias(hub: &Hub, asker: Asker<'_>, alias: &RoomAliasId) -> Outcome<()> {
    let env = hub.env();
    require_local(env, alias)?;
    let missing = || DomainError::not_found(format!("there is no room alias {alias}"));
    let row = env.store.alias(alias.as_str()).await?.ok_or_else(missing)?;
    let room_id = RoomId::parse(&row.room_id).map_err(|e| DomainError::internal(format!("{alias}: {e}")))?;
    let room = hub.rooms().view(&room_id).await?;
    let may_name = room.as_ref().is_some_and(|room| may_name(room, asker.user));
    if !asker.is_admin && !may_name && row.creator != asker.user.as_str() {
        return Err(DomainError::forbidden(
            "you did not make this alias and may not name its room",
        ));
    }
    if !env.store.delete_alias(alias.as_str()).await? {
        return Err(missing());
    }
    if let Some(room) = room.filter(|_| may_name)
        && let Some(draft) = without_alias(&room, asker.user, alias)
        && let Err(error) = hub.rooms().send(&room_id, draft).await
    {
        tracing::info!(%error, %room_id, "a deleted alias is still the room's canonical one");
    }
    Ok(())
}

/// Whether the user is in the room and may set its canonical alias.
fn may_name(room: &RoomSnapshot, user: &UserId) -> bool {
    let state = |kind: &str, key: &str| room.state_event(kind, key).map(|event| event.pdu.clone());
    let power = Power::of(&room.rules, state);
    room.is_joined(user) && power.is_ok_and(|power| power.may_send(user, "m.room.canonical_alias", true))
}

/// The canonical alias without a deleted one, if it names it.
fn without_alias(room: &RoomSnapshot, user: &UserId, alias: &RoomAliasId) -> Option<Draft> {
    let event = room.state_event("m.room.canonical_alias", "")?;
    let mut content: Map<String, Value> = event.pdu.content_as().ok()?;
    let before = content.clone();
    if content.get("alias").and_then(Value::as_str) == Some(alias.as_str()) {
        content.remove("alias");
    }
    if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
        others.retain(|other| other.as_str() != Some(alias.as_str()));
    }
    let raw = serde_json::value::to_raw_value(&content).ok()?;
    (content != before).then(|| Draft::state(user.to_owned(), "m.room.canonical_alias", "", raw))
}

/// Lists a room in the directory, or takes it out: whoever may name it, and administrators may.
///
/// # Errors
/// `M_NOT_FOUND`, `M_FORBIDDEN`.
pub async fn publish(hub: &Hub, asker: Asker<'_>, room_id: &RoomId, listed: bool) -> Outcome<()> {
    let room = hub.rooms().existing(room_id).await?;
    if !asker.is_admin && !may_name(&room, asker.user) {
        return Err(DomainError::forbidden(
            "you may not change whether the directory lists this room",
        ));
    }
    Ok(hub.env().store.set_published(room_id.as_str(), listed).await?)
}

/// Which published rooms to list.
#[derive(Clone, Debug, Default)]
pub struct PublicQuery {
    /// How many; everything on one page (within reason) if not said.
    pub limit: Option<usize>,
    /// From which place on.
    pub since: Option<String>,
    /// What name, topic or alias must hold.
    pub term: Option<String>,
    /// Of which types; `None` in the list stands for rooms without one.
    pub types: Option<Vec<Option<String>>>,
}

/// A page of published rooms.
#[derive(Clone, Debug)]
pub struct PublicPage {
    /// Those with most members first.
    pub rooms: Vec<Summary>,
    /// The page before.
    pub prev_batch: Option<String>,
    /// The page after.
    pub next_batch: Option<String>,
    /// How many rooms are published.
    pub total: usize,
}

/// Lists published rooms.
///
/// # Errors
/// `M_INVALID_PARAM` for unknown tokens.
pub async fn public_rooms(env: &Env, query: &PublicQuery) -> Outcome<PublicPage> {
    let bad = |_| DomainError::invalid_param("unknown token");
    let start: usize = query.since.as_deref().map_or(Ok(0), str::parse).map_err(bad)?;
    let limit = query.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let ordered = by_members(env).await?;
    let term = query
        .term
        .as_deref()
        .map(str::to_lowercase)
        .filter(|term| !term.trim().is_empty());
    let wanted = |room: &Summary| {
        term.as_deref().is_none_or(|term| room.mentions(term.trim()))
            && query.types.as_ref().is_none_or(|types| types.contains(&room.room_type))
    };
    let mut rooms = Vec::new();
    let mut at = start.min(ordered.len());
    while at < ordered.len() && rooms.len() < limit {
        let chunk = &ordered[at..ordered.len().min(at + CHUNK.min(limit.max(20)))];
        for room in summaries(env, chunk).await? {
            if rooms.len() == limit {
                break;
            }
            at += 1;
            rooms.extend(room.filter(wanted));
        }
    }
    Ok(PublicPage {
        rooms,
        prev_batch: (start > 0).then(|| start.saturating_sub(limit).to_string()),
        next_batch: (at < ordered.len()).then(|| at.to_string()),
        total: ordered.len(),
    })
}

/// Published rooms that somebody is in, `(number, members)`.
async fn by_members(env: &Env) -> Outcome<Vec<(i64, u64)>> {
    let ids = env.store.published_rooms().await?;
    let nids: Vec<i64> = env
        .store
        .rooms_by_id(&ids)
        .await?
        .into_iter()
        .map(|room| room.nid)
        .collect();
    let counts = env.store.joined_counts(&nids).await?;
    let mut rooms: Vec<(i64, u64)> = counts
        .into_iter()
        .map(|(nid, count)| (nid, u64::try_from(count).unwrap_or(0)))
        .collect();
    rooms.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    Ok(rooms)
}

/// One for each room, in their order.
async fn summaries(env: &Env, rooms: &[(i64, u64)]) -> Outcome<Vec<Option<Summary>>> {
    let nids: Vec<i64> = rooms.iter().map(|(nid, _)| *nid).collect();
    let names = env
        .rooms
        .names(&nids.iter().map(|nid| RoomNid(*nid)).collect::<Vec<_>>())
        .await?;
    let rows = env.store.current_state_of_types(&nids, &TYPES).await?;
    let mut states: HashMap<RoomNid, HashMap<String, Arc<StoredEvent>>> = HashMap::new();
    for event in env.rooms.decode(rows).await? {
        states
            .entry(event.room_nid)
            .or_default()
            .insert(event.pdu.kind.to_string(), event);
    }
    let one = |(nid, joined): &(i64, u64)| {
        let name = names.get(&RoomNid(*nid))?;
        let state = states.get(&RoomNid(*nid));
        let find = |kind: &str| state.and_then(|state| state.get(kind)).cloned();
        Some(Summary::of(name.room_id.clone(), &name.version, *joined, find))
    };
    Ok(rooms.iter().map(one).collect())
}
