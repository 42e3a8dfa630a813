//! Reports of events, rooms and users (client-server API, "Reporting Content").

use actors::error::{DomainError, Outcome};
use actors::room::read;
use entities::event_report;
use http::Method;
use ruma::api::client::reporting::report_user;
use ruma::api::client::room::{report_content, report_room};
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Bytes of the longest reason.
const MAX_REASON: usize = 10_000;

pub(super) fn routes(table: &mut Table) {
    table.user::<report_content::v3::Request, _>(event);
    table.user::<report_room::v3::Request, _>(room);
    table.user::<report_user::v3::Request, _>(user).fix(|body, _| {
        if body.get("reason").is_none() {
            body["reason"] = "".into();
        }
    });
    table
        .raw(
            Method::PUT,
            "/_matrix/client/r0/rooms/{room_id}/report/{event_id}/score",
            Policy::User,
            score,
        )
        .also("/_matrix/client/v3/rooms/{room_id}/report/{event_id}/score");
}

#[derive(Deserialize)]
struct Score {
    score: Option<i64>,
}

/// -100 (most offensive) to 0; the specification has dropped it.
fn checked(score: Option<i64>) -> Outcome<Option<i64>> {
    match score {
        Some(score) if !(-100..=0).contains(&score) => Err(DomainError::bad_json("score is a number from -100 to 0")),
        score => Ok(score),
    }
}

/// What is reported, by its kind.
#[derive(Default)]
struct Subject {
    kind: &'static str,
    room_id: Option<String>,
    event_id: Option<String>,
    user_id: Option<String>,
}

async fn keep(ctx: &Ctx, subject: Subject, reason: Option<String>, score: Option<i64>) -> Outcome<Reply> {
    let env = ctx.hub.env();
    if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
        return Err(DomainError::too_large(format!(
            "the reason is longer than {MAX_REASON} bytes"
        )));
    }
    let report = event_report::Model {
        id: env.ids.take(1).await?,
        kind: subject.kind.to_owned(),
        reporter: ctx.user()?.user_id.to_string(),
        room_id: subject.room_id,
        event_id: subject.event_id,
        user_id: subject.user_id,
        reason: reason.filter(|reason| !reason.is_empty()),
        score,
        received_ts: env.clock.now_ms(),
    };
    env.store.insert_report(report).await?;
    Ok(Reply::empty())
}

async fn event(ctx: Ctx, request: report_content::v3::Request) -> Outcome<Reply> {
    let body: Score = ctx.request.json()?;
    let score = checked(body.score)?;
    let missing = |_| DomainError::not_found("there is no such event, or you may not see it");
    let env = ctx.hub.env();
    let access = read::access(env, &ctx.user()?.user_id, &request.room_id)
        .await
        .map_err(missing)?;
    let event = read::event(env, &access, &request.event_id).await.map_err(missing)?;
    let subject = Subject {
        kind: "event",
        room_id: Some(request.room_id.to_string()),
        event_id: Some(request.event_id.to_string()),
        user_id: Some(event.pdu.sender.to_string()),
    };
    keep(&ctx, subject, request.reason, score).await
}

async fn score(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (room_id, event_id): (OwnedRoomId, OwnedEventId) = (request.parse(0)?, request.parse(1)?);
    let body: Score = request.json()?;
    let score = checked(body.score)?.ok_or_else(|| DomainError::missing_param("missing field `score`"))?;
    let identity = ctx.user()?;
    let reporter = (!identity.is_admin).then_some(identity.user_id.as_str());
    let store = &ctx.hub.env().store;
    match store
        .set_report_score(room_id.as_str(), event_id.as_str(), reporter, score)
        .await?
    {
        0 => Err(DomainError::not_found("there is no report of yours about this event")),
        _ => Ok(Reply::empty()),
    }
}

async fn room(ctx: Ctx, request: report_room::v3::Request) -> Outcome<Reply> {
    let room = ctx.hub.rooms().view(&request.room_id).await?;
    room.ok_or_else(|| DomainError::not_found(format!("there is no room {}", request.room_id)))?;
    let subject = Subject {
        kind: "room",
        room_id: Some(request.room_id.to_string()),
        ..Subject::default()
    };
    keep(&ctx, subject, Some(request.reason), None).await
}

async fn user(ctx: Ctx, request: report_user::v3::Request) -> Outcome<Reply> {
    let env = ctx.hub.env();
    if env.is_local(&request.user_id) && actors::session::load::view(env, &request.user_id).await?.is_none() {
        return Err(DomainError::not_found(format!("there is no user {}", request.user_id)));
    }
    let subject = Subject {
        kind: "user",
        user_id: Some(request.user_id.to_string()),
        ..Subject::default()
    };
    keep(&ctx, subject, Some(request.reason), None).await
}
