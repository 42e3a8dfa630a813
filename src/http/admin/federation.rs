//! How it goes with other servers: Synapse's list of destinations, what waits for one, and how a room stands here and
//! elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use actors::error::{DomainError, Outcome};
use actors::peer::handle::Pace;
use actors::peer::view::PeerView;
use actors::room::snapshot::RoomSnapshot;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use entities::destination;
use entities::ids::RoomNid;
use entities::store::peer::DestinationOrder;
use http::Method;
use ruma::api::federation::event::get_room_state_ids;
use ruma::{EventId, OwnedRoomId, OwnedServerName, ServerName};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Entries of one list.
const DEFAULT_LIMIT: i64 = 100;
/// The most that may be asked for.
const MAX_LIMIT: i64 = 1_000;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    let base = "/_synapse/admin/v1/federation/destinations";
    t.raw(Method::GET, base, admin, list);
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/federation/destinations/{destination}",
        admin,
        one,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/federation/destinations/{destination}/rooms",
        admin,
        rooms,
    );
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/federation/destinations/{destination}/reset_connection",
        admin,
        reset,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/federation/destinations/{destination}/queue",
        admin,
        queue,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/federation/rooms/{room_id}",
        admin,
        room,
    );
}

/// As Synapse shows it: a server that is not left alone was not tried in vain.
fn shown(row: &destination::Model) -> Value {
    json!({
        "destination": row.server_name,
        "retry_last_ts": if row.retry_interval_ms > 0 { row.last_try_ts } else { 0 },
        "retry_interval": row.retry_interval_ms,
        "failure_ts": row.failing_since_ts,
        "last_successful_stream_ordering": (row.last_sent_pos > 0).then_some(row.last_sent_pos),
    })
}

fn number(ctx: &Ctx, name: &str, default: i64) -> Outcome<i64> {
    let Some(text) = ctx.request.query_param(name) else {
        return Ok(default);
    };
    let parsed = text.parse().ok().filter(|number| *number >= 0);
    parsed.ok_or_else(|| DomainError::invalid_param(format!("{name} must be a number that is not negative")))
}

async fn list(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let from = number(&ctx, "from", 0)?;
    let limit = number(&ctx, "limit", DEFAULT_LIMIT)?.min(MAX_LIMIT);
    let order = match ctx.request.query_param("order_by").as_deref() {
        None | Some("destination") => DestinationOrder::Name,
        Some("retry_last_ts") => DestinationOrder::LastTry,
        Some("retry_interval") => DestinationOrder::RetryInterval,
        Some("failure_ts") => DestinationOrder::FailingSince,
        Some("last_successful_stream_ordering") => DestinationOrder::LastSent,
        Some(_) => return Err(DomainError::invalid_param("unknown order_by")),
    };
    let backwards = match ctx.request.query_param("dir").as_deref() {
        None | Some("f") => false,
        Some("b") => true,
        Some(_) => return Err(DomainError::invalid_param("dir must be f or b")),
    };
    let part = ctx.request.query_param("destination").unwrap_or_default();
    let store = &ctx.hub.env().store;
    let (rows, total) = store.destinations_page(&part, order, backwards, from, limit).await?;
    let destinations: Vec<Value> = rows.iter().map(shown).collect();
    let next = from + i64::try_from(rows.len()).unwrap_or(0);
    let mut answer = json!({ "destinations": destinations, "total": total });
    if next < total && !rows.is_empty() {
        answer["next_token"] = next.to_string().into();
    }
    Reply::json(&answer)
}

fn named(request: &RawRequest) -> Outcome<OwnedServerName> {
    ServerName::parse(request.arg(0)?).map_err(|_| DomainError::not_found("Unknown destination"))
}

/// A server that this one has had to do with, or for which something waits.
async fn known(ctx: &Ctx, server: &ServerName) -> Outcome<Arc<PeerView>> {
    let peers = ctx.hub.peers();
    if peers.view(server).is_none() {
        // Right after a start it is not in memory yet.
        peers.catch_up().await;
    }
    let view = peers.look(server).await?;
    let (health, seen) = (view.health(), view.figures.last_seen.load(Relaxed));
    if health.last_try.max(health.last_success).max(seen) > 0 || view.is_wanted() {
        return Ok(view);
    }
    Err(DomainError::not_found("Unknown destination"))
}

async fn one(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let server = named(&request)?;
    let health = known(&ctx, &server).await?.health();
    Reply::json(&shown(&health.to_row(server.as_str())))
}

/// The rooms of which a server has not got all our events, and the newest of those in each.
async fn rooms(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let server = named(&request)?;
    known(&ctx, &server).await?;
    let env = ctx.hub.env();
    let from = usize::try_from(number(&ctx, "from", 0)?).unwrap_or(0);
    let limit = usize::try_from(number(&ctx, "limit", DEFAULT_LIMIT)?.min(MAX_LIMIT)).unwrap_or(0);
    let owed = env.store.destination_rooms(&[server.as_str()]).await?;
    let nids: Vec<RoomNid> = owed.iter().map(|row| RoomNid(row.room_nid)).collect();
    let names = env.rooms.names(&nids).await?;
    let one = |row: &entities::destination_room::Model| {
        let name = names.get(&RoomNid(row.room_nid))?;
        Some(json!({ "room_id": name.room_id, "stream_ordering": row.last_pos }))
    };
    let all: Vec<Value> = owed.iter().filter_map(one).collect();
    let page: Vec<Value> = all.iter().skip(from).take(limit).cloned().collect();
    let next = from + page.len();
    let mut answer = json!({ "rooms": page, "total": all.len() });
    if next < all.len() {
        answer["next_token"] = next.to_string().into();
    }
    Reply::json(&answer)
}

