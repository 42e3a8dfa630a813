//! What users have reported.

use actors::error::{DomainError, Outcome};
use actors::room::summary::Summary;
use entities::event_report;
use entities::store::admin::reports::ReportFilter;
use http::Method;
use ruma::{EventId, RoomId};
use serde_json::{Value, json};

use super::params::{set_next, slice};
use super::rooms::rendered;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(Method::GET, "/_synapse/admin/v1/event_reports", admin, events);
    let one = "/_synapse/admin/v1/event_reports/{report_id}";
    t.raw(Method::GET, one, admin, event);
    t.raw(Method::DELETE, one, admin, delete_event);
    t.raw(Method::GET, "/_synapse/admin/v1/user_reports", admin, users);
    let one = "/_synapse/admin/v1/user_reports/{report_id}";
    t.raw(Method::GET, one, admin, user);
    t.raw(Method::DELETE, one, admin, delete_user);
}

fn param(ctx: &Ctx, name: &str) -> String {
    ctx.request.query_param(name).unwrap_or_default()
}

fn id(request: &RawRequest) -> Outcome<i64> {
    let parsed = request.arg(0)?.parse().ok().filter(|id| *id >= 0);
    parsed.ok_or_else(|| DomainError::invalid_param("The report_id must be a number that is not negative"))
}

fn unknown() -> DomainError {
    DomainError::not_found("Report not found")
}

async fn shown_event(ctx: &Ctx, row: &event_report::Model) -> Outcome<Value> {
    let (mut name, mut alias) = (None, None);
    if let Some(room_id) = row.room_id.as_deref().and_then(|id| RoomId::parse(id).ok())
        && let Some(room) = ctx.hub.rooms().view(&room_id).await?
    {
        let summary = Summary::of_room(&room);
        (name, alias) = (summary.name, summary.canonical_alias);
    }
    Ok(json!({
        "id": row.id,
        "received_ts": row.received_ts,
        "room_id": row.room_id,
        "event_id": row.event_id,
        "user_id": row.reporter,
        "reason": row.reason,
        "score": row.score,
        "sender": row.user_id,
        "name": name,
        "canonical_alias": alias,
    }))
}

async fn events(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let slice = slice(&ctx, true)?;
    let (reporter, room_id) = (param(&ctx, "user_id"), param(&ctx, "room_id"));
    let subject = param(&ctx, "event_sender_user_id");
    let filter = ReportFilter {
        kind: "event",
        reporter: &reporter,
        room_id: &room_id,
        subject: &subject,
    };
    let (rows, total) = ctx.hub.env().store.reports(&filter, slice).await?;
    let mut reports = Vec::with_capacity(rows.len());
    for row in &rows {
        reports.push(shown_event(&ctx, row).await?);
    }
    let mut answer = json!({ "event_reports": reports, "total": total });
    set_next(&mut answer, slice, rows.len(), total);
    Reply::json(&answer)
}

async fn event(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let row = env.store.report("event", id(&request)?).await?.ok_or_else(unknown)?;
    let mut report = shown_event(&ctx, &row).await?;
    let event_id = row.event_id.as_deref().and_then(|id| EventId::parse(id).ok());
    if let Some(event_id) = event_id
        && let Some(event) = env.rooms.event_by_id(&event_id).await?
    {
        report["event_json"] = serde_json::from_str(rendered(&ctx, &event)?.get())
            .map_err(|e| DomainError::internal(format!("event {event_id}: {e}")))?;
    }
    Reply::json(&report)
}

async fn delete_event(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    delete(&ctx, &request, "event").await
}

async fn delete(ctx: &Ctx, request: &RawRequest, kind: &str) -> Outcome<Reply> {
    match ctx.hub.env().store.delete_report(kind, id(request)?).await? {
        true => Ok(Reply::empty()),
        false => Err(unknown()),
    }
}

fn shown_user(row: &event_report::Model) -> Value {
    json!({
        "id": row.id,
        "received_ts": row.received_ts,
        "target_user_id": row.user_id,
        "user_id": row.reporter,
        "reason": row.reason,
    })
}

async fn users(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let slice = slice(&ctx, true)?;
    let (reporter, subject) = (param(&ctx, "user_id"), param(&ctx, "target_user_id"));
    let filter = ReportFilter {
        kind: "user",
        reporter: &reporter,
        room_id: "",
        subject: &subject,
    };
    let (rows, total) = ctx.hub.env().store.reports(&filter, slice).await?;
    let mut answer = json!({ "user_reports": rows.iter().map(shown_user).collect::<Vec<_>>(), "total": total });
    set_next(&mut answer, slice, rows.len(), total);
    Reply::json(&answer)
}

async fn user(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let row = ctx.hub.env().store.report("user", id(&request)?).await?;
    Reply::json(&shown_user(&row.ok_or_else(unknown)?))
}

async fn delete_user(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    delete(&ctx, &request, "user").await
}
