//! What a local user is in, keeps and has done.

use actors::error::{DomainError, Outcome};
use actors::room::snapshot::RoomSnapshot;
use actors::room::summary::Summary;
use http::Method;
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde_json::{Map, Value, json};

use super::params::{local_id, local_user, number, set_next, slice};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Rooms of one page that tells more than their ids.
const ROOMS_PAGE: i64 = 100;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/users/{user_id}/joined_rooms",
        admin,
        joined_rooms,
    );
    t.raw(Method::GET, "/_synapse/admin/v1/users/{user_id}/rooms", admin, rooms);
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/users/{user_id}/memberships",
        admin,
        memberships,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/users/{user_id}/accountdata",
        admin,
        account_data,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/users/{user_id}/pushers",
        admin,
        pushers,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/users/{user_id}/sent_invite_count",
        admin,
        invites_sent,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/users/{user_id}/cumulative_joined_room_count",
        admin,
        rooms_joined,
    );
}

/// The rooms that a user is in, in the order of their ids.
async fn joined(ctx: &Ctx, user: &str) -> Outcome<Vec<OwnedRoomId>> {
    let rows = ctx.hub.env().store.memberships_of_user(user, Some(&["join"])).await?;
    let mut rooms: Vec<OwnedRoomId> = rows
        .into_iter()
        .filter_map(|(_, room)| RoomId::parse(room.room_id).ok())
        .collect();
    rooms.sort_unstable();
    Ok(rooms)
}

/// Also of other servers' users: as far as this server knows.
async fn joined_rooms(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user: OwnedUserId = request.parse(0)?;
    if ctx.hub.env().is_local(&user) {
        local_user(&ctx, &request, 0).await?;
    }
    let rooms = joined(&ctx, user.as_str()).await?;
    Reply::json(&json!({ "joined_rooms": rooms, "total": rooms.len() }))
}

async fn rooms(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let mut slice = slice(&ctx, false)?;
    slice.limit = slice.limit.min(ROOMS_PAGE);
    let all = joined(&ctx, user.as_str()).await?;
    let (from, limit) = (slice.from, slice.limit);
    let page: Vec<OwnedRoomId> = all
        .iter()
        .skip(usize::try_from(from).unwrap_or(usize::MAX))
        .take(usize::try_from(limit).unwrap_or(0))
        .cloned()
        .collect();
    let views = ctx.hub.env().rooms.views(&page).await?;
    let shown = |room: &RoomSnapshot| {
        let summary = Summary::of_room(room);
        json!({
            "room_id": room.room_id,
            "name": summary.name,
            "canonical_alias": summary.canonical_alias,
            "joined_members": room.joined_count,
            "joined_local_members": room.local_joined.len(),
            "version": room.version,
        })
    };
    let rooms: Vec<Value> = page
        .iter()
        .filter_map(|id| views.get(id))
        .map(|room| shown(room))
        .collect();
    let total = i64::try_from(all.len()).unwrap_or(i64::MAX);
    let mut answer = json!({ "rooms": rooms, "total": total });
    set_next(&mut answer, slice, page.len(), total);
    Reply::json(&answer)
}

async fn memberships(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let rows = ctx.hub.env().store.memberships_of_user(user.as_str(), None).await?;
    let memberships: Map<String, Value> = rows
        .into_iter()
        .map(|(membership, room)| (room.room_id, membership.membership.into()))
        .collect();
    Reply::json(&json!({ "memberships": memberships }))
}

async fn account_data(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let (mut global, mut rooms) = (Map::new(), Map::new());
    for row in ctx.hub.env().store.account_data_all(user.as_str()).await? {
        let content: Value = serde_json::from_str(&row.content)
            .map_err(|e| DomainError::internal(format!("account data {} of {user}: {e}", row.r#type)))?;
        if row.room_id.is_empty() {
            global.insert(row.r#type, content);
        } else if let Some(of_room) = rooms
            .entry(row.room_id)
            .or_insert_with(|| Map::new().into())
            .as_object_mut()
        {
            of_room.insert(row.r#type, content);
        }
    }
    Reply::json(&json!({ "account_data": { "global": global, "rooms": rooms } }))
}

async fn pushers(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    let rows = ctx.hub.env().store.pushers(user.as_str()).await?;
    let pushers: Vec<Value> = rows
        .iter()
        .filter_map(|row| serde_json::from_str(&row.json).ok())
        .collect();
    Reply::json(&json!({ "pushers": pushers, "total": pushers.len() }))
}

/// Changes to `membership` since `from_ts`, those that the user made to others or those of its own.
async fn count(ctx: &Ctx, request: &RawRequest, membership: &str, sent: bool) -> Outcome<i64> {
    let user = local_id(ctx, request, 0)?;
    let since = number(ctx, "from_ts", 0)?;
    let store = &ctx.hub.env().store;
    Ok(store
        .count_membership_changes(user.as_str(), membership, since, sent)
        .await?)
}

async fn invites_sent(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let count = count(&ctx, &request, "invite", true).await?;
    Reply::json(&json!({ "invite_count": count }))
}

async fn rooms_joined(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let count = count(&ctx, &request, "join", false).await?;
    Reply::json(&json!({ "cumulative_joined_room_count": count }))
}
