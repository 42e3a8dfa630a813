//! The federation doctor: which servers have an event, and why others do not.

use std::collections::BTreeSet;

use actors::error::{DomainError, Outcome};
use actors::peer::handle::Pace;
use actors::peer::view::Trace;
use actors::room::event::StoredEvent;
use futures_util::{StreamExt as _, stream};
use http::Method;
use ruma::api::federation::event::get_event;
use ruma::{EventId, OwnedServerName, ServerName, UserId};
use serde_json::{Value, json};

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Servers that are asked for one event.
const MAX_ASKED: usize = 200;
/// Servers that are asked at the same time.
const AT_ONCE: usize = 8;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    let path = "/_synapse/admin/v1/federation/events/{event_id}";
    t.raw(Method::GET, path, Policy::Admin, event);
}

/// An event, and how it stands with each server that was in its room. Of events that others send this server knows
/// nothing; with `?ask=true` the servers themselves are asked.
async fn event(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let missing = || DomainError::not_found("Unknown event");
    let event_id = EventId::parse(request.arg(0)?).map_err(|_| missing())?;
    let env = ctx.hub.env();
    let event = env.rooms.event_by_id(&event_id).await?.ok_or_else(missing)?;
    let room = env.rooms.view_nid(event.room_nid).await?.ok_or_else(missing)?;
    let ours = match event.pos {
        Some(pos) => env.is_local(&event.pdu.sender) || env.store.is_relayed(pos.0).await?,
        None => false,
    };
    // What the queues do not hold was sent, once they have been given everything.
    ctx.hub.peers().catch_up().await;
    let ask = ctx.request.query_param("ask").as_deref() == Some("true");
    let servers: Vec<OwnedServerName> = servers_at(&ctx, &event).await?.into_iter().collect();
    let (look, event_ref) = (&ctx, &event);
    let found = stream::iter(servers.into_iter().enumerate())
        .map(|(index, server)| async move {
            let mut found = standing(look, event_ref, ours, &server).await?;
            if ask && index < MAX_ASKED {
                found["asked"] = asked(look, event_ref.event_id(), &server).await;
            }
            Ok::<_, DomainError>(found)
        })
        .buffered(AT_ONCE);
    let found: Vec<Outcome<Value>> = found.collect().await;
    Reply::json(&json!({
        "event_id": event_id,
        "room_id": room.room_id,
        "sender": event.pdu.sender,
        "position": event.pos.map(|pos| pos.0),
        "status": format!("{:?}", event.status).to_lowercase(),
        "sent_by_us": ours,
        "servers": found.into_iter().collect::<Outcome<Vec<_>>>()?,
    }))
}

/// What this server knows about the event and another server.
async fn standing(ctx: &Ctx, event: &StoredEvent, ours: bool, server: &ServerName) -> Outcome<Value> {
    let Some(pos) = event.pos.filter(|_| ours) else {
        let state = if event.pdu.sender.server_name() == server {
            "origin"
        } else {
            "unknown"
        };
        return Ok(json!({ "server": server, "state": state }));
    };
    if event.pdu.sender.server_name() == server {
        return Ok(json!({ "server": server, "state": "origin" }));
    }
    let view = ctx.hub.peers().look(server).await?;
    let info = view.info(ctx.hub.env().clock.now_ms());
    let refusal = view.refusal(event.event_id());
    let (state, at) = match (&refusal, view.trace(event.room_nid, pos.0)) {
        (Some(_), _) => ("refused", None),
        (None, Trace::Waits) => ("waits", None),
        (None, Trace::Owed) => ("owed", None),
        (None, Trace::Sent(at)) => ("sent", at),
    };
    let sent = state == "sent";
    Ok(json!({
        "server": server,
        "state": state,
        "sent_ts": at,
        "why": refusal.or_else(|| info.last_error.filter(|_| !sent)),
        "next_try_ts": info.next_try_ts.filter(|_| !sent),
    }))
}

/// What the server itself says.
async fn asked(ctx: &Ctx, event_id: &EventId, server: &ServerName) -> Value {
    let request = get_event::v1::Request::new(event_id.to_owned());
    match ctx.hub.peers().call(server, request, Pace::Now).await {
        Ok(_) => json!({ "has": true }),
        Err(DomainError::Matrix {
            status: 404, message, ..
        }) => json!({ "has": false, "error": message }),
        Err(error) => json!({ "has": null, "error": error.to_string() }),
    }
}

/// The other servers that were in the room before the event, and that of the user whose membership it changes.
async fn servers_at(ctx: &Ctx, event: &StoredEvent) -> Outcome<BTreeSet<OwnedServerName>> {
    let env = ctx.hub.env();
    let mut servers = BTreeSet::new();
    let mut add = |user: &str| servers.extend(<&UserId>::try_from(user).ok().map(|user| user.server_name().to_owned()));
    if event.pdu.membership().is_some() {
        event.pdu.state_key.as_deref().into_iter().for_each(&mut add);
    }
    if let Some(group) = event.state_group {
        let state = env.rooms.state_at_group(group).await?;
        let joined = state.iter().filter(|(_, event)| event.pdu.has_membership("join"));
        joined.for_each(|((_, user), _)| add(user));
    }
    servers.remove(&env.server_name);
    Ok(servers)
}
