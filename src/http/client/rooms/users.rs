//! Searching users (client-server API, "User Directory").

use actors::error::Outcome;
use entities::store::search::{FoundUser, UserQuery};
use http::Method;
use ruma::api::client::user_directory::search_users;
use serde::Deserialize;
use serde_json::{Value, json};

use super::count;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// The most users of one answer.
const MAX_USERS: usize = 50;

pub(super) fn routes(table: &mut Table) {
    table.user::<search_users::v3::Request, _>(search);
    table
        .raw(
            Method::POST,
            "/_matrix/client/r0/user_directory/list",
            Policy::User,
            list,
        )
        .also("/_matrix/client/v3/user_directory/list");
}

/// The users, one more than asked for if there are more.
async fn find(ctx: &Ctx, term: &str, after: &str, limit: usize) -> Outcome<Vec<FoundUser>> {
    let directory = &ctx.config.user_directory;
    if !directory.enabled {
        return Ok(Vec::new());
    }
    let query = UserQuery {
        searcher: ctx.user()?.user_id.as_str(),
        term,
        all: directory.search_all_users,
        after,
        limit: u32::try_from(limit + 1).unwrap_or(u32::MAX),
    };
    Ok(ctx.hub.env().store.search_users(&query).await?)
}

fn render(user: &FoundUser) -> Value {
    let mut shown = json!({ "user_id": user.user_id });
    for (name, value) in [("display_name", &user.displayname), ("avatar_url", &user.avatar_url)] {
        if let Some(value) = value
            .as_deref()
            .and_then(|value| serde_json::from_str::<String>(value).ok())
        {
            shown[name] = value.into();
        }
    }
    shown
}

async fn search(ctx: Ctx, request: search_users::v3::Request) -> Outcome<Reply> {
    let limit = count(request.limit).clamp(1, MAX_USERS);
    let term = request.search_term.trim().trim_start_matches('@');
    let found = if term.is_empty() {
        Vec::new()
    } else {
        find(&ctx, term, "", limit).await?
    };
    let results: Vec<Value> = found.iter().take(limit).map(render).collect();
    Reply::json(&json!({ "results": results, "limited": found.len() > limit }))
}

/// All that a search could find, page by page.
async fn list(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    #[derive(Deserialize)]
    struct Body {
        limit: Option<usize>,
        from: Option<String>,
    }
    let body: Body = request.json()?;
    let limit = body.limit.unwrap_or(MAX_USERS).clamp(1, MAX_USERS);
    let found = find(&ctx, "", body.from.as_deref().unwrap_or_default(), limit).await?;
    let results: Vec<Value> = found.iter().take(limit).map(render).collect();
    let mut answer = json!({ "results": results });
    if found.len() > limit {
        answer["next_batch"] = found[limit - 1].user_id.clone().into();
    }
    Reply::json(&answer)
}
