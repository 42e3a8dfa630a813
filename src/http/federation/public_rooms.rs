//! The directory of published rooms, for other servers (server-server API, "Public Room Directory").

use actors::error::{DomainError, Outcome};
use actors::flows::directory::{self, PublicQuery};
use ruma::api::federation::directory::{get_public_rooms, get_public_rooms_filtered};

use crate::config::Config;
use crate::http::client::rooms::directory::{answer, types_of};
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(list).unsigned_where(is_open_to_all);
    t.server(search);
}

/// Whether the operator shows the directory to everybody.
fn is_open_to_all(config: &Config) -> bool {
    config.room_directory.allow_public_rooms_without_auth && config.federation.allow_public_rooms_over_federation
}

/// # Errors
/// `M_FORBIDDEN` where the operator keeps the directory from other servers.
fn require_open(ctx: &Ctx) -> Outcome<()> {
    match ctx.config.federation.allow_public_rooms_over_federation {
        true => Ok(()),
        false => Err(DomainError::forbidden("this server keeps its directory to itself")),
    }
}

fn count(number: ruma::UInt) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

async fn list(ctx: Ctx, request: get_public_rooms::v1::Request) -> Outcome<Reply> {
    require_open(&ctx)?;
    let query = PublicQuery {
        limit: request.limit.map(count),
        since: request.since.filter(|token| !token.is_empty()),
        ..PublicQuery::default()
    };
    answer(&directory::public_rooms(ctx.hub.env(), &query).await?)
}

async fn search(ctx: Ctx, request: get_public_rooms_filtered::v1::Request) -> Outcome<Reply> {
    require_open(&ctx)?;
    let query = PublicQuery {
        limit: request.limit.map(count),
        since: request.since.filter(|token| !token.is_empty()),
        types: types_of(&request.filter),
        term: request.filter.generic_search_term,
    };
    answer(&directory::public_rooms(ctx.hub.env(), &query).await?)
}
