//! Previews of rooms and the tree of a space (client-server API, "Spaces" and `room_summary`). Rooms of other servers
//! that this one is not in are left out.

use std::collections::HashSet;
use std::sync::Arc;

use ruma::{OwnedRoomId, RoomId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::membership::is_allowed;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::event::StoredEvent;
use crate::room::membership::allowing_rooms;
use crate::room::snapshot::RoomSnapshot;
use crate::room::summary::Summary;

/// Rooms that one walk visits at most.
const MAX_VISITED: usize = 2_000;
/// The most rooms of one page.
const MAX_PAGE: usize = 100;
/// How deep a walk goes at most.
const MAX_DEPTH: usize = 20;

/// Whether somebody may see what a room is about.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn may_preview(hub: &Hub, room: &RoomSnapshot, user: Option<&UserId>) -> Outcome<bool> {
    let summary = Summary::of_room(room);
    let open = match summary.join_rule.as_str() {
        "public" => true,
        "knock" => room.rules.authorization.knocking,
        "knock_restricted" => room.rules.authorization.knock_restricted_join_rule,
        _ => false,
    };
    if open || summary.world_readable {
        return Ok(true);
    }
    let Some(user) = user else { return Ok(false) };
    if matches!(room.membership(user).as_str(), "join" | "invite" | "knock") {
        return Ok(true);
    }
    if room.membership(user) == "ban" || allowing_rooms(room).is_none() {
        return Ok(false);
    }
    is_allowed(hub, room, user).await
}

/// The children of a space, in their order.
#[derive(Debug)]
struct Child {
    room_id: OwnedRoomId,
    suggested: bool,
    order: Option<String>,
    sent: i64,
    event: Arc<StoredEvent>,
}

/// Spec: "Ordering of children within a space".
fn children(room: &RoomSnapshot) -> Vec<Child> {
    #[derive(Deserialize)]
    struct Content {
        via: Vec<String>,
        #[serde(default)]
        suggested: Value,
        #[serde(default)]
        order: Value,
    }
    let valid_order = |order: &str| order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    let child = |event: &Arc<StoredEvent>| {
        let content: Content = event.pdu.content_as().ok()?;
        let room_id = RoomId::parse(event.pdu.state_key.as_deref()?).ok()?;
        (!content.via.is_empty()).then(|| Child {
            room_id,
            suggested: content.suggested.as_bool().unwrap_or(false),
            order: content
                .order
                .as_str()
                .filter(|order| valid_order(order))
                .map(str::to_owned),
            sent: event.pdu.origin_server_ts.get().into(),
            event: event.clone(),
        })
    };
    let mut children: Vec<Child> = room.state_of_kind("m.space.child").filter_map(child).collect();
    children.sort_by(|a, b| {
        let key = |child: &Child| {
            (
                child.order.is_none(),
                child.order.clone(),
                child.sent,
                child.room_id.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    children
}

/// Which part of a space's tree to show.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    /// The space.
    pub root: &'a RoomId,
    /// Who asks.
    pub user: &'a UserId,
    /// Only suggested children.
    pub suggested_only: bool,
    /// How deep.
    pub max_depth: Option<usize>,
    /// How many rooms.
    pub limit: usize,
    /// From which place on.
    pub from: Option<&'a str>,
}

/// A page of the rooms of a space, depth first, and where the next one begins.
///
/// # Errors
/// `M_FORBIDDEN` for spaces that the user may not see; `M_INVALID_PARAM` for unknown tokens.
pub async fn walk(hub: &Hub, walk: &Walk<'_>) -> Outcome<(Vec<Value>, Option<String>)> {
    // A token belongs to the walk it came from.
    let shape = format!(
        "{}.{}",
        walk.max_depth.map_or(-1, |depth| i64::try_from(depth).unwrap_or(0)),
        walk.suggested_only
    );
    let skip = match walk.from {
        Some(token) => parse_token(token, &shape)?,
        None => 0,
    };
    let denied = || DomainError::forbidden(format!("you may not see {}", walk.root));
    let root = hub.rooms().view(walk.root).await?.ok_or_else(denied)?;
    if !may_preview(hub, &root, Some(walk.user)).await? {
        return Err(denied());
    }
    let limit = walk.limit.clamp(1, MAX_PAGE);
    let max_depth = walk.max_depth.unwrap_or(MAX_DEPTH).min(MAX_DEPTH);
    let mut seen = HashSet::from([root.room_id.clone()]);
    let mut waiting = vec![(root, 0)];
    let (mut place, mut shown) = (0, Vec::new());
    while let Some((room, depth)) = waiting.pop() {
        let is_space = Summary::of_room(&room).room_type.as_deref() == Some("m.space");
        let mut children = if is_space { children(&room) } else { Vec::new() };
        children.retain(|child| child.suggested || !walk.suggested_only);
        if place >= skip {
            if shown.len() == limit {
                return Ok((shown, Some(format!("{place}.{shape}"))));
            }
            shown.push(chunk(&room, &children)?);
        }
        place += 1;
        if depth == max_depth || seen.len() >= MAX_VISITED {
            continue;
        }
        // A stack: the first child goes on top.
        for child in children.into_iter().rev() {
            if seen.len() >= MAX_VISITED || !seen.insert(child.room_id.clone()) {
                continue;
            }
            if let Some(room) = hub.rooms().view(&child.room_id).await?
                && may_preview(hub, &room, Some(walk.user)).await?
            {
                waiting.push((room, depth + 1));
            }
        }
    }
    Ok((shown, None))
}

fn parse_token(token: &str, shape: &str) -> Outcome<usize> {
    let bad = || DomainError::invalid_param("unknown token, or one of another walk");
    let (place, of) = token.split_once('.').ok_or_else(bad)?;
    if of != shape {
        return Err(bad());
    }
    place.parse().map_err(|_| bad())
}

fn chunk(room: &RoomSnapshot, children: &[Child]) -> Outcome<Value> {
    let stripped = |child: &Child| {
        let pdu = &child.event.pdu;
        let content: &RawValue = &pdu.content;
        json!({
            "content": content,
            "origin_server_ts": child.sent,
            "sender": pdu.sender,
            "state_key": child.room_id,
            "type": "m.space.child",
        })
    };
    let children: Vec<Value> = children.iter().map(stripped).collect();
    Summary::of_room(room).with([("children_state", children.into())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_walk() {
        assert_eq!(parse_token("12.-1.false", "-1.false").ok(), Some(12));
        for (token, shape) in [
            ("12.1.false", "-1.false"),
            ("12", "-1.false"),
            ("x.-1.true", "-1.true"),
            ("", ""),
        ] {
            assert!(parse_token(token, shape).is_err(), "{token}");
        }
    }
}
