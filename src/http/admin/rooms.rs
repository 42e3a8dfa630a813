//! Rooms as administrators read them: lists, details, members, state, history.

use std::collections::HashMap;
use std::sync::Arc;

use actors::error::{DomainError, Outcome};
use actors::room::event::StoredEvent;
use actors::room::render::{RoomIdField, Viewer, client_event};
use actors::room::snapshot::RoomSnapshot;
use actors::room::summary::{Summary, TYPES};
use entities::store::admin::rooms::{ListedRoom, RoomFilter, RoomOrder};
use http::Method;
use ruma::{OwnedRoomId, RoomId, RoomVersionId};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::params::{flag, room_id, slice};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(Method::GET, "/_synapse/admin/v1/rooms", admin, list);
    t.raw(Method::GET, "/_synapse/admin/v1/rooms/{room_id}", admin, details);
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/rooms/{room_id}/members",
        admin,
        members,
    );
    t.raw(Method::GET, "/_synapse/admin/v1/rooms/{room_id}/state", admin, state);
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/rooms/{room_identifier}/forward_extremities",
        admin,
        extremities,
    );
    t.raw(
        Method::DELETE,
        "/_synapse/admin/v1/rooms/{room_identifier}/forward_extremities",
        admin,
        join_extremities,
    );
}

/// The room of a path, which this server must have a state of.
pub(super) async fn existing(ctx: &Ctx, room_id: &RoomId) -> Outcome<Arc<RoomSnapshot>> {
    let room = ctx.hub.rooms().view(room_id).await?;
    room.ok_or_else(|| DomainError::not_found("Room not found"))
}

/// An event as administrators get it.
pub(super) fn rendered(ctx: &Ctx, event: &StoredEvent) -> Outcome<Box<RawValue>> {
    let identity = ctx.user()?;
    let viewer = Viewer {
        user: identity.user_id.clone(),
        device: None,
        now: ctx.hub.env().clock.now_ms(),
    };
    Ok(client_event(event, &viewer, RoomIdField::Shown, Default::default()))
}

fn order(ctx: &Ctx) -> Outcome<(RoomOrder, bool)> {
    // Synapse lists the largest first where figures are asked for.
    Ok(match ctx.request.query_param("order_by").as_deref() {
        None | Some("name" | "alphabetical") => (RoomOrder::Name, false),
        Some("canonical_alias") => (RoomOrder::CanonicalAlias, false),
        Some("joined_members" | "size") => (RoomOrder::JoinedMembers, true),
        Some("joined_local_members") => (RoomOrder::JoinedLocalMembers, true),
        Some("version") => (RoomOrder::Version, false),
        Some("creator") => (RoomOrder::Creator, false),
        Some("encryption") => (RoomOrder::Encryption, false),
        Some("federatable") => (RoomOrder::Federatable, false),
        Some("public") => (RoomOrder::Public, false),
        Some("join_rules") => (RoomOrder::JoinRules, false),
        Some("guest_access") => (RoomOrder::GuestAccess, false),
        Some("history_visibility") => (RoomOrder::HistoryVisibility, false),
        Some("state_events") => (RoomOrder::StateEvents, true),
        Some(_) => return Err(DomainError::invalid_param("unknown order_by")),
    })
}

async fn list(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let term = ctx.request.query_param("search_term");
    if term.as_deref() == Some("") {
        return Err(DomainError::invalid_param("search_term must not be empty"));
    }
    let filter = RoomFilter {
        term: term.as_deref(),
        public: flag(&ctx, "public_rooms")?,
        empty: flag(&ctx, "empty_rooms")?,
    };
    let (order, largest_first) = order(&ctx)?;
    let mut slice = slice(&ctx, false)?;
    slice.backwards ^= largest_first;
    let env = ctx.hub.env();
    let (rooms, total) = env
        .store
        .list_rooms(env.server_name.as_str(), &filter, order, slice)
        .await?;
    let nids: Vec<i64> = rooms.iter().map(|room| room.nid).collect();
    let mut state: HashMap<i64, Vec<Arc<StoredEvent>>> = HashMap::new();
    let events = env.store.current_state_of_types(&nids, &TYPES).await?;
    for event in env.rooms.decode(events).await? {
        state.entry(event.room_nid.0).or_default().push(event);
    }
    let none = Vec::new();
    let shown: Vec<Value> = rooms
        .iter()
        .filter_map(|room| listed(room, state.get(&room.nid).unwrap_or(&none)))
        .collect();
    let mut answer = json!({ "rooms": shown, "offset": slice.from, "total_rooms": total });
    let next = slice.from + i64::try_from(rooms.len()).unwrap_or(0);
    if next < total && !rooms.is_empty() {
        answer["next_batch"] = next.into();
    }
    if slice.from > 0 {
        answer["prev_batch"] = slice.from.saturating_sub(slice.limit).max(0).into();
    }
    Reply::json(&answer)
}

fn listed(room: &ListedRoom, state: &[Arc<StoredEvent>]) -> Option<Value> {
    let room_id = OwnedRoomId::try_from(room.room_id.as_str()).ok()?;
    let version = RoomVersionId::try_from(room.version.as_str()).ok()?;
    let find = |kind: &str| state.iter().find(|event| event.pdu.is_state(kind, "")).cloned();
    let joined = u64::try_from(room.joined).unwrap_or(0);
    let summary = Summary::of(room_id, &version, joined, find);
    let mut shown = in_short(&summary, find);
    shown["joined_members"] = room.joined.into();
    shown["joined_local_members"] = room.joined_local.into();
    shown["creator"] = room.creator.as_str().into();
    shown["public"] = room.public.into();
    shown["state_events"] = room.state_events.into();
    Some(shown)
}

