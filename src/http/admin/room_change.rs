//! What administrators do to rooms: blocking, deleting, purging, letting users in, giving power away.

use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::flows::admin::delete_room::Deletion;
use actors::flows::admin::power;
use actors::flows::admin::purge_history::Purge;
use actors::flows::admin::tasks::{self, FAILED, Work};
use entities::{admin_task, blocked_room};
use http::Method;
use ruma::{EventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomOrAliasId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{room_id, room_or_alias};
use super::rooms::existing;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// How long a client may wait for the deletion of a room; it goes on without it.
const DELETION: Duration = Duration::from_secs(600);
/// A join may take other servers' time.
const JOIN: Duration = Duration::from_secs(120);
/// What is older than this is purged where nothing else is said.
const USUAL_AGE_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    let block = "/_synapse/admin/v1/rooms/{room_id}/block";
    t.raw(Method::GET, block, admin, is_blocked);
    t.raw(Method::PUT, block, admin, set_blocked);
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/rooms/{room_identifier}/make_room_admin",
        admin,
        make_room_admin,
    );
    t.raw(Method::POST, "/_synapse/admin/v1/join/{room_identifier}", admin, join)
        .deadline(JOIN);
    t.raw(Method::DELETE, "/_synapse/admin/v1/rooms/{room_id}", admin, delete)
        .deadline(DELETION);
    t.raw(Method::POST, "/_synapse/admin/v1/rooms/{room_id}/delete", admin, delete)
        .deadline(DELETION);
    t.raw(Method::POST, "/_synapse/admin/v1/shutdown_room", admin, shut_down)
        .deadline(DELETION);
    t.raw(
        Method::DELETE,
        "/_synapse/admin/v2/rooms/{room_id}",
        admin,
        delete_in_background,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v2/rooms/delete_status/{delete_id}",
        admin,
        deletion,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v2/rooms/{room_id}/delete_status",
        admin,
        deletions,
    );
    purges(t);
}

fn purges(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(Method::POST, "/_synapse/admin/v1/purge_history", admin, purge_named);
    t.raw(Method::POST, "/_synapse/admin/v1/purge_history/{room_id}", admin, purge);
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/purge_history/{room_id}/{event_id}",
        admin,
        purge,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/purge_history_status/{purge_id}",
        admin,
        purge_status,
    );
}

async fn is_blocked(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = room_id(&request, 0)?;
    let row = ctx.hub.env().store.blocked_room(room_id.as_str()).await?;
    let mut answer = json!({ "block": row.is_some() });
    if let Some(row) = row {
        answer["user_id"] = row.user_id.into();
        answer["blocked_ts"] = row.blocked_ts.into();
    }
    Reply::json(&answer)
}

async fn set_blocked(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        block: bool,
    }
    let room_id = room_id(&request, 0)?;
    let body: Body = request.json()?;
    let env = ctx.hub.env();
    if body.block {
        let row = blocked_room::Model {
            room_id: room_id.to_string(),
            user_id: ctx.user()?.user_id.to_string(),
            blocked_ts: env.clock.now_ms(),
        };
        env.store.block_room(&row).await?;
    } else {
        env.store.unblock_room(room_id.as_str()).await?;
    }
    Reply::json(&json!({ "block": body.block }))
}

/// A local user of the body; the administrator where none is named.
fn named(ctx: &Ctx, user: Option<&str>) -> Outcome<OwnedUserId> {
    let Some(user) = user else {
        return Ok(ctx.user()?.user_id.clone());
    };
    let user = UserId::parse(user).map_err(|e| DomainError::invalid_param(format!("invalid user id {user:?}: {e}")))?;
    match ctx.hub.env().is_local(&user) {
        true => Ok(user),
        false => Err(DomainError::invalid_param("That is not a user of this server")),
    }
}

async fn known(ctx: &Ctx, user: OwnedUserId) -> Outcome<OwnedUserId> {
    match ctx.hub.sessions().view(&user).await? {
        Some(_) => Ok(user),
        None => Err(DomainError::not_found("User not found")),
    }
}

