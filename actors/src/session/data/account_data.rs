//! Account data, tags and the fully-read marker (client-server API, "Client Config", "Room Tagging", "Fully read markers").

use std::sync::Arc;

use ruma::{EventId, RoomId};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::commit;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::session::friends::{self, data::FRIENDS};
use crate::session::load::ignored_users;
use crate::session::quota::DELETED;
use crate::session::view::UserView;

const FULLY_READ: &str = "m.fully_read";
pub(super) const PUSH_RULES: &str = "m.push_rules";
const IGNORED: &str = "m.ignored_user_list";
const TAGS: &str = "m.tag";
/// Bytes of a type or a tag.
const MAX_NAME: usize = 255;
/// Tags of one room.
const MAX_TAGS: usize = 1_000;

/// Sets an entry that the server does not keep itself.
pub(super) async fn set(
    env: &Env,
    view: &UserView,
    room_id: Option<&RoomId>,
    kind: &str,
    content: &RawValue,
) -> Outcome<Option<UserView>> {
    if matches!(kind, FULLY_READ | PUSH_RULES | FRIENDS) {
        let message = format!("Cannot set {kind} through this API.");
        return Err(DomainError::matrix(405, "M_BAD_JSON", message));
    }
    check_name(kind)?;
    let object: Map<String, Value> = serde_json::from_str(content.get())
        .map_err(|error| DomainError::bad_json(format!("the content must be a JSON object: {error}")))?;
    let empty = object.is_empty();
    let old = stored(env, view, room_id, kind).await?;
    if empty && old.is_none() {
        return Ok(None);
    }
    // Deletion leaves `{}` behind, so that other devices learn of it from their next sync.
    let text = if empty { DELETED } else { content.get() };
    let changed = (kind == IGNORED && room_id.is_none()).then(|| UserView {
        ignored: Arc::new(ignored_users(text)),
        ..view.clone()
    });
    let place = (room_id, kind);
    commit(env, view, place, old.as_deref(), text.to_owned(), changed.as_ref()).await?;
    if let Some(changed) = &changed {
        env.unread.forget(&view.user_id);
        friends::refresh(env, changed).await?;
    }
    Ok(changed)
}

fn check_name(name: &str) -> Outcome<()> {
    match name.len() {
        1..=MAX_NAME => Ok(()),
        _ => Err(DomainError::invalid_param("types and tags have 1 to 255 bytes")),
    }
}

pub(super) async fn stored(
    env: &Env,
    view: &UserView,
    room_id: Option<&RoomId>,
    kind: &str,
) -> Outcome<Option<String>> {
    let room_id = room_id.map_or("", RoomId::as_str);
    let row = env.store.account_data_one(view.user_id.as_str(), room_id, kind).await?;
    Ok(row.map(|row| row.content))
}

/// Sets or removes one tag.
pub(super) async fn set_tag(
    env: &Env,
    view: &UserView,
    room_id: &RoomId,
    tag: String,
    info: Option<&RawValue>,
) -> Outcome<()> {
    check_name(&tag)?;
    let old = stored(env, view, Some(room_id), TAGS).await?;
    let parsed = old.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let mut content: Map<String, Value> = parsed.unwrap_or_default();
    let mut tags = match content.remove("tags") {
        Some(Value::Object(tags)) => tags,
        _ => Map::new(),
    };
    match info {
        Some(info) => {
            let info: Map<String, Value> = serde_json::from_str(info.get())
                .map_err(|error| DomainError::bad_json(format!("a tag is a JSON object: {error}")))?;
            if tags.len() >= MAX_TAGS && !tags.contains_key(&tag) {
                return Err(DomainError::too_large("the room has too many tags"));
            }
            tags.insert(tag, info.into());
        }
        None if tags.remove(&tag).is_none() => return Ok(()),
        None => {}
    }
    content.insert("tags".to_owned(), tags.into());
    let text = Value::Object(content).to_string();
    commit(env, view, (Some(room_id), TAGS), old.as_deref(), text, None).await
}

/// Moves the marker unless it would move backwards.
pub(super) async fn move_fully_read(env: &Env, view: &UserView, room_id: &RoomId, event_id: &EventId) -> Outcome<()> {
    let room = env.rooms.view(room_id).await?;
    let room = room
        .filter(|room| room.is_joined(&view.user_id))
        .ok_or_else(|| DomainError::forbidden("you are not in this room"))?;
    let place = async |id: &EventId| {
        let event = env.rooms.event_by_id(id).await?;
        Ok::<_, DomainError>(
            event
                .filter(|event| event.room_nid == room.nid)
                .and_then(|event| event.pos),
        )
    };
    let Some(target) = place(event_id).await? else {
        return Err(DomainError::not_found("the room has no such event"));
    };
    let old = stored(env, view, Some(room_id), FULLY_READ).await?;
    let marker = old.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let marker = marker.and_then(|content| EventId::parse(content["event_id"].as_str()?).ok());
    if let Some(marker) = marker
        && place(&marker).await?.is_some_and(|standing| standing >= target)
    {
        return Ok(());
    }
    let text = json!({ "event_id": event_id }).to_string();
    commit(env, view, (Some(room_id), FULLY_READ), old.as_deref(), text, None).await
}
