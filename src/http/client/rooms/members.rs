//! Who is in a room, and which rooms a user is in.

use std::collections::BTreeMap;

use actors::error::{DomainError, Outcome};
use actors::room::read::{self, PageQuery};
use actors::stream::token::Token;
use http::Method;
use ruma::api::client::filter::RoomEventFilter;
use ruma::api::client::membership::{get_member_events, get_mutual_rooms, joined_members, joined_rooms};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Reading;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Rooms on one page of those shared with another user.
const MUTUAL_PAGE: usize = 100;

pub(super) fn routes(table: &mut Table) {
    table.guest::<get_member_events::v3::Request, _>(members);
    table.user::<joined_members::v3::Request, _>(joined);
    table.user::<joined_rooms::v3::Request, _>(rooms);
    table.user::<get_mutual_rooms::v1::Request, _>(mutual);
    table.user::<get_mutual_rooms::unstable::Request, _>(mutual_unstable);
    for version in ["/_matrix/client/r0", "/_matrix/client/v3"] {
        let (of_user, events) = match version {
            "/_matrix/client/r0" => (
                "/_matrix/client/r0/user/{user_id}/rooms",
                "/_matrix/client/r0/rooms/{room_id}/get_membership_events",
            ),
            _ => (
                "/_matrix/client/v3/user/{user_id}/rooms",
                "/_matrix/client/v3/rooms/{room_id}/get_membership_events",
            ),
        };
        table.raw(Method::GET, of_user, Policy::User, rooms_of_user);
        table.raw(Method::POST, events, Policy::User, membership_events);
    }
}

#[derive(Serialize)]
struct Chunk {
    chunk: Vec<Box<RawValue>>,
}

async fn members(ctx: Ctx, request: get_member_events::v3::Request) -> Outcome<Reply> {
    let reading = Reading::open(&ctx, &request.room_id).await?;
    let at = request.at.as_deref().map(Token::parse).transpose()?;
    let upto = at.map_or(reading.upto(), Token::pos);
    let state = read::state_seen(ctx.hub.env(), &reading.access, upto).await?;
    let wanted = |membership: &str| {
        request
            .membership
            .as_ref()
            .is_none_or(|wanted| wanted.as_str() == membership)
            && request
                .not_membership
                .as_ref()
                .is_none_or(|unwanted| unwanted.as_str() != membership)
    };
    let members = state
        .iter()
        .filter(|event| event.pdu.membership().is_some_and(|membership| wanted(&membership)));
    Reply::json(&Chunk {
        chunk: reading.render_state(members),
    })
}

async fn joined(ctx: Ctx, request: joined_members::v3::Request) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Content {
        membership: Option<String>,
        displayname: Option<String>,
        avatar_url: Option<String>,
    }
    #[derive(Serialize)]
    struct Member {
        #[serde(skip_serializing_if = "Option::is_none")]
        display_name: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        avatar_url: Option<String>,
    }
    let room = ctx.hub.rooms().joined(&request.room_id, &ctx.user()?.user_id).await?;
    let mut joined: BTreeMap<&str, Member> = BTreeMap::new();
    for event in room.state_of_kind("m.room.member") {
        let (Ok(content), Some(user)) = (event.pdu.content_as::<Content>(), event.pdu.state_key.as_deref()) else {
            continue;
        };
        if content.membership.as_deref() == Some("join") {
            joined.insert(
                user,
                Member {
                    display_name: content.displayname,
                    avatar_url: content.avatar_url,
                },
            );
        }
    }
    Reply::json(&BTreeMap::from([("joined", joined)]))
}

/// The user's rooms with the given membership, sorted.
async fn rooms_with(ctx: &Ctx, user: &UserId, memberships: &[&str]) -> Outcome<Vec<String>> {
    let rows = ctx
        .hub
        .env()
        .store
        .memberships_of_user(user.as_str(), Some(memberships))
        .await?;
    let kept = rows.into_iter().filter(|(membership, _)| !membership.forgotten);
    let mut rooms: Vec<String> = kept.map(|(_, room)| room.room_id).collect();
    rooms.sort_unstable();
    Ok(rooms)
}

async fn rooms(ctx: Ctx, _request: joined_rooms::v3::Request) -> Outcome<Reply> {
    let rooms = rooms_with(&ctx, &ctx.user()?.user_id, &["join"]).await?;
    Reply::json(&json!({ "joined_rooms": rooms }))
}

async fn shared(ctx: &Ctx, other: &UserId, from: Option<&str>) -> Outcome<Value> {
    let own = &ctx.user()?.user_id;
    if own == other {
        return Err(DomainError::invalid_param("user_id is your own"));
    }
    let from = match from {
        Some(text) => text
            .parse::<usize>()
            .map_err(|_| DomainError::invalid_param("unknown token"))?,
        None => 0,
    };
    let theirs = rooms_with(ctx, other, &["join"]).await?;
    let mut both = rooms_with(ctx, own, &["join"]).await?;
    both.retain(|room| theirs.binary_search(room).is_ok());
    let end = from.saturating_add(MUTUAL_PAGE).min(both.len());
    let mut answer = json!({ "count": both.len(), "joined": both.get(from..end).unwrap_or_default() });
    if end < both.len() {
        answer["next_batch"] = end.to_string().into();
    }
    Ok(answer)
}

async fn mutual(ctx: Ctx, request: get_mutual_rooms::v1::Request) -> Outcome<Reply> {
    Reply::json(&shared(&ctx, &request.user_id, request.from.as_deref()).await?)
}

async fn mutual_unstable(ctx: Ctx, request: get_mutual_rooms::unstable::Request) -> Outcome<Reply> {
    Reply::json(&shared(&ctx, &request.user_id, request.from.as_deref()).await?)
}

/// The user's own rooms by membership; administrators may ask for anybody's.
async fn rooms_of_user(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user: OwnedUserId = request.parse(0)?;
    let identity = ctx.user()?;
    if identity.user_id != user && !identity.is_admin {
        return Err(DomainError::forbidden("you may only list your own rooms"));
    }
    let joined = rooms_with(&ctx, &user, &["join"]).await?;
    Reply::json(&json!({
        "joined_rooms": joined,
        "joined": joined,
        "invited": rooms_with(&ctx, &user, &["invite"]).await?,
        "left": rooms_with(&ctx, &user, &["leave", "ban"]).await?,
    }))
}

/// Changes of membership, newest first.
async fn membership_events(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        limit: Option<usize>,
    }
    let room_id: OwnedRoomId = request.parse(0)?;
    let body: Body = request.json()?;
    let room_id: &RoomId = &room_id;
    let reading = Reading::open(&ctx, room_id).await?;
    let mut filter = RoomEventFilter::default();
    filter.types = Some(vec!["m.room.member".to_owned()]);
    let limit = body.limit.unwrap_or(100);
    let query = PageQuery {
        from: None,
        to: None,
        backwards: true,
        limit,
        filter: &filter,
    };
    let page = read::page(ctx.hub.env(), &reading.access, &query).await?;
    Reply::json(&json!({ "events": reading.render_state(&page.events) }))
}
