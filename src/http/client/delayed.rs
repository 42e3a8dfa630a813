//! Events that are sent later (MSC4140).

use actors::clock::Millis;
use actors::error::{DomainError, Outcome};
use actors::flows::delayed::{self, Action, Wish};
use entities::delayed_event::Model;
use http::Method;
use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::rooms;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;
use crate::http::ruma::require_object;

/// The query parameter with which clients delay an event that they send or set in the usual way (the older form).
const DELAY: &str = "org.matrix.msc4140.delay";
/// Events of one list.
const MAX_LISTED: u32 = 1_000;

/// Registers the chapter. Who knows a delay id may act on the event: services that see whether a client is still there.
pub fn routes(t: &mut Table) {
    const ALL: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
    const ONE: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}";
    const ACT: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}/{action}";
    const PUT: &str = "/_matrix/client/unstable/org.matrix.msc4140/rooms/{room_id}/delayed_event/{event_type}/{txn_id}";
    t.raw(Method::PUT, PUT, Policy::Guest, schedule).limit(Class::Message);
    t.raw(Method::GET, ALL, Policy::Guest, list).limit(Class::Default);
    t.raw(Method::GET, ONE, Policy::Guest, one).limit(Class::Default);
    t.raw(Method::POST, ONE, Policy::Open, act_by_body)
        .limit(Class::Default);
    t.raw(Method::POST, ACT, Policy::Open, act_by_path)
        .limit(Class::Default);
}

#[derive(Serialize)]
struct Scheduled {
    delay_id: String,
}

/// The delay that the query asks for.
///
/// # Errors
/// `M_INVALID_PARAM` for anything but a number.
pub(super) fn asked(ctx: &Ctx) -> Outcome<Option<Millis>> {
    let parse = |text: String| {
        let refusal = |_| DomainError::invalid_param(format!("{DELAY} is a number of milliseconds"));
        text.parse().map_err(refusal)
    };
    ctx.request.query_param(DELAY).map(parse).transpose()
}

/// Schedules an event in the older form, which has refusals of its own for delays that are too long.
///
/// # Errors
/// 400 `M_UNKNOWN` for those; as [`delayed::schedule`].
pub(super) async fn schedule_as_before(ctx: &Ctx, wish: Wish) -> Outcome<Reply> {
    match delayed::schedule(ctx.hub.env(), wish).await {
        Ok(delay_id) => Reply::json(&Scheduled { delay_id }),
        Err(DomainError::Matrix { message, extra, .. }) if extra.contains_key("org.matrix.msc4140.max_delay") => {
            let refusal = DomainError::unknown(message);
            Err(extra
                .into_iter()
                .fold(refusal, |refusal, (key, value)| refusal.with(&key, value)))
        }
        Err(error) => Err(error),
    }
}

async fn schedule(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        /// Milliseconds.
        #[serde(alias = "delay")]
        delay_ms: Millis,
        state_key: Option<String>,
        content: Box<RawValue>,
    }
    let identity = rooms::active(&ctx)?;
    let room_id: OwnedRoomId = request.parse(0)?;
    let body: Body = request.json()?;
    require_object(body.content.get().as_bytes())?;
    rooms::require_room(&ctx, &room_id).await?;
    let time = ctx
        .request
        .query_param("ts")
        .filter(|_| identity.appservice.is_some())
        .and_then(|ts| ts.parse().ok());
    let wish = Wish {
        user: identity.user_id.clone(),
        device: identity.device_id.clone(),
        room_id,
        kind: request.arg(1)?.to_owned(),
        state_key: body.state_key,
        content: body.content,
        delay_ms: body.delay_ms,
        txn_id: Some(request.arg(2)?.to_owned()),
        origin_server_ts: time,
    };
    let delay_id = delayed::schedule(ctx.hub.env(), wish).await?;
    Reply::json(&Scheduled { delay_id })
}

async fn list(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let (store, user) = (&ctx.hub.env().store, ctx.user()?.user_id.as_str());
    let events = match ctx.request.query_param("status").as_deref() {
        None | Some("scheduled") => store.scheduled_events(user, MAX_LISTED).await?,
        Some("finalised") => store.finalised_events(user, MAX_LISTED).await?,
        Some(_) => return Err(DomainError::invalid_param("status is scheduled or finalised")),
    };
    let shown: Vec<Value> = events.iter().map(show).collect();
    Reply::json(&json!({ "delayed_events": shown }))
}

async fn one(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user = &ctx.user()?.user_id;
    let found = ctx.hub.env().store.delayed_event(request.arg(0)?).await?;
    let own = found.filter(|event| event.user_id == user.as_str());
    let own = own.ok_or_else(|| DomainError::not_found("There is no such delayed event."))?;
    Reply::json(&show(&own))
}

/// With the names that members had in earlier versions beside today's.
fn show(event: &Model) -> Value {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let mut shown = json!({
        "delay_id": event.delay_id,
        "room_id": event.room_id,
        "type": event.r#type,
        "delay_ms": event.delay_ms,
        "delay": event.delay_ms,
        "scheduled_at": event.scheduled_ts,
        "running_since": event.scheduled_ts,
        "content": parsed(&event.content),
    });
    let rest = [
        ("state_key", event.state_key.as_ref().map(|key| json!(key))),
        ("finalised_ts", event.finalised_ts.map(|ts| json!(ts))),
        ("event_id", event.event_id.as_ref().map(|id| json!(id))),
        ("error", event.error.as_deref().map(parsed)),
    ];
    for (name, value) in rest {
        if let Some(value) = value {
            shown[name] = value;
        }
    }
    shown
}

async fn act_by_body(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        action: String,
    }
    let body: Body = request.json()?;
    let action = Action::of(&body.action);
    let action = action.ok_or_else(|| DomainError::invalid_param("action is cancel, restart or send"))?;
    act(&ctx, request.arg(0)?, action).await
}

async fn act_by_path(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let action = Action::of(request.arg(1)?);
    let action = action.ok_or_else(|| DomainError::unrecognized("Unrecognized request"))?;
    act(&ctx, request.arg(0)?, action).await
}

async fn act(ctx: &Ctx, delay_id: &str, action: Action) -> Outcome<Reply> {
    if action == Action::Send {
        ctx.limits.check(Class::Message, &delay_id)?;
    }
    delayed::act(&ctx.hub, delay_id, action).await?;
    Ok(Reply::empty())
}
