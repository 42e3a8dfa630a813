//! What came before `/sync`: `initialSync`, `/events` (client-server API, deprecated endpoints; peeking still uses them).

use std::sync::Arc;
use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::room::event::StoredEvent;
use actors::room::read::{self, PageQuery};
use actors::session::load;
use actors::session::sync::global::{data_event, presence_event};
use actors::session::sync::invited::stripped_state;
use actors::stream::token::Token;
use entities::account_data;
use entities::ids::StreamPos;
use http::Method;
use ruma::api::client::filter::RoomEventFilter;
use ruma::api::client::peeking::get_current_state;
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::Reading;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// The longest a request is held.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a room is looked at that the user is not in: nothing wakes its readers.
const PEEK: Duration = Duration::from_secs(1);
/// Events in one answer of `/events`.
const MAX_EVENTS: usize = 100;
/// Rooms in one answer.
const MAX_ROOMS: usize = 1_000;
/// Messages of each room where the client does not say.
const DEFAULT_MESSAGES: usize = 20;

pub(super) fn routes(table: &mut Table) {
    table.guest::<get_current_state::v3::Request, _>(one_room);
    table
        .raw(Method::GET, "/_matrix/client/r0/initialSync", Policy::User, all_rooms)
        .also("/_matrix/client/v3/initialSync");
    table
        .raw(Method::GET, "/_matrix/client/r0/events", Policy::Guest, events)
        .also("/_matrix/client/v3/events")
        .long_poll();
    table
        .raw(Method::GET, "/_matrix/client/r0/events/{event_id}", Policy::User, event)
        .also("/_matrix/client/v3/events/{event_id}");
}

async fn one_room(ctx: Ctx, request: get_current_state::v3::Request) -> Outcome<Reply> {
    let limit = limit(&ctx);
    let rows = ctx
        .hub
        .env()
        .store
        .account_data_all(ctx.user()?.user_id.as_str())
        .await?;
    let mut block = room_block(&ctx, &request.room_id, limit, &rows).await?;
    block["presence"] = json!([]);
    block["receipts"] = json!([]);
    Reply::json(&block)
}

fn limit(ctx: &Ctx) -> usize {
    let limit = ctx.request.query_param("limit").and_then(|limit| limit.parse().ok());
    limit.unwrap_or(DEFAULT_MESSAGES).clamp(1, MAX_EVENTS)
}

/// A room the user is or was in.
async fn room_block(ctx: &Ctx, room_id: &RoomId, limit: usize, data: &[account_data::Model]) -> Outcome<Value> {
    let reading = Reading::open(ctx, room_id).await?;
    let env = ctx.hub.env();
    let filter = RoomEventFilter::default();
    let query = PageQuery {
        from: None,
        to: None,
        backwards: true,
        limit,
        filter: &filter,
    };
    let mut page = read::page(env, &reading.access, &query).await?;
    page.events.reverse();
    reading.without_ignored(&mut page.events);
    let state = read::state(env, &reading.access).await?;
    let published = env.store.is_published(room_id.as_str()).await?;
    let data = data
        .iter()
        .filter(|row| row.room_id == room_id.as_str())
        .filter_map(data_event);
    Ok(json!({
        "room_id": room_id,
        "membership": reading.access.room.membership(&reading.viewer.user),
        "visibility": if published { "public" } else { "private" },
        "messages": {
            // Where to page back from, and where to go on from.
            "start": page.end.unwrap_or(page.start).to_string(),
            "end": page.start.to_string(),
            "chunk": reading.render(&page.events).await?,
        },
        "state": reading.render_state(&state),
        "account_data": data.collect::<Vec<Box<RawValue>>>(),
    }))
}

async fn all_rooms(ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let user = &ctx.user()?.user_id;
    let (limit, upto) = (limit(&ctx), env.visible());
    let archived = ctx.request.query_param("archived").as_deref() == Some("true");
    let data = env.store.account_data_all(user.as_str()).await?;
    let view = load::view(env, user).await?;
    let is_ignored = |sender: &str| {
        let view = view.as_ref().zip(UserId::parse(sender).ok());
        view.is_some_and(|(view, sender)| view.ignored.contains(&sender))
    };
    let mut rooms = Vec::new();
    for (membership, row) in env.store.memberships_of_user(user.as_str(), None).await? {
        let Ok(room_id) = RoomId::parse(&row.room_id) else {
            continue;
        };
        if rooms.len() == MAX_ROOMS || membership.forgotten {
            continue;
        }
        match membership.membership.as_str() {
            "join" => rooms.push(room_block(&ctx, &room_id, limit, &data).await?),
            "invite" if is_ignored(&membership.sender) => {}
            "invite" => rooms.extend(invited(&ctx, &room_id, &membership.sender).await?),
            "leave" | "ban" if archived => rooms.extend(room_block(&ctx, &room_id, limit, &data).await.ok()),
            _ => {}
        }
    }
    let now = env.clock.now_ms();
    let sharing = env.store.users_sharing_rooms(user.as_str()).await?;
    let presence = env.store.presence_of(&sharing).await?;
    let global = data.iter().filter(|row| row.room_id.is_empty()).filter_map(data_event);
    Reply::json(&json!({
        "end": Token::Live(upto).to_string(),
        "rooms": rooms,
        "presence": presence.iter().filter_map(|row| presence_event(row, now)).collect::<Vec<_>>(),
        "account_data": global.collect::<Vec<_>>(),
    }))
}

