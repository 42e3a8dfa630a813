//! Tags of rooms (client-server API, "Room Tagging").

use actors::error::Outcome;
use actors::session::data::DataCommand;
use ruma::api::client::tag::{create_tag, delete_tag, get_tags};
use serde_json::{Value, json};

use super::data::{ask, require_own};
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.user(list);
    t.user(add);
    t.user(remove);
}

async fn list(ctx: Ctx, request: get_tags::v3::Request) -> Outcome<Reply> {
    require_own(&ctx, &request.user_id)?;
    let store = &ctx.hub.env().store;
    let (user, room) = (request.user_id.as_str(), request.room_id.as_str());
    let row = store.account_data_one(user, room, "m.tag").await?;
    let content = row.and_then(|row| serde_json::from_str::<Value>(&row.content).ok());
    let tags = content
        .and_then(|mut content| Some(content.get_mut("tags")?.take()))
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({}));
    Reply::json(&json!({ "tags": tags }))
}

async fn add(ctx: Ctx, request: create_tag::v3::Request) -> Outcome<Reply> {
    require_own(&ctx, &request.user_id)?;
    let command = DataCommand::SetTag {
        room_id: request.room_id,
        tag: request.tag,
        info: Some(ctx.request.json()?),
    };
    ask(&ctx, command).await?;
    Ok(Reply::empty())
}

async fn remove(ctx: Ctx, request: delete_tag::v3::Request) -> Outcome<Reply> {
    require_own(&ctx, &request.user_id)?;
    let command = DataCommand::SetTag {
        room_id: request.room_id,
        tag: request.tag,
        info: None,
    };
    ask(&ctx, command).await?;
    Ok(Reply::empty())
}
