//! Third-party invites (server-server API, "Third-party invites").

use actors::error::{DomainError, Outcome};
use actors::flows::hosting::{self, Exchange};
use http::Method;
use ruma::api::federation::thirdparty::{bind_callback, exchange_invite};
use ruma::events::StateEventType;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(exchange);
    t.open(bound).limit(Class::Default);
    // As identity servers are known to call it.
    t.raw(
        Method::POST,
        "/_matrix/federation/v1/3pid/onbind",
        Policy::Open,
        bound_by_post,
    )
    .limit(Class::Default);
    // Beyond the specification.
    t.raw(
        Method::POST,
        "/_matrix/federation/v1/thirdparty/invite",
        Policy::Server,
        invite,
    );
}

async fn exchange(ctx: Ctx, request: exchange_invite::v1::Request) -> Outcome<Reply> {
    if request.kind != StateEventType::RoomMember {
        return Err(DomainError::invalid_param("the event is no m.room.member event"));
    }
    if let Ok(Named { room_id: Some(named) }) = ctx.request.json()
        && named != request.room_id
    {
        return Err(DomainError::invalid_param("the event belongs to another room"));
    }
    let content = request.content.json();
    let claim = Exchange::of(request.room_id, request.sender, request.state_key, content)?;
    hosting::exchange(&ctx.hub, ctx.origin()?, &claim).await?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
struct Named {
    room_id: Option<OwnedRoomId>,
}

async fn bound(ctx: Ctx, request: bind_callback::v1::Request) -> Outcome<Reply> {
    hosting::bound(&ctx.hub, &request.mxid, request.invites).await?;
    Ok(Reply::empty())
}

async fn bound_by_post(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        mxid: OwnedUserId,
        invites: Vec<bind_callback::v1::ThirdPartyInvite>,
    }
    let body: Body = request.json()?;
    hosting::bound(&ctx.hub, &body.mxid, body.invites).await?;
    Ok(Reply::empty())
}

async fn invite(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        room_id: OwnedRoomId,
        #[serde(alias = "state_key")]
        invitee: OwnedUserId,
        sender: OwnedUserId,
        content: Box<RawValue>,
    }
    let body: Body = request.json()?;
    let claim = Exchange::of(body.room_id, body.sender, body.invitee, &body.content)?;
    let event_id = hosting::exchange(&ctx.hub, ctx.origin()?, &claim).await?;
    Reply::json(&json!({ "event_id": event_id, "room_id": claim.room_id, "state": "invite" }))
}
