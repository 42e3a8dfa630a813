//! Spaces and previews of rooms (client-server API, "Spaces" and `room_summary`).

use actors::error::{DomainError, Outcome};
use actors::flows::membership::resolve_alias;
use actors::flows::spaces::{self, Walk};
use actors::room::summary::Summary;
use ruma::api::client::room::get_summary;
use ruma::api::client::space::get_hierarchy;
use ruma::{RoomAliasId, RoomId};
use serde_json::json;

use super::count;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Rooms on a page where the client does not say.
const DEFAULT_PAGE: usize = 50;

pub(super) fn routes(table: &mut Table) {
    table.user::<get_hierarchy::v1::Request, _>(hierarchy);
    table
        .optional::<get_summary::v1::Request, _>(summary)
        .also("/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}");
}

async fn hierarchy(ctx: Ctx, request: get_hierarchy::v1::Request) -> Outcome<Reply> {
    let walk = Walk {
        root: &request.room_id,
        user: &ctx.user()?.user_id,
        everything: false,
        suggested_only: request.suggested_only,
        max_depth: request.max_depth.map(count),
        limit: request.limit.map_or(DEFAULT_PAGE, count),
        from: request.from.as_deref(),
    };
    let (rooms, next) = spaces::walk(&ctx.hub, &walk).await?;
    let mut answer = json!({ "rooms": rooms });
    if let Some(next) = next {
        answer["next_batch"] = next.into();
    }
    Reply::json(&answer)
}

async fn summary(ctx: Ctx, request: get_summary::v1::Request) -> Outcome<Reply> {
    let missing = || DomainError::not_found("there is no such room, or you may not see it");
    let room_id = match <&RoomAliasId>::try_from(&*request.room_id_or_alias) {
        Ok(alias) => resolve_alias(&ctx.hub, alias).await?,
        Err(_) => RoomId::parse(request.room_id_or_alias.as_str()).map_err(|_| missing())?,
    };
    let room = ctx.hub.rooms().view(&room_id).await?.ok_or_else(missing)?;
    let user = ctx.identity.as_deref().map(|identity| &*identity.user_id);
    if !spaces::may_preview(&ctx.hub, &room, user).await? {
        return Err(missing());
    }
    let membership = user.map(|user| ("membership", room.membership(user).into()));
    Reply::json(&Summary::of_room(&room).with(membership)?)
}
