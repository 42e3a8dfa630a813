//! This server's media, for other servers (server-server API, "Content Repository"): `multipart/mixed` with an empty object
//! and the media.

use std::time::Duration;

use actors::error::Outcome;
use actors::media;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, Method};
use tokio::io::AsyncReadExt as _;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::media::{found, headers, pieces, wanted_thumbnail};
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    let policy = Policy::Server;
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/media/download/{media_id}",
        policy,
        download,
    )
    .deadline(Duration::from_secs(600))
    .limit(Class::Federation);
    t.raw(
        Method::GET,
        "/_matrix/federation/v1/media/thumbnail/{media_id}",
        policy,
        thumbnail,
    )
    .deadline(Duration::from_secs(120))
    .limit(Class::Federation);
}

async fn download(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let row = found(&ctx, ctx.config.server_name.as_str(), request.arg(0)?).await?;
    let kind = row.content_type.as_deref().unwrap_or("application/octet-stream");
    let size = u64::try_from(row.size_bytes).unwrap_or(0);
    let file = media::open(ctx.hub.env(), &row).await?;
    let boundary = ctx.hub.env().rng.alphanumeric(32);
    let (before, after) = wrapping(&boundary, &headers(kind, row.upload_name.as_deref()));
    let length = before.len() as u64 + size + after.len() as u64;
    let whole = stream::iter([Ok(before)])
        .chain(pieces(file.take(size)))
        .chain(stream::iter([Ok(after)]))
        .boxed();
    Reply::stream(Some(length), whole).with_header(CONTENT_TYPE, mixed(&boundary))
}

async fn thumbnail(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (size, fit) = wanted_thumbnail(&ctx)?;
    let row = found(&ctx, ctx.config.server_name.as_str(), request.arg(0)?).await?;
    let max_pixels = ctx.config.media.max_image_pixels;
    let (bytes, kind) = media::thumbnail(ctx.hub.env(), &row, size, fit, max_pixels).await?;
    let boundary = ctx.hub.env().rng.alphanumeric(32);
    let (before, after) = wrapping(&boundary, &headers(&kind, Some("thumbnail")));
    let length = before.len() + bytes.len() + after.len();
    let whole = stream::iter([Ok(before), Ok(bytes), Ok(after)]).boxed();
    Reply::stream(u64::try_from(length).ok(), whole).with_header(CONTENT_TYPE, mixed(&boundary))
}

fn mixed(boundary: &str) -> String {
    format!("multipart/mixed; boundary={boundary}")
}

/// What comes before and after the media.
fn wrapping(boundary: &str, headers: &HeaderMap) -> (Bytes, Bytes) {
    let mut before = format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n");
    for name in [CONTENT_TYPE, CONTENT_DISPOSITION] {
        if let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) {
            before += &format!("{name}: {value}\r\n");
        }
    }
    before += "\r\n";
    (before.into(), format!("\r\n--{boundary}--\r\n").into())
}
