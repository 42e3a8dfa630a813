//! Joining, leaving, inviting and the rest (client-server API, "Room membership").

use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::flows::guard;
use actors::flows::membership::{self, Change};
use actors::room::membership::Action;
use ruma::api::client::knock::knock_room;
use ruma::api::client::membership::{
    ban_user, forget_room, invite_user, join_room_by_id_or_alias, kick_user, leave_room, unban_user,
};
use ruma::{RoomId, UserId};
use serde_json::json;

use super::active;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Other servers are asked one after the other, and one of them tells the whole room.
const JOIN_DEADLINE: Duration = Duration::from_secs(130);
/// Another server may have to agree.
const AGREED_DEADLINE: Duration = Duration::from_secs(70);

pub(super) fn routes(table: &mut Table) {
    table
        .guest::<join_room_by_id_or_alias::v3::Request, _>(join)
        .limit(Class::Join)
        .deadline(JOIN_DEADLINE)
        .also("/_matrix/client/r0/rooms/{room_id}/join")
        .also("/_matrix/client/v3/rooms/{room_id}/join");
    table
        .user::<knock_room::v3::Request, _>(knock)
        .limit(Class::Join)
        .deadline(AGREED_DEADLINE)
        .also("/_matrix/client/r0/knock/{room_id_or_alias}");
    table
        .guest::<leave_room::v3::Request, _>(leave)
        .deadline(AGREED_DEADLINE);
    table.user::<forget_room::v3::Request, _>(forget);
    table
        .user::<invite_user::v3::Request, _>(invite)
        .limit(Class::Invite)
        .deadline(AGREED_DEADLINE);
    table.user::<kick_user::v3::Request, _>(kick);
    table.user::<ban_user::v3::Request, _>(ban);
    table.user::<unban_user::v3::Request, _>(unban);
}

async fn join(ctx: Ctx, request: join_room_by_id_or_alias::v3::Request) -> Outcome<Reply> {
    let identity = active(&ctx)?;
    let (user, room) = (&identity.user_id, &request.room_id_or_alias);
    if identity.is_guest {
        guard::guest_join(&ctx.hub, user, room, &request.via).await?;
    }
    let reason = request.reason.as_deref();
    let room_id = membership::join(&ctx.hub, user, room, &request.via, reason).await?;
    if identity.is_guest {
        // Another server may have said what is not so.
        guard::remove_guests(&ctx.hub, &room_id).await?;
    }
    Reply::json(&json!({ "room_id": room_id }))
}

async fn knock(ctx: Ctx, request: knock_room::v3::Request) -> Outcome<Reply> {
    let user = &active(&ctx)?.user_id;
    let reason = request.reason.as_deref();
    let room_id = membership::knock(&ctx.hub, user, &request.room_id_or_alias, &request.via, reason).await?;
    Reply::json(&json!({ "room_id": room_id }))
}

/// What somebody does to somebody.
async fn change(ctx: &Ctx, room_id: &RoomId, target: &UserId, reason: Option<&str>, action: Action) -> Outcome<Reply> {
    let sender = &ctx.user()?.user_id;
    let change = Change {
        room_id,
        sender,
        target,
        reason,
    };
    membership::change(&ctx.hub, &change, action).await?;
    Ok(Reply::empty())
}

/// Open to suspended users too.
async fn leave(ctx: Ctx, request: leave_room::v3::Request) -> Outcome<Reply> {
    let user = ctx.user()?.user_id.clone();
    change(&ctx, &request.room_id, &user, request.reason.as_deref(), Action::Leave).await
}

async fn forget(ctx: Ctx, request: forget_room::v3::Request) -> Outcome<Reply> {
    ctx.hub.rooms().forget(&request.room_id, &ctx.user()?.user_id).await?;
    Ok(Reply::empty())
}

async fn invite(ctx: Ctx, request: invite_user::v3::Request) -> Outcome<Reply> {
    let sender = &active(&ctx)?.user_id;
    let invite_user::v3::InvitationRecipient::UserId(invited) = &request.recipient else {
        let message = "this server uses no identity server, so it cannot invite by e-mail address or phone number";
        return Err(DomainError::matrix(403, "M_THREEPID_DENIED", message));
    };
    guard::invite(ctx.hub.env(), sender, &invited.user_id).await?;
    if super::pretended(&ctx)?.is_some() {
        return Ok(Reply::empty());
    }
    let action = Action::Invite { is_direct: false };
    change(
        &ctx,
        &request.room_id,
        &invited.user_id,
        invited.reason.as_deref(),
        action,
    )
    .await
}

/// A [`change`] that suspended users may not make.
async fn moderate(
    ctx: &Ctx,
    room_id: &RoomId,
    target: &UserId,
    reason: Option<&str>,
    action: Action,
) -> Outcome<Reply> {
    active(ctx)?;
    change(ctx, room_id, target, reason, action).await
}

async fn kick(ctx: Ctx, request: kick_user::v3::Request) -> Outcome<Reply> {
    let (room, target) = (&request.room_id, &request.user_id);
    moderate(&ctx, room, target, request.reason.as_deref(), Action::Kick).await
}

async fn ban(ctx: Ctx, request: ban_user::v3::Request) -> Outcome<Reply> {
    let (room, target) = (&request.room_id, &request.user_id);
    moderate(&ctx, room, target, request.reason.as_deref(), Action::Ban).await
}

async fn unban(ctx: Ctx, request: unban_user::v3::Request) -> Outcome<Reply> {
    let (room, target) = (&request.room_id, &request.user_id);
    moderate(&ctx, room, target, request.reason.as_deref(), Action::Unban).await
}
