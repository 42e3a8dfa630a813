//! Subscriptions to threads (MSC4306, MSC4308).

use actors::error::{DomainError, Outcome};
use actors::room::event::{StoredEvent, relation_of};
use actors::room::read;
use actors::session::data::{DataCommand, Interest};
use actors::session::identity::Identity;
use entities::thread_subscription::Model;
use http::Method;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::data::ask;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Changes of a page, where the client names no number, and at most.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1_000;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    const ONE: &str =
        "/_matrix/client/unstable/io.element.msc4306/rooms/{room_id}/thread/{thread_root_id}/subscription";
    const ALL: &str = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";
    t.raw(Method::GET, ONE, Policy::User, one).limit(Class::Default);
    t.raw(Method::PUT, ONE, Policy::User, subscribe).limit(Class::Default);
    t.raw(Method::DELETE, ONE, Policy::User, unsubscribe)
        .limit(Class::Default);
    t.raw(Method::GET, ALL, Policy::User, changes).limit(Class::Default);
}

fn no_thread() -> DomainError {
    DomainError::not_found("There is no such thread.")
}

/// An event that the user may read; others are as good as none.
async fn readable(ctx: &Ctx, user: &Identity, room_id: &RoomId, id: &EventId) -> Outcome<Arc<StoredEvent>> {
    let env = ctx.hub.env();
    let hidden = |error: DomainError| match error.errcode() {
        Some("M_FORBIDDEN" | "M_NOT_FOUND") => no_thread(),
        _ => error,
    };
    let access = read::access(env, &user.user_id, room_id).await.map_err(hidden)?;
    read::event(env, &access, id).await.map_err(hidden)
}

async fn place(ctx: &Ctx, request: &RawRequest) -> Outcome<(OwnedRoomId, OwnedEventId)> {
    let (room_id, root): (OwnedRoomId, OwnedEventId) = (request.parse(0)?, request.parse(1)?);
    readable(ctx, ctx.user()?, &room_id, &root).await?;
    Ok((room_id, root))
}

async fn one(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (room_id, root) = place(&ctx, &request).await?;
    let (store, user) = (&ctx.hub.env().store, ctx.user()?.user_id.as_str());
    let found = store.thread_subscription(user, room_id.as_str(), root.as_str()).await?;
    let found = found.filter(|row| row.subscribed);
    let found = found.ok_or_else(|| DomainError::not_found("You are not subscribed to this thread."))?;
    Reply::json(&json!({ "automatic": found.automatic }))
}

async fn subscribe(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        automatic: Option<OwnedEventId>,
    }
    let body: Body = request.json()?;
    let (room_id, root) = place(&ctx, &request).await?;
    let wanted = match &body.automatic {
        None => Interest::Manual,
        Some(cause) => cause_of(&ctx, &room_id, &root, cause).await?,
    };
    set(&ctx, room_id, root, wanted).await
}

async fn cause_of(ctx: &Ctx, room_id: &RoomId, root: &EventId, cause: &EventId) -> Outcome<Interest> {
    let outside = || {
        let message = "the event is not in this thread";
        DomainError::matrix(400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", message)
    };
    let cause = match readable(ctx, ctx.user()?, room_id, cause).await {
        Ok(cause) => cause,
        Err(error) if error.errcode() == Some("M_NOT_FOUND") => return Err(outside()),
        Err(error) => return Err(error),
    };
    let (relates_to, kind) = relation_of(&cause.pdu);
    let inside = kind.as_deref() == Some("m.thread") && relates_to.as_deref() == Some(root.as_str());
    match inside {
        true => Ok(Interest::Automatic(cause.pos.unwrap_or_default())),
        false => Err(outside()),
    }
}

async fn unsubscribe(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (room_id, root) = place(&ctx, &request).await?;
    set(&ctx, room_id, root, Interest::None).await
}

async fn set(ctx: &Ctx, room_id: OwnedRoomId, root: OwnedEventId, wanted: Interest) -> Outcome<Reply> {
    ask(ctx, DataCommand::Thread { room_id, root, wanted }).await?;
    Ok(Reply::empty())
}

/// Pages backwards; a token is the position up to which, or after which, changes are told.
async fn changes(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let param = |name: &str| ctx.request.query_param(name);
    if param("dir").as_deref() != Some("b") {
        return Err(DomainError::invalid_param("dir is b"));
    }
    let number = |name: &str| {
        let refusal = |_| DomainError::invalid_param(format!("{name} is not known"));
        param(name).map(|text| text.parse::<i64>().map_err(refusal)).transpose()
    };
    let limit = number("limit")?.unwrap_or_else(|| i64::from(PAGE));
    let limit = u32::try_from(limit).ok().filter(|&limit| limit > 0);
    let limit = limit.ok_or_else(|| DomainError::invalid_param("limit is greater than zero"))?;
    let limit = limit.min(MAX_PAGE);
    let env = ctx.hub.env();
    let (after, upto) = (number("to")?.unwrap_or(0), number("from")?.unwrap_or(i64::MAX));
    let upto = upto.min(env.visible().0);
    let user = ctx.user()?.user_id.as_str();
    let rows = env.store.thread_subscription_changes(user, after, upto, limit).await?;
    Reply::json(&page(&rows, limit))
}

fn page(rows: &[Model], limit: u32) -> Value {
    let (mut on, mut off) = (Map::new(), Map::new());
    for row in rows {
        let (list, shown) = match row.subscribed {
            true => (&mut on, json!({ "automatic": row.automatic, "bump_stamp": row.pos })),
            false => (&mut off, json!({ "bump_stamp": row.pos })),
        };
        let room = list.entry(row.room_id.as_str()).or_insert_with(|| json!({}));
        room[row.root_id.as_str()] = shown;
    }
    let mut page = json!({ "subscribed": on, "unsubscribed": off });
    if let Some(last) = rows.last().filter(|_| rows.len() == limit as usize) {
        page["end"] = json!((last.pos - 1).to_string());
    }
    page
}