/// What lists and details share.
fn in_short(summary: &Summary, find: impl Fn(&str) -> Option<Arc<StoredEvent>>) -> Value {
    let content = |kind: &str| -> Map<String, Value> {
        find(kind)
            .and_then(|event| event.pdu.content_as().ok())
            .unwrap_or_default()
    };
    let text = |kind: &str, field: &str| content(kind).get(field).and_then(Value::as_str).map(str::to_owned);
    let federate = content("m.room.create").get("m.federate").and_then(Value::as_bool);
    json!({
        "room_id": summary.room_id,
        "name": summary.name,
        "canonical_alias": summary.canonical_alias,
        "version": summary.room_version,
        "encryption": summary.encryption,
        "federatable": federate.unwrap_or(true),
        "join_rules": text("m.room.join_rules", "join_rule"),
        "guest_access": text("m.room.guest_access", "guest_access"),
        "history_visibility": text("m.room.history_visibility", "history_visibility"),
        "room_type": summary.room_type,
        "avatar": summary.avatar_url,
        "topic": summary.topic,
    })
}

async fn details(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = room_id(&request, 0)?;
    let room = existing(&ctx, &room_id).await?;
    let env = ctx.hub.env();
    let row = env.store.room_by_id(room_id.as_str()).await?;
    let row = row.ok_or_else(|| DomainError::not_found("Room not found"))?;
    let mut body = in_short(&Summary::of_room(&room), |kind| room.state_event(kind, "").cloned());
    body["creator"] = row.creator.into();
    body["creation_ts"] = row.created_ts.into();
    body["joined_members"] = room.joined_count.into();
    body["joined_local_members"] = room.local_joined.len().into();
    body["joined_local_devices"] = local_devices(&ctx, &room).await?.into();
    body["invited_members"] = room.invited_count.into();
    body["state_events"] = room.state.len().into();
    body["public"] = env.store.is_published(room_id.as_str()).await?.into();
    body["forgotten"] = env
        .store
        .is_forgotten_by_all(room.nid.0, env.server_name.as_str())
        .await?
        .into();
    body["blocked"] = env.store.blocked_room(room_id.as_str()).await?.is_some().into();
    body["tombstoned"] = room.state_event("m.room.tombstone", "").is_some().into();
    let tombstone = room.state_event("m.room.tombstone", "");
    let successor = tombstone.and_then(|event| event.pdu.content_as::<Map<String, Value>>().ok());
    body["replacement_room"] = successor
        .and_then(|content| content.get("replacement_room").cloned())
        .unwrap_or(Value::Null);
    Reply::json(&body)
}

/// How many devices the room's local members have.
async fn local_devices(ctx: &Ctx, room: &RoomSnapshot) -> Outcome<i64> {
    let users: Vec<&str> = room.local_joined.iter().map(|user| user.as_str()).collect();
    Ok(ctx.hub.env().store.count_devices(&users).await?)
}

async fn members(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room = existing(&ctx, &room_id(&request, 0)?).await?;
    let joined = room
        .state_of_kind("m.room.member")
        .filter(|event| event.pdu.has_membership("join"));
    let members: Vec<&str> = joined.filter_map(|event| event.pdu.state_key.as_deref()).collect();
    Reply::json(&json!({ "members": members, "total": members.len() }))
}

async fn state(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room = existing(&ctx, &room_id(&request, 0)?).await?;
    let wanted = ctx.request.query_param("type");
    let events = room.state.values().map(|entry| &entry.event);
    let events = events.filter(|event| {
        wanted
            .as_deref()
            .is_none_or(|wanted| event.pdu.kind.to_string() == wanted)
    });
    let state: Outcome<Vec<_>> = events.map(|event| rendered(&ctx, event)).collect();
    Reply::json(&HashMap::from([("state", state?)]))
}

async fn extremities(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = super::params::room_or_alias(&ctx, &request, 0).await?;
    let room = existing(&ctx, &room_id).await?;
    let ids: Vec<_> = room.extremities.iter().map(|end| end.event_id.clone()).collect();
    let events = ctx.hub.env().rooms.events_by_id(&ids).await?;
    let shown: Vec<Value> = room
        .extremities
        .iter()
        .map(|end| {
            let event = events.get(&end.event_id);
            json!({
                "event_id": end.event_id,
                "depth": end.depth,
                "state_group": event.and_then(|event| event.state_group).map(|group| group.0),
                "received_ts": event.map(|event| i64::from(event.pdu.origin_server_ts.get())),
            })
        })
        .collect();
    Reply::json(&json!({ "count": shown.len(), "results": shown }))
}

/// Dropping branches would lose what they hold: a room joins them by itself.
async fn join_extremities(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = super::params::room_or_alias(&ctx, &request, 0).await?;
    match existing(&ctx, &room_id).await?.extremities.len() {
        0 | 1 => Reply::json(&json!({ "deleted": 0 })),
        _ => Err(DomainError::unknown(
            "This server does not drop forward extremities: a room joins its branches with its next event",
        )),
    }
}
