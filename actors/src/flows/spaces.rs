//! Previews of rooms and the tree of a space (client-server API, "Spaces" and `room_summary`). Of rooms that this server
//! is not in, those tell that their space names ([`remote`]).

mod remote;

use std::collections::HashSet;
use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::membership::is_allowed;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::acl;
use crate::room::event::StoredEvent;
use crate::room::membership::allowing_rooms;
use crate::room::snapshot::RoomSnapshot;
use crate::room::summary::Summary;
pub(super) use remote::guests_welcome;

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

/// Whether the users of another server may see what a room is about.
async fn server_may_preview(hub: &Hub, room: &RoomSnapshot, server: &ServerName) -> Outcome<bool> {
    if may_preview(hub, room, None).await? {
        return Ok(true);
    }
    let among = |room: &RoomSnapshot| {
        let mut members = room.state_of_kind("m.room.member");
        members.any(|event| {
            let of_server = event.pdu.state_user().map(UserId::server_name) == Some(server);
            of_server && (event.pdu.has_membership("join") || event.pdu.has_membership("invite"))
        })
    };
    if among(room) {
        return Ok(true);
    }
    for room_id in allowing_rooms(room).unwrap_or_default() {
        let allowing = hub.rooms().view(&room_id).await?;
        if allowing.is_some_and(|allowing| allowing.joined_servers.iter().any(|joined| joined == server)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A child of a space.
#[derive(Clone, Debug)]
struct Child {
    room_id: OwnedRoomId,
    suggested: bool,
    order: Option<String>,
    sent: i64,
    /// The servers to ask about it.
    via: Vec<OwnedServerName>,
    /// The event as it is shown.
    stripped: Value,
}

impl Child {
    /// `None` where the event names no server: then the room is no child any more.
    fn of(state_key: &str, sender: &str, sent: i64, content: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: Vec<String>,
            #[serde(default)]
            suggested: Value,
            #[serde(default)]
            order: Value,
        }
        let parsed: Content = serde_json::from_str(content.get()).ok()?;
        let valid_order = |order: &str| order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        let order = parsed.order.as_str().filter(|order| valid_order(order));
        let room_id = RoomId::parse(state_key).ok()?;
        (!parsed.via.is_empty()).then(|| Self {
            suggested: parsed.suggested.as_bool().unwrap_or(false),
            order: order.map(str::to_owned),
            sent,
            via: parsed
                .via
                .iter()
                .filter_map(|server| ServerName::parse(server).ok())
                .collect(),
            stripped: json!({
                "content": content,
                "origin_server_ts": sent,
                "sender": sender,
                "state_key": room_id,
                "type": "m.space.child",
            }),
            room_id,
        })
    }
}

/// Spec: "Ordering of children within a space".
fn in_order(mut children: Vec<Child>) -> Vec<Child> {
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

/// The children of a space; none of other rooms.
fn children(room: &RoomSnapshot) -> Vec<Child> {
    if Summary::of_room(room).room_type.as_deref() != Some("m.space") {
        return Vec::new();
    }
    let child = |event: &Arc<StoredEvent>| {
        let pdu = &event.pdu;
        let key = pdu.state_key.as_deref()?;
        Child::of(
            key,
            pdu.sender.as_str(),
            pdu.origin_server_ts.get().into(),
            &pdu.content,
        )
    };
    in_order(room.state_of_kind("m.space.child").filter_map(child).collect())
}

/// A room on a walk.
struct Node {
    /// What is shown of it.
    summary: Value,
    children: Vec<Child>,
}

/// A room as a user may see it: here, or else as other servers tell. `told` holds what they told on this walk.
async fn node(
    hub: &Hub,
    told: &mut remote::Told,
    room_id: &RoomId,
    via: &[OwnedServerName],
    walk: &Walk<'_>,
) -> Outcome<Option<Node>> {
    let env = hub.env();
    let user = walk.user;
    let here = hub.rooms().view(room_id).await?;
    if let Some(room) = here
        && (room.joined_servers.is_empty() || room.joined_servers.contains(&env.server_name))
    {
        return Ok(match walk.everything || may_preview(hub, &room, Some(user)).await? {
            true => Some(Node {
                summary: Summary::of_room(&room).with([])?,
                children: children(&room),
            }),
            false => None,
        });
    }
    if walk.everything {
        return Ok(None);
    }
    remote::node(hub, told, room_id, via, user).await
}

/// Which part of a space's tree to show.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    /// The space.
    pub root: &'a RoomId,
    /// Who asks.
    pub user: &'a UserId,
    /// Every room that this server is in, and no others: for administrators.
    pub everything: bool,
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
    let mut told = remote::Told::default();
    let via: Vec<_> = walk.root.server_name().map(ToOwned::to_owned).into_iter().collect();
    let root = node(hub, &mut told, walk.root, &via, walk).await?.ok_or_else(denied)?;
    let limit = walk.limit.clamp(1, MAX_PAGE);
    let max_depth = walk.max_depth.unwrap_or(MAX_DEPTH).min(MAX_DEPTH);
    let mut seen = HashSet::from([walk.root.to_owned()]);
    let mut waiting = vec![(root, 0)];
    let (mut place, mut shown) = (0, Vec::new());
    while let Some((mut room, depth)) = waiting.pop() {
        room.children.retain(|child| child.suggested || !walk.suggested_only);
        if place >= skip {
            if shown.len() == limit {
                return Ok((shown, Some(format!("{place}.{shape}"))));
            }
            shown.push(chunk(&room));
        }
        place += 1;
        if depth == max_depth || seen.len() >= MAX_VISITED {
            continue;
        }
        // A stack: the first child goes on top.
        for child in room.children.into_iter().rev() {
            if seen.len() >= MAX_VISITED || !seen.insert(child.room_id.clone()) {
                continue;
            }
            if let Some(room) = node(hub, &mut told, &child.room_id, &child.via, walk).await? {
                waiting.push((room, depth + 1));
            }
        }
    }
    Ok((shown, None))
}

fn chunk(room: &Node) -> Value {
    let mut summary = room.summary.clone();
    summary["children_state"] = room.children.iter().map(|child| child.stripped.clone()).collect();
    summary
}

/// A space and its children, as the users of another server may see them (server-server API, "Spaces").
///
/// # Errors
/// `M_NOT_FOUND`.
pub async fn for_server(hub: &Hub, server: &ServerName, room_id: &RoomId, suggested_only: bool) -> Outcome<Value> {
    let missing = || DomainError::not_found("there is no such room, or your users may not see it");
    let room = hub.rooms().view(room_id).await?.ok_or_else(missing)?;
    if !acl::allows(&room, server) || !server_may_preview(hub, &room, server).await? {
        return Err(missing());
    }
    let mut children = children(&room);
    children.retain(|child| child.suggested || !suggested_only);
    let (mut shown, mut inaccessible) = (Vec::new(), Vec::new());
    for child in children.iter().take(MAX_VISITED) {
        let Some(room) = hub.rooms().view(&child.room_id).await? else {
            continue;
        };
        if server_may_preview(hub, &room, server).await? {
            shown.push(Summary::of_room(&room).with([])?);
        } else {
            inaccessible.push(child.room_id.clone());
        }
    }
    let node = Node {
        summary: Summary::of_room(&room).with([])?,
        children,
    };
    Ok(json!({ "room": chunk(&node), "children": shown, "inaccessible_children": inaccessible }))
}

fn parse_token(token: &str, shape: &str) -> Outcome<usize> {
    let bad = || DomainError::invalid_param("unknown token, or one of another walk");
    let (place, of) = token.split_once('.').ok_or_else(bad)?;
    if of != shape {
        return Err(bad());
    }
    place.parse().map_err(|_| bad())
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