async fn make_room_admin(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        user_id: Option<String>,
    }
    let body: Body = request.json()?;
    let user = match &body.user_id {
        // Somebody elsewhere may be made one as well.
        Some(id) => UserId::parse(id).map_err(|e| DomainError::invalid_param(format!("user_id: {e}")))?,
        None => ctx.user()?.user_id.clone(),
    };
    let room_id = room_or_alias(&ctx, &request, 0).await?;
    power::make_room_admin(&ctx.hub, &room_id, &user).await?;
    Ok(Reply::empty())
}

async fn join(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        user_id: String,
    }
    let body: Body = request.json()?;
    let target = request.arg(0)?;
    let target = RoomOrAliasId::parse(target)
        .map_err(|e| DomainError::invalid_param(format!("invalid room id or alias {target:?}: {e}")))?;
    let user = named(&ctx, Some(&body.user_id))?;
    let user = known(&ctx, user).await?;
    let via = url::form_urlencoded::parse(ctx.request.query.as_bytes())
        .filter(|(name, _)| name == "server_name" || name == "via")
        .filter_map(|(_, server)| OwnedServerName::try_from(server.as_ref()).ok());
    let via: Vec<OwnedServerName> = via.collect();
    let room_id = power::join_user(&ctx.hub, &user, &target, &via).await?;
    Reply::json(&json!({ "room_id": room_id }))
}

/// How a room is to be deleted, in the names of all interfaces.
#[derive(Default, Deserialize)]
struct Wish {
    room_id: Option<String>,
    new_room_user_id: Option<String>,
    #[serde(alias = "new_room_name")]
    room_name: Option<String>,
    message: Option<String>,
    #[serde(default)]
    block: bool,
    purge: Option<bool>,
    #[serde(default)]
    force_purge: bool,
}

async fn planned(ctx: &Ctx, room_id: OwnedRoomId, wish: Wish, purge: bool) -> Outcome<Deletion> {
    let purge = wish.purge.unwrap_or(purge);
    let env = ctx.hub.env();
    if env.store.room_by_id(room_id.as_str()).await?.is_none() && !wish.block {
        return Err(DomainError::not_found(format!("Unknown room id {room_id}")));
    }
    let new_room_user_id = match wish.new_room_user_id {
        Some(user) => Some(known(ctx, named(ctx, Some(&user))?).await?),
        None => None,
    };
    Ok(Deletion {
        room_id,
        requester: ctx.user()?.user_id.clone(),
        new_room_user_id,
        room_name: wish.room_name,
        message: wish.message,
        block: wish.block,
        purge,
        force_purge: wish.force_purge,
        new_room_id: None,
        kicked: Vec::new(),
        failed: Vec::new(),
        aliases: Vec::new(),
        purging: false,
    })
}

/// Waits for the end; whoever hangs up changes nothing.
async fn done(ctx: &Ctx, deletion: Deletion) -> Outcome<Value> {
    let (_, ending) = tasks::begin(&ctx.hub, Work::DeleteRoom(deletion)).await?;
    let row = ending
        .await
        .map_err(|e| DomainError::internal(format!("deletion of a room: {e}")))?;
    if row.status == FAILED {
        return Err(DomainError::unknown(row.error.unwrap_or_default()));
    }
    result_of(&row)
}

fn result_of(row: &admin_task::Model) -> Outcome<Value> {
    serde_json::from_str(&row.result).map_err(|e| DomainError::internal(format!("task {}: {e}", row.id)))
}

async fn delete(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = room_id(&request, 0)?;
    let deletion = planned(&ctx, room_id.clone(), request.json()?, true).await?;
    let mut answer = done(&ctx, deletion).await?;
    answer["deleted"] = true.into();
    answer["room_id"] = room_id.as_str().into();
    Reply::json(&answer)
}

/// Its users leave; the room stays in the database unless that is asked for.
async fn shut_down(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let wish: Wish = request.json()?;
    let room_id = body_room(wish.room_id.as_deref())?;
    let deletion = planned(&ctx, room_id, wish, false).await?;
    Reply::json(&done(&ctx, deletion).await?)
}

fn body_room(room_id: Option<&str>) -> Outcome<OwnedRoomId> {
    let room_id = room_id.ok_or_else(|| DomainError::missing_param("room_id is missing"))?;
    RoomId::parse(room_id).map_err(|e| DomainError::invalid_param(format!("invalid room id {room_id:?}: {e}")))
}