async fn invited(ctx: &Ctx, room_id: &RoomId, inviter: &str) -> Outcome<Option<Value>> {
    let Some(room) = ctx.hub.rooms().view(room_id).await? else {
        return Ok(None);
    };
    let user = &ctx.user()?.user_id;
    let state = stripped_state(&room, user);
    Ok(Some(
        json!({ "room_id": room_id, "membership": "invite", "inviter": inviter, "invite": state }),
    ))
}

/// New events of one room, or of all that the user is in.
async fn events(ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let identity = ctx.user()?;
    let query = |name: &str| ctx.request.query_param(name);
    let bad = |what: &str| DomainError::invalid_param(format!("{what} is not valid"));
    let room_id = query("room_id")
        .map(RoomId::parse)
        .transpose()
        .map_err(|_| bad("room_id"))?;
    if identity.is_guest && room_id.is_none() {
        return Err(DomainError::missing_param("guests name the room"));
    }
    let timeout = query("timeout")
        .map(|ms| ms.parse().map_err(|_| bad("timeout")))
        .transpose()?;
    let timeout = timeout.map_or(Duration::ZERO, Duration::from_millis).min(MAX_TIMEOUT);
    let from = match query("from").filter(|from| !from.is_empty()) {
        Some(from) => Token::parse(&from)?.pos().min(env.visible()),
        None => env.visible(),
    };
    let feed = env.feeds.open(&identity.user_id, env.clock.now_ms());
    let mut wake = feed.subscribe();
    let deadline = Instant::now() + timeout;
    loop {
        wake.borrow_and_update();
        // The device may have been logged out while it waited.
        let view = load::view(env, &identity.user_id).await?;
        if !view.is_some_and(|view| view.has_session(&identity.device_id)) {
            return Err(DomainError::unknown_token("the device is no more"));
        }
        let (chunk, end) = news(&ctx, room_id.as_ref(), from).await?;
        if !chunk.is_empty() || Instant::now() >= deadline || env.feeds.is_closed() {
            return Reply::json(&json!({
                "start": Token::Live(from).to_string(),
                "end": Token::Live(end).to_string(),
                "chunk": chunk,
            }));
        }
        let peek = if room_id.is_some() {
            deadline.min(Instant::now() + PEEK)
        } else {
            deadline
        };
        tokio::select! {
            _ = wake.changed() => {}
            () = sleep_until(peek) => {}
        }
    }
}

/// The oldest events after `from`, and up to where that was everything.
async fn news(ctx: &Ctx, room_id: Option<&OwnedRoomId>, from: StreamPos) -> Outcome<(Vec<Box<RawValue>>, StreamPos)> {
    let env = ctx.hub.env();
    let upto = env.visible();
    let user = &ctx.user()?.user_id;
    let rooms = match room_id {
        Some(room_id) => vec![room_id.clone()],
        None => {
            let joined: Option<&[&str]> = Some(&["join"]);
            let rows = env.store.memberships_of_user(user.as_str(), joined).await?;
            let nids: Vec<i64> = rows.iter().map(|(_, room)| room.nid).collect();
            let changed = env.store.rooms_changed_since(&nids, from.0, upto.0).await?;
            let changed = |nid: i64| changed.iter().any(|(other, _)| *other == nid);
            let rows = rows.into_iter().filter(|(_, room)| changed(room.nid));
            rows.filter_map(|(_, room)| RoomId::parse(room.room_id).ok())
                .take(MAX_ROOMS)
                .collect()
        }
    };
    let filter = RoomEventFilter::default();
    let mut found: Vec<(StreamPos, Box<RawValue>)> = Vec::new();
    let mut end = upto;
    for room_id in rooms {
        let reading = Reading::open(ctx, &room_id).await?;
        let query = PageQuery {
            from: Some(Token::Live(from)),
            to: None,
            backwards: false,
            limit: MAX_EVENTS,
            filter: &filter,
        };
        let mut page = read::page(env, &reading.access, &query).await?;
        if let Some(stopped) = page.end {
            end = end.min(stopped.pos());
        }
        reading.without_ignored(&mut page.events);
        let positions: Vec<_> = page
            .events
            .iter()
            .map(|event: &Arc<StoredEvent>| event.pos.unwrap_or_default())
            .collect();
        found.extend(positions.into_iter().zip(reading.render(&page.events).await?));
    }
    found.retain(|(pos, _)| *pos <= end);
    found.sort_by_key(|(pos, _)| *pos);
    if found.len() > MAX_EVENTS {
        end = found[MAX_EVENTS - 1].0;
        found.truncate(MAX_EVENTS);
    }
    Ok((found.into_iter().map(|(_, event)| event).collect(), end))
}

async fn event(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let event_id: OwnedEventId = request.parse(0)?;
    let missing = || DomainError::not_found("event not found");
    let event = ctx.hub.env().rooms.event_by_id(&event_id).await?.ok_or_else(missing)?;
    let reading = Reading::open(&ctx, &event.pdu.room_id).await.map_err(|_| missing())?;
    let event = read::event(ctx.hub.env(), &reading.access, &event_id).await?;
    Reply::json(&reading.render(&[event]).await?[0])
}
