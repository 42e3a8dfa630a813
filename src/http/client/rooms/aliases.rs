//! Room aliases (client-server API, "Room aliases").
//!
//! Below `/directory/room/` the specification has aliases and the API reference beside it has room ids: the sigil tells.

use actors::error::{DomainError, Outcome};
use actors::flows::directory::{self, Asker};
use actors::room::read;
use actors::room::summary::Summary;
use http::Method;
use ruma::api::client::room::aliases;
use ruma::{OwnedRoomId, RoomAliasId, RoomId};
use serde::Deserialize;
use serde_json::json;

use super::active;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, PathPrefix, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

pub(super) fn routes(table: &mut Table) {
    table.user::<aliases::v3::Request, _>(of_room_typed);
    for path in [
        "/_matrix/client/r0/directory/room/{room_alias}",
        "/_matrix/client/v3/directory/room/{room_alias}",
    ] {
        table.raw(Method::GET, path, Policy::Open, get).limit(Class::Default);
        table.raw(Method::PUT, path, Policy::User, put);
        table.raw(Method::DELETE, path, Policy::User, delete);
    }
    table
        .raw(
            Method::GET,
            "/_matrix/client/r0/directory/room/alias/{room_alias}",
            Policy::Open,
            get,
        )
        .limit(Class::Default)
        .also("/_matrix/client/v3/directory/room/alias/{room_alias}");
    table
        .raw(
            Method::GET,
            "/_matrix/client/r0/directory/room/{room_id}/alias",
            Policy::User,
            of_room_raw,
        )
        .also("/_matrix/client/v3/directory/room/{room_id}/alias");
    for path in [
        "/_matrix/client/r0/directory/room/{room_id}/alias/{room_alias}",
        "/_matrix/client/v3/directory/room/{room_id}/alias/{room_alias}",
    ] {
        table.raw(Method::PUT, path, Policy::User, put_of_room);
        table.raw(Method::DELETE, path, Policy::User, delete_of_room);
    }
}

/// What stands in the path.
enum Named {
    Alias(ruma::OwnedRoomAliasId),
    Room(OwnedRoomId),
}

fn named(ctx: &Ctx, text: &str) -> Outcome<Named> {
    if text.starts_with('!') {
        let room = RoomId::parse(text).map_err(|e| DomainError::invalid_param(format!("room id: {e}")))?;
        return Ok(Named::Room(room));
    }
    alias(ctx, text).map(Named::Alias)
}

/// The API reference beside the specification takes bare names on r0.
fn alias(ctx: &Ctx, text: &str) -> Outcome<ruma::OwnedRoomAliasId> {
    let bare = ctx.request.path_prefix == PathPrefix::R0 && !text.starts_with('#');
    let whole = match (bare, text.contains(':')) {
        (false, _) => text.to_owned(),
        (true, true) => format!("#{text}"),
        (true, false) => format!("#{text}:{}", ctx.hub.env().server_name),
    };
    RoomAliasId::parse(whole).map_err(|e| DomainError::invalid_param(format!("room alias: {e}")))
}

fn asker(ctx: &Ctx) -> Outcome<Asker<'_>> {
    let identity = active(ctx)?;
    Ok(Asker {
        user: &identity.user_id,
        is_admin: identity.is_admin,
    })
}

async fn get(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (room_id, servers) = match named(&ctx, request.arg(0)?)? {
        Named::Alias(alias) => directory::look_up(&ctx.hub, &alias).await?,
        Named::Room(room_id) => {
            // There is no token: rooms that do not show themselves are not there.
            let missing = || DomainError::not_found(format!("there is no room {room_id}"));
            let room = ctx.hub.rooms().view(&room_id).await?.ok_or_else(missing)?;
            let summary = Summary::of_room(&room);
            let listed = ctx.hub.env().store.is_published(room_id.as_str()).await?;
            if !listed && !summary.world_readable && summary.join_rule != "public" {
                return Err(missing());
            }
            let servers = directory::servers(ctx.hub.env(), Some(&room));
            (room_id, servers)
        }
    };
    Reply::json(&json!({ "room_id": room_id, "servers": servers }))
}

async fn put(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        room_id: OwnedRoomId,
    }
    match named(&ctx, request.arg(0)?)? {
        Named::Alias(alias) => {
            let body: Body = request.json()?;
            make(&ctx, &alias, &body.room_id).await?;
        }
        Named::Room(room_id) => super::directory::publish(&ctx, &room_id, true).await?,
    }
    Ok(Reply::empty())
}

async fn make(ctx: &Ctx, alias: &RoomAliasId, room_id: &RoomId) -> Outcome<()> {
    let members_only = ctx.config.room_directory.require_membership_for_aliases;
    directory::make_alias(&ctx.hub, asker(ctx)?, alias, room_id, members_only).await
}

async fn delete(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    match named(&ctx, request.arg(0)?)? {
        Named::Alias(alias) => directory::delete_alias(&ctx.hub, asker(&ctx)?, &alias).await?,
        Named::Room(room_id) => super::directory::publish(&ctx, &room_id, false).await?,
    }
    Ok(Reply::empty())
}

async fn put_of_room(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    make(&ctx, &alias(&ctx, request.arg(1)?)?, &room_id).await?;
    Ok(Reply::empty())
}

async fn delete_of_room(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    let alias = alias(&ctx, request.arg(1)?)?;
    let (found, _) = directory::look_up(&ctx.hub, &alias).await?;
    if found != room_id {
        return Err(DomainError::not_found(format!("{alias} is no alias of {room_id}")));
    }
    directory::delete_alias(&ctx.hub, asker(&ctx)?, &alias).await?;
    Ok(Reply::empty())
}

async fn of_room_typed(ctx: Ctx, request: aliases::v3::Request) -> Outcome<Reply> {
    of_room(&ctx, &request.room_id).await
}

async fn of_room_raw(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    of_room(&ctx, &room_id).await
}

/// For members, and for everybody where the room is world-readable.
async fn of_room(ctx: &Ctx, room_id: &RoomId) -> Outcome<Reply> {
    let user = &ctx.user()?.user_id;
    let access = read::access(ctx.hub.env(), user, room_id).await?;
    if !access.joined && !Summary::of_room(&access.room).world_readable {
        return Err(DomainError::forbidden(format!("you are not in {room_id}")));
    }
    let rows = ctx.hub.env().store.aliases_of_room(room_id.as_str()).await?;
    let aliases: Vec<String> = rows.into_iter().map(|row| row.alias).collect();
    Reply::json(&json!({ "aliases": aliases }))
}
