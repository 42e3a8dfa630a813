//! Previews of web pages (client-server API, "Content repository").

use actors::error::{DomainError, Outcome};
use actors::media::preview::preview;
use http::Method;
use http::header::CACHE_CONTROL;

use super::auth::Policy;
use super::context::{Ctx, RawRequest};
use super::endpoint::Table;
use super::limits::Class;
use super::reply::Reply;

/// Registers the chapter.
pub fn routes(table: &mut Table) {
    table
        .raw(Method::GET, "/_matrix/client/v1/media/preview_url", Policy::User, show)
        .limit(Class::Media);
    table
        .raw(Method::GET, "/_matrix/media/v3/preview_url", Policy::User, show)
        .also("/_matrix/media/r0/preview_url")
        .also("/_matrix/media/v1/preview_url")
        .limit(Class::Media);
}

/// `ts` is of no use: pages are told as they are now.
async fn show(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    if !ctx.config.media.url_preview_enabled {
        return Err(DomainError::forbidden("Link previews are switched off on this server"));
    }
    let url = ctx.request.query_param("url");
    let url = url.ok_or_else(|| DomainError::missing_param("url is missing"))?;
    let made = preview(ctx.hub.env(), &ctx.user()?.user_id, &url).await?;
    Reply::json(&*made)?.with_header(CACHE_CONTROL, "private, max-age=600")
}