async fn delete_in_background(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let deletion = planned(&ctx, room_id(&request, 0)?, request.json()?, true).await?;
    let (delete_id, _) = tasks::begin(&ctx.hub, Work::DeleteRoom(deletion)).await?;
    Reply::json(&json!({ "delete_id": delete_id }))
}

fn shown(row: &admin_task::Model) -> Outcome<Value> {
    let status = match row.status.as_str() {
        tasks::ACTIVE => "purging",
        other => other,
    };
    let mut shown = json!({
        "delete_id": row.id,
        "room_id": row.subject,
        "status": status,
        "shutdown_room": result_of(row)?,
    });
    if let Some(error) = &row.error {
        shown["error"] = error.as_str().into();
    }
    Ok(shown)
}

async fn deletion(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let id = request.arg(0)?;
    let row = ctx.hub.env().store.admin_task(id).await?;
    let row = row.filter(|row| row.kind == "delete_room");
    Reply::json(&shown(&row.ok_or_else(|| {
        DomainError::not_found(format!("delete id '{id}' not found"))
    })?)?)
}

async fn deletions(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id = room_id(&request, 0)?;
    let rows = ctx.hub.env().store.admin_tasks_about(room_id.as_str()).await?;
    let rows = rows.iter().filter(|row| row.kind == "delete_room");
    let results = rows.map(shown).collect::<Outcome<Vec<_>>>()?;
    if results.is_empty() {
        return Err(DomainError::not_found(format!(
            "No delete task for room_id '{room_id}' found"
        )));
    }
    Reply::json(&json!({ "results": results }))
}

/// What is to be purged, in the names of all interfaces.
#[derive(Deserialize)]
struct PurgeWish {
    room_id: Option<String>,
    #[serde(default)]
    delete_local_events: bool,
    purge_up_to_event_id: Option<String>,
    purge_up_to_ts: Option<i64>,
}

async fn purge_named(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let wish: PurgeWish = request.json()?;
    let room_id = body_room(wish.room_id.as_deref())?;
    begin_purge(&ctx, room_id, None, wish).await
}

async fn purge(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let wish: PurgeWish = request.json()?;
    let event_id = request.arg(1).ok().map(str::to_owned);
    begin_purge(&ctx, room_id(&request, 0)?, event_id, wish).await
}

async fn begin_purge(ctx: &Ctx, room_id: OwnedRoomId, event_id: Option<String>, wish: PurgeWish) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let room = existing(ctx, &room_id).await?;
    let nothing = || DomainError::not_found("there is nothing to be purged that is that old");
    let mut answer = json!({});
    let before = match (event_id.or(wish.purge_up_to_event_id), wish.purge_up_to_ts) {
        (Some(id), _) => {
            let missing = || DomainError::not_found("there is no such event in this room");
            let id = EventId::parse(&id).map_err(|e| DomainError::invalid_param(format!("event id: {e}")))?;
            let event = env.rooms.event_by_id(&id).await?.ok_or_else(missing)?;
            let pos = event.pos.filter(|_| event.room_nid == room.nid);
            pos.ok_or_else(missing)?.0
        }
        (None, Some(ts)) => env.store.history_before_ts(room.nid.0, ts).await?.ok_or_else(nothing)?,
        (None, None) => {
            let ts = env.clock.now_ms().saturating_sub(USUAL_AGE_MS);
            answer["purge_up_to_ts"] = ts.into();
            // Nothing that old: the purge ends at once.
            env.store.history_before_ts(room.nid.0, ts).await?.unwrap_or(i64::MIN)
        }
    };
    let purge = Purge {
        room_id,
        before,
        local: wish.delete_local_events,
        above: i64::MIN,
        deleted: 0,
    };
    let (purge_id, _) = tasks::begin(&ctx.hub, Work::PurgeHistory(purge)).await?;
    answer["purge_id"] = purge_id.into();
    Reply::json(&answer)
}

async fn purge_status(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let id = request.arg(0)?;
    let row = ctx.hub.env().store.admin_task(id).await?;
    let row = row.filter(|row| row.kind == "purge_history");
    let row = row.ok_or_else(|| DomainError::not_found(format!("purge id '{id}' not found")))?;
    let mut answer = result_of(&row)?;
    answer["status"] = row.status.into();
    if let Some(error) = row.error {
        answer["error"] = error.into();
    }
    Reply::json(&answer)
}
