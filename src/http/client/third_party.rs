//! Third-party networks (client-server API, "Third-party Networks"). There are none: they come with application services.

use actors::error::{DomainError, Outcome};
use http::Method;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.raw(
        Method::GET,
        "/_matrix/client/v3/thirdparty/protocols",
        Policy::User,
        protocols,
    )
    .also("/_matrix/client/r0/thirdparty/protocols")
    .also("/_matrix/client/unstable/thirdparty/protocols");
    t.raw(
        Method::GET,
        "/_matrix/client/v3/thirdparty/protocol/{protocol}",
        Policy::User,
        unknown_protocol,
    )
    .also("/_matrix/client/r0/thirdparty/protocol/{protocol}")
    .also("/_matrix/client/v3/thirdparty/location/{protocol}")
    .also("/_matrix/client/r0/thirdparty/location/{protocol}")
    .also("/_matrix/client/v3/thirdparty/user/{protocol}")
    .also("/_matrix/client/r0/thirdparty/user/{protocol}");
    t.raw(
        Method::GET,
        "/_matrix/client/v3/thirdparty/location",
        Policy::User,
        no_match,
    )
    .also("/_matrix/client/r0/thirdparty/location")
    .also("/_matrix/client/v3/thirdparty/user")
    .also("/_matrix/client/r0/thirdparty/user");
}

async fn protocols(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Ok(Reply::empty())
}

async fn unknown_protocol(_: Ctx, request: RawRequest) -> Outcome<Reply> {
    let protocol = request.arg(0)?;
    Err(DomainError::not_found(format!("There is no protocol {protocol:?}")))
}

async fn no_match(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    Err(DomainError::not_found("No third-party network knows this"))
}
