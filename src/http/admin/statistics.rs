//! Figures about the server, counted in the database.

use actors::error::{DomainError, Outcome};
use entities::store::admin::stats::MediaUseOrder;
use http::Method;
use serde_json::{Value, json};

use super::params::{number, plain, set_next, slice};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Rooms in the list of the largest ones.
const LARGEST: i64 = 10;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(Method::GET, "/_synapse/admin/v1/server_stats", admin, server);
    t.raw(Method::GET, "/_synapse/admin/v1/user_stats", admin, users);
    t.raw(Method::GET, "/_synapse/admin/v1/media_stats", admin, media);
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/statistics/users/media",
        admin,
        media_of_users,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/statistics/database/rooms",
        admin,
        largest_rooms,
    );
}

async fn server(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let (figures, now) = (env.store.server_figures().await?, env.clock.now_ms());
    Reply::json(&json!({
        "total_users": figures.users,
        "total_accounts": figures.accounts,
        "total_rooms": figures.rooms,
        "total_messages": figures.messages,
        "daily_active_users": env.store.users_seen_since(now - DAY_MS).await?,
        "monthly_active_users": env.store.users_seen_since(now - 30 * DAY_MS).await?,
    }))
}

/// A day begins at midnight, UTC; who was seen within 30 days is active.
async fn users(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let now = env.clock.now_ms();
    Reply::json(&json!({
        "total_users": env.store.server_figures().await?.users,
        "active_users": env.store.users_seen_since(now - 30 * DAY_MS).await?,
        "new_users_today": env.store.users_made_since(now - now.rem_euclid(DAY_MS)).await?,
    }))
}

async fn media(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let [local, remote] = env.store.media_figures(env.server_name.as_str()).await?;
    let shown = |(count, bytes): (i64, i64)| json!({ "count": count, "size_bytes": bytes });
    Reply::json(&json!({
        "total_media": local.0 + remote.0,
        "total_size_bytes": local.1 + remote.1,
        "local": shown(local),
        "remote": shown(remote),
    }))
}

async fn media_of_users(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let order = match ctx.request.query_param("order_by").as_deref() {
        None | Some("user_id") => MediaUseOrder::User,
        Some("displayname") => MediaUseOrder::Displayname,
        Some("media_length") => MediaUseOrder::Length,
        Some("media_count") => MediaUseOrder::Count,
        Some(_) => return Err(DomainError::invalid_param("unknown order_by")),
    };
    let term = ctx.request.query_param("search_term");
    let span = (number(&ctx, "from_ts", 0)?, number(&ctx, "until_ts", i64::MAX)?);
    if span.1 <= span.0 {
        return Err(DomainError::invalid_param("until_ts must be behind from_ts"));
    }
    let slice = slice(&ctx, false)?;
    let (rows, total) = ctx
        .hub
        .env()
        .store
        .media_use(term.as_deref(), span, order, slice)
        .await?;
    let users: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "user_id": row.user_id,
                "displayname": plain(row.displayname.as_deref()),
                "media_count": row.media_count,
                "media_length": row.media_length,
            })
        })
        .collect();
    let mut answer = json!({ "users": users, "total": total });
    set_next(&mut answer, slice, rows.len(), total);
    Reply::json(&answer)
}

async fn largest_rooms(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let rows = ctx.hub.env().store.largest_rooms(LARGEST).await?;
    let rooms = rows.into_iter();
    let rooms = rooms.map(|(room_id, bytes)| json!({ "room_id": room_id, "estimated_size": bytes }));
    Reply::json(&json!({ "rooms": rooms.collect::<Vec<_>>() }))
}
