//! Friends: requests, the list, notes and statuses. No chapter of the specification; a friend's room is an ordinary direct
//! chat, and whom one has blocked is whom one ignores, so every client shows both.

use actors::error::{DomainError, Outcome};
use actors::flows::friends::show::{self, Face, Friend};
use actors::flows::friends::{self, Made};
use actors::session::friends::half::Standing;
use actors::session::friends::{Status, Wish};
use http::Method;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::rooms::active;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::{Handler, Registration, Table};
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Registers a path with its alias: `$rest` stands below `/friends`.
macro_rules! both {
    ($t:ident, $method:ident, $rest:literal, $handler:ident) => {
        at(
            $t,
            Method::$method,
            concat!("/_matrix/client/v1/friends", $rest),
            concat!("/_matrix/client/unstable/org.synapse_rust/friends", $rest),
            $handler,
        )
    };
}

fn at<'t, F: Handler<actors::hub::Hub, RawRequest>>(
    t: &'t mut Table,
    method: Method,
    path: &'static str,
    alias: &'static str,
    handler: F,
) -> Registration<'t> {
    t.raw(method, path, Policy::User, handler).also(alias)
}

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    both!(t, GET, "", list);
    both!(t, POST, "/request", request).limit(Class::Invite);
    both!(t, POST, "/request/{user_id}/accept", accept).limit(Class::Join);
    both!(t, POST, "/request/{user_id}/reject", reject).limit(Class::Default);
    both!(t, POST, "/request/{user_id}/cancel", cancel).limit(Class::Default);
    both!(t, GET, "/requests/incoming", incoming);
    both!(t, GET, "/requests/outgoing", outgoing);
    both!(t, DELETE, "/{user_id}", remove).limit(Class::Default);
    both!(t, GET, "/{user_id}/info", info);
    both!(t, PUT, "/{user_id}/note", set_note).limit(Class::Default);
    both!(t, PUT, "/{user_id}/status", set_status).limit(Class::Default);
}

/// The path's user.
fn other(request: &RawRequest) -> Outcome<OwnedUserId> {
    request.parse(0)
}

async fn list(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let friends = show::friends(&ctx.hub, &ctx.user()?.user_id).await?;
    let friends: Vec<Value> = friends.iter().map(in_list).collect();
    Reply::json(&json!({ "total": friends.len(), "friends": friends }))
}

/// In the list `status` is the presence.
fn in_list(friend: &Friend) -> Value {
    let mut entry = in_full(friend);
    entry["status"] = friend.presence.into();
    entry["friend_status"] = friend.status.into();
    entry
}

fn in_full(friend: &Friend) -> Value {
    let Face {
        display_name,
        avatar_url,
    } = &friend.face;
    json!({
        "user_id": friend.user_id,
        "display_name": display_name,
        "avatar_url": avatar_url,
        "since": friend.since / 1_000,
        "status": friend.status,
        "presence": friend.presence,
        "note": friend.note,
        "dm_room_id": friend.room_id,
    })
}

async fn info(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let friend = show::friend(&ctx.hub, &ctx.user()?.user_id, &other(&request)?).await?;
    Reply::json(&in_full(&friend))
}

async fn incoming(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    requests(&ctx, Standing::Incoming).await
}

async fn outgoing(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    requests(&ctx, Standing::Outgoing).await
}

async fn requests(ctx: &Ctx, wanted: Standing) -> Outcome<Reply> {
    let requests = show::requests(&ctx.hub, &ctx.user()?.user_id, wanted).await?;
    let entry = |request: show::Request| {
        json!({
            "user_id": request.user_id,
            "display_name": request.face.display_name,
            "avatar_url": request.face.avatar_url,
            "message": request.message,
            "timestamp": request.timestamp,
            "room_id": request.room_id,
            "status": "pending",
        })
    };
    let requests: Vec<Value> = requests.into_iter().map(entry).collect();
    Reply::json(&json!({ "requests": requests }))
}

async fn request(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        user_id: String,
        message: Option<String>,
    }
    let user = &active(&ctx)?.user_id;
    let Body { user_id, message } = request.json()?;
    let friend = UserId::parse(&user_id).map_err(|e| DomainError::invalid_param(format!("user_id: {e}")))?;
    let message = message.filter(|message| !message.is_empty());
    made(&friends::request(&ctx.hub, user, &friend, message).await?)
}

async fn accept(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user = &active(&ctx)?.user_id;
    made(&friends::accept(&ctx.hub, user, &other(&request)?).await?)
}

fn made(made: &Made) -> Outcome<Reply> {
    let status = if made.are_friends { "accepted" } else { "pending" };
    Reply::json(&json!({ "room_id": made.room_id, "status": status }))
}

async fn reject(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    end(&ctx, &other(&request)?, Standing::Incoming).await?;
    Reply::json(&json!({ "status": "rejected" }))
}

async fn cancel(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    end(&ctx, &other(&request)?, Standing::Outgoing).await?;
    Reply::json(&json!({ "status": "cancelled" }))
}

async fn remove(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    end(&ctx, &other(&request)?, Standing::Friends).await?;
    Ok(Reply::empty())
}

async fn end(ctx: &Ctx, friend: &UserId, expected: Standing) -> Outcome<()> {
    friends::end(&ctx.hub, &ctx.user()?.user_id, friend, expected).await
}

async fn set_note(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        note: String,
    }
    let Body { note } = request.json()?;
    friends::set_note(&ctx.hub, &ctx.user()?.user_id, &other(&request)?, note).await?;
    Ok(Reply::empty())
}

async fn set_status(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        status: String,
    }
    let Body { status } = request.json()?;
    let status = Status::named(&status)
        .ok_or_else(|| DomainError::invalid_param("status is favorite, normal, blocked or hidden"))?;
    let (user, friend) = (&ctx.user()?.user_id, other(&request)?);
    if *user == friend {
        return Err(DomainError::invalid_param("nobody is their own friend"));
    }
    ctx.hub.sessions().befriend(user, &friend, Wish::Status(status)).await?;
    Ok(Reply::empty())
}
