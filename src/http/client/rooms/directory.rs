//! The directory of published rooms (client-server API, "Listing rooms").

use actors::error::{DomainError, Outcome};
use actors::flows::directory::{self, Asker, PublicPage, PublicQuery};
use actors::peer::handle::Pace;
use ruma::api::client::directory::{
    get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility,
};
use ruma::api::client::room::{Visibility, create_room};
use ruma::api::federation::directory::get_public_rooms_filtered::v1 as elsewhere;
use ruma::directory::{Filter, RoomTypeFilter};
use ruma::{OwnedServerName, RoomId};
use serde_json::{Map, Value, json};

use super::{active, count};
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;
use crate::http::ruma::parse;

/// Members of a body that only a new room has.
const OF_NEW_ROOMS: [&str; 6] = ["name", "topic", "room_alias_name", "visibility", "preset", "invite"];

pub(super) fn routes(table: &mut Table) {
    table.open::<get_room_visibility::v3::Request, _>(get_visibility);
    table.user::<set_room_visibility::v3::Request, _>(set_visibility);
    table.optional::<get_public_rooms::v3::Request, _>(list);
    table.user::<get_public_rooms_filtered::v3::Request, _>(search);
}

async fn get_visibility(ctx: Ctx, request: get_room_visibility::v3::Request) -> Outcome<Reply> {
    let room_id = &request.room_id;
    let missing = || DomainError::not_found(format!("there is no room {room_id}"));
    let listed = ctx.hub.env().store.is_published(room_id.as_str()).await?;
    if !listed {
        ctx.hub.rooms().view(room_id).await?.ok_or_else(missing)?;
    }
    Reply::json(&json!({ "visibility": if listed { "public" } else { "private" } }))
}

async fn set_visibility(ctx: Ctx, request: set_room_visibility::v3::Request) -> Outcome<Reply> {
    let listed = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(DomainError::invalid_param("visibility is public or private")),
    };
    publish(&ctx, &request.room_id, listed).await?;
    Ok(Reply::empty())
}

/// Lists a room, or takes it out.
pub(super) async fn publish(ctx: &Ctx, room_id: &RoomId, listed: bool) -> Outcome<()> {
    let identity = active(ctx)?;
    if listed && !ctx.config.room_directory.allow_publication && !identity.is_admin {
        return Err(DomainError::forbidden(
            "only administrators may publish rooms on this server",
        ));
    }
    let asker = Asker {
        user: &identity.user_id,
        is_admin: identity.is_admin,
    };
    directory::publish(&ctx.hub, asker, room_id, listed).await
}

/// Another server, if the client asks for its directory.
fn elsewhere<'a>(ctx: &Ctx, server: Option<&'a OwnedServerName>) -> Option<&'a OwnedServerName> {
    server.filter(|server| **server != ctx.hub.env().server_name)
}

/// The directory of another server.
async fn ask(ctx: &Ctx, server: &OwnedServerName, request: elsewhere::Request) -> Outcome<Reply> {
    let page = ctx.hub.peers().call(server, request, Pace::Patient).await?;
    let mut answer = json!({ "chunk": page.chunk });
    let tokens = [("prev_batch", page.prev_batch), ("next_batch", page.next_batch)];
    for (name, token) in tokens {
        if let Some(token) = token {
            answer[name] = token.into();
        }
    }
    if let Some(total) = page.total_room_count_estimate {
        answer["total_room_count_estimate"] = u64::from(total).into();
    }
    Reply::json(&answer)
}

async fn list(ctx: Ctx, request: get_public_rooms::v3::Request) -> Outcome<Reply> {
    if !ctx.config.room_directory.allow_public_rooms_without_auth {
        ctx.user()?;
    }
    if let Some(server) = elsewhere(&ctx, request.server.as_ref()) {
        ctx.user()?;
        let mut asked = elsewhere::Request::new();
        (asked.limit, asked.since) = (request.limit, request.since);
        return ask(&ctx, server, asked).await;
    }
    let query = PublicQuery {
        limit: request.limit.map(count),
        since: request.since.filter(|token| !token.is_empty()),
        ..PublicQuery::default()
    };
    answer(&directory::public_rooms(ctx.hub.env(), &query).await?)
}

async fn search(ctx: Ctx, request: get_public_rooms_filtered::v3::Request) -> Outcome<Reply> {
    if ctx.seed_profile() {
        let body: Map<String, Value> = ctx.request.json()?;
        if OF_NEW_ROOMS.iter().any(|name| body.contains_key(*name)) {
            let request: create_room::v3::Request = parse(&ctx.request, &[])?;
            return super::create::create(ctx, request).await;
        }
    }
    if let Some(server) = elsewhere(&ctx, request.server.as_ref()) {
        let mut asked = elsewhere::Request::new();
        (asked.limit, asked.since, asked.filter) = (request.limit, request.since, request.filter);
        asked.room_network = request.room_network;
        return ask(&ctx, server, asked).await;
    }
    let filter = request.filter;
    let query = PublicQuery {
        limit: request.limit.map(count),
        since: request.since.filter(|token| !token.is_empty()),
        types: types_of(&filter),
        term: filter.generic_search_term,
    };
    answer(&directory::public_rooms(ctx.hub.env(), &query).await?)
}

/// The types that a filter asks for; `None` in the list stands for rooms without one.
pub(in crate::http) fn types_of(filter: &Filter) -> Option<Vec<Option<String>>> {
    let name = |kind: &RoomTypeFilter| kind.as_str().map(str::to_owned);
    (!filter.room_types.is_empty()).then(|| filter.room_types.iter().map(name).collect())
}

/// A page as clients and servers get it.
pub(in crate::http) fn answer(page: &PublicPage) -> Outcome<Reply> {
    let mut answer = json!({ "chunk": page.rooms, "total_room_count_estimate": page.total });
    for (name, token) in [("prev_batch", &page.prev_batch), ("next_batch", &page.next_batch)] {
        if let Some(token) = token {
            answer[name] = token.clone().into();
        }
    }
    Reply::json(&answer)
}
