//! The keys that this server signs with (server-server API, "Retrieving server keys"), and as a notary those of others
//! ("Querying Keys Through Another Server").

use actors::clock::Millis;
use actors::error::{DomainError, Outcome};
use actors::federation::keyring::{MAX_QUERIES, Query};
use http::Method;
use ruma::MilliSecondsSinceUnixEpoch;
use ruma::api::federation::discovery::{get_remote_server_keys_batch, get_server_keys};
use serde_json::json;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.open(own);
    // With the id of a key in the path, as before version 1.6 of the specification; all keys are answered anyway.
    t.raw(Method::GET, "/_matrix/key/v2/server/{key_id}", Policy::Open, own_raw)
        .also("/_matrix/federation/v2/server");
    // Whoever asks makes this server ask others.
    t.raw(Method::GET, "/_matrix/key/v2/query/{server_name}", Policy::Open, query)
        .limit(Class::Federation);
    t.raw(
        Method::GET,
        "/_matrix/key/v2/query/{server_name}/{key_id}",
        Policy::Open,
        query,
    )
    .also("/_matrix/federation/v2/query/{server_name}/{key_id}")
    .limit(Class::Federation);
    t.open(query_batch).limit(Class::Federation);
}

async fn own(ctx: Ctx, _: get_server_keys::v2::Request) -> Outcome<Reply> {
    Reply::json(&ctx.hub.env().keyring.own_document()?)
}

async fn own_raw(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&ctx.hub.env().keyring.own_document()?)
}

/// With or without the id of a key.
async fn query(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let minimum = ctx.request.query_param("minimum_valid_until_ts");
    let invalid = |_| DomainError::invalid_param("minimum_valid_until_ts is not a time in milliseconds");
    let minimum_valid_until = minimum.map(|text| text.parse()).transpose().map_err(invalid)?;
    let query = Query {
        server: request.parse(0)?,
        key_ids: request.args.get(1).cloned().into_iter().collect(),
        minimum_valid_until,
    };
    answer(&ctx, vec![query]).await
}

async fn query_batch(ctx: Ctx, request: get_remote_server_keys_batch::v2::Request) -> Outcome<Reply> {
    if request.server_keys.len() > MAX_QUERIES {
        let message = format!("the keys of {MAX_QUERIES} servers at most can be asked for at once");
        return Err(DomainError::too_large(message));
    }
    let query = |(server, keys): (
        _,
        std::collections::BTreeMap<_, get_remote_server_keys_batch::v2::QueryCriteria>,
    )| {
        let minimum = keys
            .values()
            .filter_map(|criteria| criteria.minimum_valid_until_ts)
            .max();
        Query {
            server,
            key_ids: keys
                .keys()
                .map(|id: &ruma::OwnedServerSigningKeyId| id.to_string())
                .collect(),
            minimum_valid_until: minimum.map(millis),
        }
    };
    let queries = request.server_keys.into_iter().map(query).collect();
    answer(&ctx, queries).await
}

fn millis(time: MilliSecondsSinceUnixEpoch) -> Millis {
    time.get().into()
}

/// Servers whose keys are not known are left out of the answer.
async fn answer(ctx: &Ctx, queries: Vec<Query>) -> Outcome<Reply> {
    let documents = ctx.hub.env().keyring.notarize(queries).await?;
    Reply::json(&json!({ "server_keys": documents }))
}
