//! Rooms that this server is not in, as other servers tell of them (server-server API, "Spaces").

use std::collections::HashMap;
use std::time::Duration;

use ruma::api::federation::space::SpaceHierarchyParentSummary;
use ruma::api::federation::space::get_hierarchy;
use ruma::room::RoomSummary;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, UserId};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{Child, Node, in_order};
use crate::error::Outcome;
use crate::hub::Hub;
use crate::peer::handle::Pace;

/// Servers that are asked about one room.
const SERVERS: usize = 3;
/// Rooms that are asked about on one walk.
const ASKED: usize = 50;
/// How long one server is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Children of one space.
const MAX_CHILDREN: usize = 1_000;

/// What other servers told on one walk.
#[derive(Default)]
pub(super) struct Told {
    /// Rooms without children, from the answer about their space.
    leaves: HashMap<OwnedRoomId, Value>,
    asked: usize,
}

/// The room, if somebody tells of it and the user may see it.
pub(super) async fn node(
    hub: &Hub,
    told: &mut Told,
    room_id: &RoomId,
    via: &[OwnedServerName],
    user: &UserId,
) -> Outcome<Option<Node>> {
    let node = match told.leaves.remove(room_id) {
        Some(summary) => Some(Node {
            summary,
            children: Vec::new(),
        }),
        None => ask(hub, told, room_id, via).await,
    };
    match node {
        Some(node) if may_see(hub, &node.summary, user).await? => Ok(Some(node)),
        _ => Ok(None),
    }
}

/// Whether the first server that tells of the room says that guests may join it.
pub(in crate::flows) async fn guests_welcome(hub: &Hub, room_id: &RoomId, via: &[OwnedServerName]) -> bool {
    for server in via.iter().take(SERVERS) {
        let request = get_hierarchy::v1::Request::new(room_id.to_owned());
        let answer = timeout(PATIENCE, hub.peers().call(server, request, Pace::Now)).await;
        if let Ok(Ok(answer)) = answer
            && answer.room.summary.room_id == *room_id
        {
            return answer.room.summary.guest_can_join;
        }
    }
    false
}

async fn ask(hub: &Hub, told: &mut Told, room_id: &RoomId, via: &[OwnedServerName]) -> Option<Node> {
    let own = &hub.env().server_name;
    for server in via.iter().filter(|server| *server != own).take(SERVERS) {
        if told.asked == ASKED {
            return None;
        }
        told.asked += 1;
        let request = get_hierarchy::v1::Request::new(room_id.to_owned());
        let answer = timeout(PATIENCE, hub.peers().call(server, request, Pace::Patient)).await;
        let Ok(Ok(answer)) = answer else { continue };
        if answer.room.summary.room_id != *room_id {
            continue;
        }
        for child in answer.children.into_iter().take(MAX_CHILDREN) {
            let is_space = child.room_type == Some(ruma::room::RoomType::Space);
            if let Some(summary) = shown(&child)
                && !is_space
            {
                told.leaves.insert(child.room_id, summary);
            }
        }
        return read(&answer.room);
    }
    None
}

/// A summary as clients get it; the type leaves the usual join rule out.
fn shown(summary: &RoomSummary) -> Option<Value> {
    let mut shown = serde_json::to_value(summary).ok()?;
    if shown.get("join_rule").is_none() {
        shown["join_rule"] = "public".into();
    }
    Some(shown)
}

fn read(room: &SpaceHierarchyParentSummary) -> Option<Node> {
    #[derive(Deserialize)]
    struct Event<'a> {
        state_key: String,
        sender: String,
        #[serde(default)]
        origin_server_ts: i64,
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let child = |raw: &str| {
        let event: Event<'_> = serde_json::from_str(raw).ok()?;
        Child::of(&event.state_key, &event.sender, event.origin_server_ts, event.content)
    };
    let children = room.children_state.iter().take(MAX_CHILDREN);
    let children = children.filter_map(|raw| child(raw.json().get())).collect();
    Some(Node {
        summary: shown(&room.summary)?,
        children: in_order(children),
    })
}

/// The other server looked only whether some user of this one may see it.
async fn may_see(hub: &Hub, summary: &Value, user: &UserId) -> Outcome<bool> {
    let rule = summary["join_rule"].as_str().unwrap_or("public");
    if summary["world_readable"] == true || matches!(rule, "public" | "knock" | "knock_restricted") {
        return Ok(true);
    }
    let allowed = summary["allowed_room_ids"].as_array().into_iter().flatten();
    for room_id in allowed.filter_map(|id| RoomId::parse(id.as_str()?).ok()) {
        let room = hub.rooms().view(&room_id).await?;
        if room.is_some_and(|room| room.is_joined(user)) {
            return Ok(true);
        }
    }
    let room_id = summary["room_id"].as_str().unwrap_or_default();
    let membership = hub.env().store.membership_in(room_id, user.as_str()).await?;
    Ok(membership.as_deref() == Some("invite"))
}
