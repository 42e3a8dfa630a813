//! The answers to other servers' questions about rooms.

use std::sync::Arc;

use ruma::{EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::chain::auth_chain;
use super::document::Document;
use super::history::{self, Gap};
use super::{access, sight, state};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::{Pdu, StoredEvent};
use crate::room::snapshot::RoomSnapshot;

/// Events that one request may name.
const MAX_NAMED: usize = 1_000;
/// State events of a room whose complexity is 1.
const COMPLEX: f64 = 500.0;

fn json_of(events: &[Arc<StoredEvent>]) -> impl Iterator<Item = Arc<str>> + use<'_> {
    events.iter().map(|event| event.pdu.json.clone())
}

fn ids_of(events: &[Arc<StoredEvent>]) -> Vec<&EventId> {
    events.iter().map(|event| event.event_id()).collect()
}

/// A transaction with these events.
fn transaction(env: &Env, pdus: Vec<Arc<str>>) -> Outcome<Document> {
    let document = Document::new()
        .with("origin", &env.server_name)?
        .with("origin_server_ts", &env.clock.now_ms())?;
    Ok(document.with_list("pdus", pdus))
}

/// `/event`: one event, redacted if the server may not see it.
///
/// # Errors
/// 404 `M_NOT_FOUND`; 403 `M_FORBIDDEN` when the server is not in the event's room.
pub async fn event(env: &Env, server: &ServerName, event_id: &EventId) -> Outcome<Document> {
    let missing = || DomainError::not_found(format!("there is no event {event_id}"));
    let event = env.rooms.event_by_id(event_id).await?.ok_or_else(missing)?;
    let room = access::shared(env, &event.pdu.room_id, server).await?;
    let event = access::event(env, &room, event_id).await?;
    transaction(env, sight::texts(env, &room, server, vec![event]).await?)
}

/// `/state`: the state before an event and its auth chain.
///
/// # Errors
/// 404 `M_NOT_FOUND`, 403 `M_FORBIDDEN`; `Overloaded` when too many ask.
pub async fn state(env: &Env, server: &ServerName, room_id: &RoomId, event_id: &EventId) -> Outcome<Document> {
    let room = access::shared_complete(env, room_id, server).await?;
    let _turn = env.exports.turn().await?;
    let pdus = state::before(env, &room, event_id).await?;
    let chain = auth_chain(env, &room, &pdus).await?;
    let document = Document::new()
        .with_list("auth_chain", json_of(&chain))
        .with_list("pdus", json_of(&pdus));
    document.with("room_version", &room.version)
}

/// `/state_ids`: the same in ids.
///
/// # Errors
/// As [`state`].
pub async fn state_ids(env: &Env, server: &ServerName, room_id: &RoomId, event_id: &EventId) -> Outcome<Document> {
    let room = access::shared_complete(env, room_id, server).await?;
    let _turn = env.exports.turn().await?;
    let pdus = state::before(env, &room, event_id).await?;
    let chain = auth_chain(env, &room, &pdus).await?;
    Document::new()
        .with("auth_chain_ids", &ids_of(&chain))?
        .with("pdu_ids", &ids_of(&pdus))
}

/// `/event_auth`: an event's auth chain.
///
/// # Errors
/// 404 `M_NOT_FOUND`, 403 `M_FORBIDDEN`; `Overloaded` when too many ask.
pub async fn event_auth(env: &Env, server: &ServerName, room_id: &RoomId, event_id: &EventId) -> Outcome<Document> {
    let room = access::shared(env, room_id, server).await?;
    let event = access::event(env, &room, event_id).await?;
    let _turn = env.exports.turn().await?;
    let chain = auth_chain(env, &room, &[event]).await?;
    Ok(Document::new().with_list("auth_chain", json_of(&chain)))
}

/// The auth chain of the room's current state.
///
/// # Errors
/// 404 `M_NOT_FOUND` where the server may not look.
pub async fn room_auth(env: &Env, server: &ServerName, room_id: &RoomId) -> Outcome<Document> {
    let room = access::viewable(env, room_id, server).await?;
    let _turn = env.exports.turn().await?;
    let current: Vec<_> = room.state.values().map(|entry| entry.event.clone()).collect();
    let chain = auth_chain(env, &room, &current).await?;
    let document = Document::new().with("room_id", &room.room_id)?;
    Ok(document.with_list("auth_chain", json_of(&chain)))
}

/// `/backfill`: the given events and those before them.
///
/// # Errors
/// 404 `M_NOT_FOUND`, 403 `M_FORBIDDEN`, 400 `M_INVALID_PARAM`.
pub async fn backfill(
    env: &Env,
    server: &ServerName,
    room_id: &RoomId,
    from: &[OwnedEventId],
    limit: usize,
) -> Outcome<Document> {
    check_named(from.len())?;
    let room = access::shared(env, room_id, server).await?;
    let events = history::backfill(env, &room, from, limit).await?;
    transaction(env, sight::texts(env, &room, server, events).await?)
}

/// `/get_missing_events`.
///
/// # Errors
/// As [`backfill`].
pub async fn missing(env: &Env, server: &ServerName, room_id: &RoomId, gap: &Gap<'_>) -> Outcome<Document> {
    check_named(gap.earliest.len() + gap.latest.len())?;
    let room = access::shared(env, room_id, server).await?;
    let events = history::missing(env, &room, gap).await?;
    let texts = sight::texts(env, &room, server, events).await?;
    Ok(Document::new().with_list("events", texts))
}

