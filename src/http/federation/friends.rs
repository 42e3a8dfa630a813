//! Friends of this server's users among those of others. No chapter of the specification.

use actors::error::{DomainError, Outcome};
use actors::flows::friends::{self, Asked};
use actors::session::friends::half::Stance;
use http::Method;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::json;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/friends/query/{user_id}",
        Policy::Server,
        query,
    )
    .also("/_matrix/federation/unstable/org.synapse_rust/friends/query/{user_id}");
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/friends/relationship/{user_id}/{friend_id}",
        Policy::Server,
        relationship,
    )
    .also("/_matrix/federation/unstable/org.synapse_rust/friends/relationship/{user_id}/{friend_id}");
    t.raw(
        Method::POST,
        "/_matrix/federation/v1/friends/request",
        Policy::Server,
        request,
    )
    .also("/_matrix/federation/unstable/org.synapse_rust/friends/request");
    t.raw(
        Method::POST,
        "/_matrix/federation/unstable/org.synapse_rust/friends/stance",
        Policy::Server,
        stance,
    );
    t.raw(
        Method::POST,
        "/_matrix/federation/v1/friends/accept/{request_id}",
        Policy::Server,
        accept,
    )
    .also("/_matrix/federation/unstable/org.synapse_rust/friends/accept/{request_id}");
}

async fn query(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user: OwnedUserId = request.parse(0)?;
    let friends = friends::friends_of(&ctx.hub, ctx.origin()?, &user).await?;
    Reply::json(&json!({ "user_id": user, "friends": friends }))
}

async fn relationship(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, friend): (OwnedUserId, OwnedUserId) = (request.parse(0)?, request.parse(1)?);
    let since = friends::relationship(&ctx.hub, ctx.origin()?, &user, &friend).await?;
    Reply::json(&json!({ "are_friends": since.is_some(), "since": since.map(|since| since / 1_000) }))
}

#[derive(Deserialize)]
struct Body {
    requester: String,
    target: String,
    message: Option<String>,
    #[serde(rename = "org.synapse_rust.stance")]
    stance: Option<Stance>,
}

impl Body {
    fn asked(self) -> Outcome<Asked> {
        let user = |name: &str, id: &str| {
            UserId::parse(id).map_err(|error| DomainError::invalid_param(format!("{name}: {error}")))
        };
        Ok(Asked {
            requester: user("requester", &self.requester)?,
            target: user("target", &self.target)?,
            message: self.message.filter(|message| !message.is_empty()),
            stance: self.stance,
        })
    }
}

async fn request(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let asked = request.json::<Body>()?.asked()?;
    if asked.stance.as_ref().is_some_and(|stance| !stance.wants) {
        return Err(DomainError::invalid_param("this is no request"));
    }
    answer(&ctx, asked).await
}

/// Whatever a user wants, also that they do not want it any more.
async fn stance(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let asked = request.json::<Body>()?.asked()?;
    if asked.stance.is_none() {
        return Err(DomainError::missing_param("there is no stance"));
    }
    answer(&ctx, asked).await
}

/// The requester and the target of the request, where it is not named by its id alone.
#[derive(Default, Deserialize)]
struct Pair {
    requester: Option<OwnedUserId>,
    target: Option<OwnedUserId>,
}

async fn accept(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let id = request.arg(0)?;
    let pair: Pair = match request.body.is_empty() {
        true => Pair::default(),
        false => request.json()?,
    };
    let named = pair.requester.zip(pair.target);
    let received = friends::accepted(&ctx.hub, ctx.origin()?, id, named).await?;
    let status = if received.are_friends { "accepted" } else { "pending" };
    Reply::json(&json!({ "status": status }))
}

async fn answer(ctx: &Ctx, asked: Asked) -> Outcome<Reply> {
    let received = friends::receive(&ctx.hub, ctx.origin()?, asked).await?;
    let status = if received.are_friends { "accepted" } else { "pending" };
    Reply::json(&json!({ "request_id": received.request_id, "status": status }))
}