/// Ends the pause of a server that did not answer. One that is not left alone is refused, as by Synapse.
async fn reset(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let server = named(&request)?;
    let view = known(&ctx, &server).await?;
    if view.health().wait(ctx.hub.env().clock.now_ms()) == 0 {
        return Err(DomainError::unknown(
            "The retry timing does not need to be reset for this destination.",
        ));
    }
    ctx.hub.peers().reset(&server).await?;
    Reply::json(&json!({}))
}

/// Everything about the way to one server: how it goes, the last error in words, the next try, what waits in which room.
async fn queue(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let server = named(&request)?;
    let env = ctx.hub.env();
    let view = known(&ctx, &server).await?;
    let queue = view.queue();
    let nids: Vec<RoomNid> = queue.keys().copied().collect();
    let names = env.rooms.names(&nids).await?;
    let rooms: Vec<Value> = queue
        .iter()
        .map(|(nid, (waiting, owed))| {
            json!({
                "room_id": names.get(nid).map(|name| name.room_id.clone()),
                "waiting": waiting,
                "owed_from": owed.map(|owed| owed.first),
                "owed_to": owed.map(|owed| owed.last),
            })
        })
        .collect();
    let info = view.info(env.clock.now_ms());
    Reply::json(&json!({ "destination": server, "info": info, "rooms": rooms }))
}

/// How a room stands: forward extremities, servers, the last state reset; with `?compare=server` whether that server has the
/// same state after the newest event.
async fn room(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room_id: OwnedRoomId = request.parse(0)?;
    let room = ctx.hub.rooms().existing(&room_id).await?;
    let reset = ctx.hub.rooms().last_reset(&room_id).await?;
    let reset = reset.map(|reset| json!({ "event_id": reset.event_id, "changed": reset.keys, "at_ts": reset.at_ms }));
    let extremities = room.extremities.iter();
    let extremities = extremities.map(|e| json!({ "event_id": e.event_id, "depth": e.depth }));
    let mut answer = json!({
        "room_id": room_id,
        "room_version": room.version,
        "forward_extremities": extremities.collect::<Vec<_>>(),
        "servers": room.joined_servers.iter().collect::<Vec<_>>(),
        "joined_members": room.joined_count,
        "state_events": room.state.len(),
        "state_hash": hash(room.state.values().map(|entry| entry.event.event_id())),
        "last_reset": reset,
    });
    if let Some(server) = ctx.request.query_param("compare") {
        let server = ServerName::parse(server).map_err(|_| DomainError::invalid_param("compare must name a server"))?;
        answer["compared"] = compare(&ctx, &room, &server).await?;
    }
    Reply::json(&answer)
}

/// The state before the newest event, here and there.
async fn compare(ctx: &Ctx, room: &RoomSnapshot, server: &ServerName) -> Outcome<Value> {
    let newest = room.timeline.last().filter(|event| event.state_group.is_some());
    let newest = newest.ok_or_else(|| DomainError::not_found("the room has no newest event"))?;
    let Some(group) = newest.state_group else {
        return Ok(Value::Null);
    };
    let ours = ctx.hub.env().rooms.state_at_group(group).await?;
    let ours: BTreeSet<&EventId> = ours.values().map(|event| event.event_id()).collect();
    let request = get_room_state_ids::v1::Request::new(newest.pdu.event_id.clone(), room.room_id.clone());
    let theirs = match ctx.hub.peers().call(server, request, Pace::Now).await {
        Ok(answer) => answer.pdu_ids,
        Err(error) => {
            return Ok(json!({ "server": server, "event_id": newest.event_id(), "error": error.to_string() }));
        }
    };
    let theirs: BTreeSet<&EventId> = theirs.iter().map(|id| &**id).collect();
    Ok(json!({
        "server": server,
        "event_id": newest.event_id(),
        "same": ours == theirs,
        "our_hash": hash(ours.iter().copied()),
        "their_hash": hash(theirs.iter().copied()),
        "only_ours": ours.difference(&theirs).collect::<Vec<_>>(),
        "only_theirs": theirs.difference(&ours).collect::<Vec<_>>(),
    }))
}

/// Of the ids in their order.
fn hash<'a>(ids: impl Iterator<Item = &'a EventId>) -> String {
    let sorted: BTreeSet<&EventId> = ids.collect();
    let mut hash = Sha256::new();
    for id in sorted {
        hash.update(id.as_str());
        hash.update(b"\n");
    }
    STANDARD_NO_PAD.encode(hash.finalize())
}