fn check_named(named: usize) -> Outcome<()> {
    if named > MAX_NAMED {
        let message = format!("at most {MAX_NAMED} events can be named");
        return Err(DomainError::invalid_param(message));
    }
    Ok(())
}

/// `/timestamp_to_event`: the event closest to a time in one direction.
///
/// # Errors
/// 404 `M_NOT_FOUND`, 403 `M_FORBIDDEN`.
pub async fn near(
    env: &Env,
    server: &ServerName,
    room_id: &RoomId,
    ts: MilliSecondsSinceUnixEpoch,
    backwards: bool,
) -> Outcome<Value> {
    let visible = env.visible();
    let room = access::shared(env, room_id, server).await?;
    let ts = i64::from(ts.get());
    let row = env.store.event_near_ts(room.nid.0, ts, backwards, visible.0).await?;
    let missing = || DomainError::not_found(format!("there is no event on that side of {ts}"));
    let row = row.ok_or_else(missing)?;
    Ok(json!({ "event_id": row.event_id, "origin_server_ts": row.origin_server_ts }))
}

/// The events that a new event would follow (MSC4370).
///
/// # Errors
/// 404 `M_NOT_FOUND`, 403 `M_FORBIDDEN`.
pub async fn extremities(env: &Env, server: &ServerName, room_id: &RoomId) -> Outcome<Value> {
    let room = access::shared(env, room_id, server).await?;
    let parents = room.extremities.iter().map(|extremity| &extremity.event_id);
    Ok(json!({ "prev_events": parents.collect::<Vec<_>>() }))
}

/// How much there is to a room, before others join it (MSC1866).
///
/// # Errors
/// 404 `M_NOT_FOUND` for rooms that not everybody may join or read, unless the server is in them.
pub async fn complexity(env: &Env, server: &ServerName, room_id: &RoomId) -> Outcome<Value> {
    let hosted = access::hosted(env, room_id, server).await;
    let room = match hosted {
        Ok(room) if crate::room::membership::join_rule(&room) == "public" => room,
        _ => access::viewable(env, room_id, server).await?,
    };
    let entries = u32::try_from(room.state.len()).unwrap_or(u32::MAX);
    let complexity = (f64::from(entries) / COMPLEX * 100.0).round() / 100.0;
    Ok(json!({ "v1": complexity }))
}

/// Who is joined. `profiles`: with what their member events show.
///
/// # Errors
/// 404 `M_NOT_FOUND` where the server may not look.
pub async fn members(env: &Env, server: &ServerName, room_id: &RoomId, profiles: bool) -> Outcome<Value> {
    #[derive(Deserialize)]
    struct Content {
        displayname: Option<String>,
        avatar_url: Option<String>,
    }
    let room = access::viewable(env, room_id, server).await?;
    let joined: Vec<&Arc<StoredEvent>> = room
        .state_of_kind("m.room.member")
        .filter(|event| event.pdu.has_membership("join"))
        .collect();
    if profiles {
        let shown = |event: &&Arc<StoredEvent>| {
            let content: Option<Content> = event.pdu.content_as().ok();
            let (name, avatar) = content.map_or((None, None), |content| (content.displayname, content.avatar_url));
            json!({ "user_id": event.pdu.state_key, "display_name": name, "avatar_url": avatar })
        };
        let joined: Vec<Value> = joined.iter().map(shown).collect();
        return Ok(json!({ "room_id": room.room_id, "joined": joined }));
    }
    let users: Vec<_> = joined.iter().map(|event| event.pdu.state_key.as_deref()).collect();
    Ok(json!({
        "room_id": room.room_id,
        "joined": users,
        "members": users,
        "offset": 0,
        "total": users.len(),
    }))
}

/// The room's join rule.
///
/// # Errors
/// 404 `M_NOT_FOUND` where the server may not look.
pub async fn join_rules(env: &Env, server: &ServerName, room_id: &RoomId) -> Outcome<Value> {
    let room = access::viewable(env, room_id, server).await?;
    let content = room
        .state_event("m.room.join_rules", "")
        .and_then(|event| event.pdu.content_as::<Value>().ok());
    let allow = content.as_ref().and_then(|content| content.get("allow")?.as_array());
    Ok(json!({
        "room_id": room.room_id,
        "join_rule": crate::room::membership::join_rule(&room),
        "allow": allow.cloned().unwrap_or_default(),
    }))
}

/// One event of a room that the server may see.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub async fn room_event(env: &Env, server: &ServerName, room_id: &RoomId, event_id: &EventId) -> Outcome<Value> {
    let room = access::viewable(env, room_id, server).await?;
    let event = access::event(env, &room, event_id).await?;
    let seen = sight::seen(env, &room, server, std::slice::from_ref(&event)).await?;
    if seen != [true] {
        return Err(DomainError::not_found(format!(
            "there is no event {event_id} in {room_id}"
        )));
    }
    with_id(&room, &event.pdu)
}

/// The event as stored, with the id that later room versions leave out.
fn with_id(room: &RoomSnapshot, pdu: &Pdu) -> Outcome<Value> {
    let broken = |e| DomainError::internal(format!("{}: {e}", pdu.event_id));
    let mut value: Value = serde_json::from_str(&pdu.json).map_err(broken)?;
    value["event_id"] = json!(pdu.event_id);
    value["room_id"] = json!(room.room_id);
    Ok(value)
}
