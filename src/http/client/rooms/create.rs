//! Making rooms and replacing them (client-server API, "Creation" and "Room upgrades").

use actors::error::{DomainError, Outcome};
use actors::flows::{create_room, guard, upgrade};
use ruma::api::client::room::{Visibility, create_room as api, upgrade_room};
use serde_json::json;

use super::active;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

pub(super) fn routes(table: &mut Table) {
    table.user::<api::v3::Request, _>(create).limit(Class::Join);
    table.user::<upgrade_room::v3::Request, _>(replace).limit(Class::Join);
}

pub(super) async fn create(ctx: Ctx, request: api::v3::Request) -> Outcome<Reply> {
    let identity = active(&ctx)?;
    let may_publish = ctx.config.room_directory.allow_publication || identity.is_admin;
    if request.visibility == Visibility::Public && !may_publish {
        return Err(DomainError::forbidden(
            "only administrators may publish rooms on this server",
        ));
    }
    for user in &request.invite {
        guard::invite(ctx.hub.env(), &identity.user_id, user).await?;
    }
    let room_id = create_room::create_room(&ctx.hub, &identity.user_id, &request).await?;
    Reply::json(&json!({ "room_id": room_id }))
}

async fn replace(ctx: Ctx, request: upgrade_room::v3::Request) -> Outcome<Reply> {
    let user = &active(&ctx)?.user_id;
    let creators = &request.additional_creators;
    let room_id = upgrade::upgrade(&ctx.hub, user, &request.room_id, &request.new_version, creators).await?;
    Reply::json(&json!({ "replacement_room": room_id }))
}
