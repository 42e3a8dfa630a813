//! Account data (client-server API, "Client Config"), with deletion (MSC3391).

use actors::error::{DomainError, Outcome};
use actors::session::data::{DataCommand, ruleset_content};
use http::Method;
use ruma::api::client::config::{
    get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data,
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::value::RawValue;

use super::data::{ask, require_own};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.user(get_global);
    t.user(set_global);
    t.user(get_in_room);
    t.user(set_in_room);
    t.raw(Method::DELETE, DELETE_GLOBAL[0], Policy::User, delete_global)
        .also(DELETE_GLOBAL[1]);
    t.raw(Method::DELETE, DELETE_IN_ROOM[0], Policy::User, delete_in_room)
        .also(DELETE_IN_ROOM[1]);
}

const DELETE_GLOBAL: [&str; 2] = [
    "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{event_type}",
    "/_matrix/client/v3/user/{user_id}/account_data/{event_type}",
];

const DELETE_IN_ROOM: [&str; 2] = [
    "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{event_type}",
    "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{event_type}",
];

fn read_own(ctx: &Ctx, user: &UserId) -> Outcome<()> {
    require_own(ctx, user).map_err(|_| DomainError::forbidden("Cannot get account data for other users."))
}

fn write_own(ctx: &Ctx, user: &UserId) -> Outcome<()> {
    require_own(ctx, user).map_err(|_| DomainError::forbidden("Cannot add account data for other users."))
}

async fn get_global(ctx: Ctx, request: get_global_account_data::v3::Request) -> Outcome<Reply> {
    read_own(&ctx, &request.user_id)?;
    let kind = request.event_type.to_string();
    if kind == "m.push_rules" {
        let view = ctx.hub.sessions().view(&request.user_id).await?;
        let view = view.ok_or_else(missing)?;
        return Reply::json(&ruleset_content(&view.push_rules));
    }
    stored(&ctx, "", &kind).await
}

async fn get_in_room(ctx: Ctx, request: get_room_account_data::v3::Request) -> Outcome<Reply> {
    read_own(&ctx, &request.user_id)?;
    stored(&ctx, request.room_id.as_str(), &request.event_type.to_string()).await
}

fn missing() -> DomainError {
    DomainError::not_found("Account data not found.")
}

async fn stored(ctx: &Ctx, room_id: &str, kind: &str) -> Outcome<Reply> {
    let user = ctx.user()?.user_id.as_str();
    let row = ctx.hub.env().store.account_data_one(user, room_id, kind).await?;
    // `{}` is what a deletion leaves behind.
    let row = row.filter(|row| row.content != "{}").ok_or_else(missing)?;
    Ok(Reply::json_bytes(row.content))
}

async fn set_global(ctx: Ctx, request: set_global_account_data::v3::Request) -> Outcome<Reply> {
    write_own(&ctx, &request.user_id)?;
    set(&ctx, None, request.event_type.to_string(), request.data.into_json()).await
}

async fn set_in_room(ctx: Ctx, request: set_room_account_data::v3::Request) -> Outcome<Reply> {
    write_own(&ctx, &request.user_id)?;
    let kind = request.event_type.to_string();
    set(&ctx, Some(request.room_id), kind, request.data.into_json()).await
}

async fn delete_global(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    write_own(&ctx, &request.parse::<OwnedUserId>(0)?)?;
    set(&ctx, None, request.arg(1)?.to_owned(), nothing()?).await
}

async fn delete_in_room(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    write_own(&ctx, &request.parse::<OwnedUserId>(0)?)?;
    let room_id = RoomId::parse(request.arg(1)?).map_err(|error| DomainError::invalid_param(error.to_string()))?;
    set(&ctx, Some(room_id), request.arg(2)?.to_owned(), nothing()?).await
}

fn nothing() -> Outcome<Box<RawValue>> {
    RawValue::from_string("{}".to_owned()).map_err(|error| DomainError::internal(error.to_string()))
}

async fn set(ctx: &Ctx, room_id: Option<OwnedRoomId>, kind: String, content: Box<RawValue>) -> Outcome<Reply> {
    let command = DataCommand::SetAccountData { room_id, kind, content };
    ask(ctx, command).await?;
    Ok(Reply::empty())
}
