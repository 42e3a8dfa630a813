//! The content repository (client-server API, "Content repository"): upload and download as streams.

use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::media::thumbnail::{Method as Fit, Size};
use actors::media::{self, Label, Reservations, Upload};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ruma::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::auth::Policy;
use super::context::{Ctx, RawRequest};
use super::endpoint::Table;
use super::limits::Class;
use super::previews;
use super::range::{self, Wanted};
use super::reply::{Body, Reply};

/// Bytes read from a file at a time.
const PIECE: usize = 64 * 1024;
/// How long a download waits for an upload that was announced, at most.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// And where the client does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(20);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// An envelope of base64 is longer than what is in it.
const ENVELOPE_FACTOR: u64 = 2;

/// Registers the chapter.
pub fn routes(table: &mut Table, max_upload_bytes: u64) {
    let bytes = usize::try_from(max_upload_bytes.saturating_mul(ENVELOPE_FACTOR)).unwrap_or(usize::MAX);
    let (user, guest) = (Policy::User, Policy::Guest);
    for path in [
        "/_matrix/media/v3/upload",
        "/_matrix/media/r0/upload",
        "/_matrix/media/v1/upload",
    ] {
        table
            .raw(Method::POST, path, user, upload)
            .streamed(bytes)
            .limit(Class::Media);
    }
    for path in [
        "/_matrix/media/v3/upload/{server}/{id}",
        "/_matrix/media/r0/upload/{server}/{id}",
    ] {
        table
            .raw(Method::PUT, path, user, fill)
            .streamed(bytes)
            .limit(Class::Media);
        table
            .raw(Method::POST, path, user, fill)
            .streamed(bytes)
            .limit(Class::Media);
    }
    table
        .raw(Method::POST, "/_matrix/media/v1/create", user, create)
        .limit(Class::Media);
    table.raw(Method::GET, "/_matrix/client/v1/media/config", guest, config);
    table
        .raw(Method::GET, "/_matrix/media/v3/config", user, config)
        .also("/_matrix/media/r0/config");
    // The API reference beside the specification asks for no token here.
    table.raw(Method::GET, "/_matrix/media/v1/config", Policy::Open, config);
    table
        .raw(
            Method::GET,
            "/_matrix/client/v1/media/download/{server}/{id}",
            guest,
            download,
        )
        .also("/_matrix/client/v1/media/download/{server}/{id}/{name}")
        .deadline(Duration::from_secs(600))
        .limit(Class::Media);
    table
        .raw(
            Method::GET,
            "/_matrix/client/v1/media/thumbnail/{server}/{id}",
            guest,
            thumbnail,
        )
        .deadline(Duration::from_secs(120))
        .limit(Class::Media);
    legacy(table);
    previews::routes(table);
}

/// The paths from before media needed a token.
fn legacy(table: &mut Table) {
    table
        .raw(
            Method::GET,
            "/_matrix/media/v3/download/{server}/{id}",
            Policy::Optional,
            old_download,
        )
        .also("/_matrix/media/v3/download/{server}/{id}/{name}")
        .also("/_matrix/media/r0/download/{server}/{id}")
        .also("/_matrix/media/r0/download/{server}/{id}/{name}")
        .also("/_matrix/media/r1/download/{server}/{id}")
        .also("/_matrix/media/r1/download/{server}/{id}/{name}")
        .also("/_matrix/media/v1/download/{server}/{id}")
        .also("/_matrix/media/v1/download/{server}/{id}/{name}")
        .deadline(Duration::from_secs(600))
        .limit(Class::Media);
    table
        .raw(
            Method::GET,
            "/_matrix/media/v3/thumbnail/{server}/{id}",
            Policy::Optional,
            old_thumbnail,
        )
        .also("/_matrix/media/r0/thumbnail/{server}/{id}")
        .also("/_matrix/media/v1/thumbnail/{server}/{id}")
        .deadline(Duration::from_secs(120))
        .limit(Class::Media);
}

async fn config(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "m.upload.size": ctx.config.media.max_upload_bytes }))
}

fn reservations(ctx: &Ctx) -> Reservations {
    Reservations {
        lifetime_ms: ctx.hub.env().settings.unused_upload_lifetime_ms,
        max_pending: i64::from(ctx.config.media.max_pending_uploads),
    }
}

fn uri(ctx: &Ctx, id: &str) -> String {
    format!("mxc://{}/{id}", ctx.config.server_name)
}

async fn create(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let user = &ctx.user()?.user_id;
    let (id, expires) = media::reserve(ctx.hub.env(), user, reservations(&ctx)).await?;
    Reply::json(&json!({ "content_uri": uri(&ctx, &id), "unused_expires_at": expires }))
}

async fn upload(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (label, upload) = incoming(&ctx, request).await?;
    let user = ctx.user()?.user_id.clone();
    let id = media::store(ctx.hub.env(), &user, label, upload).await?;
    Reply::json(&json!({ "content_uri": uri(&ctx, &id) }))
}

async fn fill(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (server, id) = (request.arg(0)?.to_owned(), request.arg(1)?.to_owned());
    if server != ctx.config.server_name.as_str() {
        return Err(DomainError::not_found("Media of other servers is uploaded there."));
    }
    let (label, upload) = incoming(&ctx, request).await?;
    let user = ctx.user()?.user_id.clone();
    media::fill(ctx.hub.env(), &user, &id, reservations(&ctx), label, upload).await?;
    match ctx.request.method == Method::POST {
        // As the API reference beside the specification has it.
        true => Reply::json(&json!({ "content_uri": format!("mxc://{server}/{id}") })),
        false => Ok(Reply::empty()),
    }
}

/// What was sent: a file, or an envelope `{content, content_type, filename}` around one.
async fn incoming(ctx: &Ctx, request: RawRequest) -> Outcome<(Label, Upload)> {
    let name = ctx.request.query_param("filename");
    let label = Label {
        content_type: ctx.request.header(&CONTENT_TYPE).map(str::to_owned),
        name: name.clone(),
    };
    let stream = request
        .take_stream()
        .ok_or_else(|| DomainError::internal("an upload without a stream"))?;
    let is_json = label
        .content_type
        .as_deref()
        .is_some_and(|kind| kind.starts_with("application/json"));
    if !is_json || name.is_some() || ctx.request.query_param("raw").is_some() {
        return Ok((label, stream));
    }
    let limit = ctx.config.media.max_upload_bytes.saturating_mul(ENVELOPE_FACTOR);
    let whole = collect(stream, limit).await?;
    match super::envelope::open(&whole) {
        Some(envelope) => Ok((envelope.label, once(envelope.content.into()))),
        None => Ok((label, once(whole.into()))),
    }
}

fn once(bytes: Bytes) -> Upload {
    stream::once(async move { Ok(bytes) }).boxed()
}

async fn collect(mut stream: Upload, limit: u64) -> Outcome<Vec<u8>> {
    let mut whole = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|e| DomainError::unknown(format!("The upload broke off: {e}")))?;
        if (whole.len() + piece.len()) as u64 > limit {
            return Err(DomainError::too_large("The upload is too large."));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

/// The old paths show media to those with a token, or to everybody where the operator says so.
fn may_use_old_path(ctx: &Ctx) -> Outcome<()> {
    if ctx.identity.is_some() || ctx.config.media.allow_unauthenticated {
        return Ok(());
    }
    Err(DomainError::not_found(
        "Media is served to users with a token: use /_matrix/client/v1/media.",
    ))
}

async fn old_download(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    may_use_old_path(&ctx)?;
    download(ctx, request).await
}

async fn old_thumbnail(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    may_use_old_path(&ctx)?;
    thumbnail(ctx, request).await
}

fn address(args: &[String]) -> Outcome<(&str, &str)> {
    match args {
        [origin, id, ..] => Ok((origin, id)),
        _ => Err(DomainError::internal("a media path without server and id")),
    }
}

/// Waits for an announced upload.
pub(super) async fn found(ctx: &Ctx, origin: &str, id: &str) -> Outcome<entities::media::Model> {
    let wanted = ctx.request.query_param("timeout_ms").and_then(|text| text.parse().ok());
    let wait = wanted.map_or(DEFAULT_WAIT, Duration::from_millis).min(MAX_WAIT);
    if *origin != *ctx.config.server_name.as_str() {
        let server = ServerName::parse(origin).map_err(|_| DomainError::not_found("Media not found."))?;
        if ctx.request.query_param("allow_remote").as_deref() == Some("false") {
            return Err(DomainError::not_found("Media of other servers is not wanted."));
        }
        media::remote::require(&ctx.hub, &server, id, wait).await?;
    }
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        match media::find(ctx.hub.env(), origin, id).await {
            Err(error) if error.errcode() == Some("M_NOT_YET_UPLOADED") && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            other => return other,
        }
    }
}

async fn download(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let args = request.args;
    let (origin, id) = address(&args)?;
    let row = found(&ctx, origin, id).await?;
    let name = args.get(2).cloned().or_else(|| row.upload_name.clone());
    let kind = row.content_type.as_deref().unwrap_or("application/octet-stream");
    let mut headers = headers(kind, name.as_deref());
    if let Some(tag) = row.sha256.as_deref().and_then(etag) {
        let same = ctx
            .request
            .header(&IF_NONE_MATCH)
            .is_some_and(|known| known.as_bytes() == tag.as_bytes());
        headers.insert(ETAG, tag);
        if same {
            return Ok(Reply::raw(StatusCode::NOT_MODIFIED, headers, Bytes::new()));
        }
    }
    let size = u64::try_from(row.size_bytes).unwrap_or(0);
    let mut file = media::open(ctx.hub.env(), &row).await?;
    let (status, start, length) = match range::wanted(ctx.request.header(&RANGE), size) {
        Wanted::Everything => (StatusCode::OK, 0, size),
        Wanted::Part { start, end } => {
            insert(&mut headers, CONTENT_RANGE, &format!("bytes {start}-{end}/{size}"));
            (StatusCode::PARTIAL_CONTENT, start, end - start + 1)
        }
        Wanted::Impossible => {
            insert(&mut headers, CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(Reply::raw(StatusCode::RANGE_NOT_SATISFIABLE, headers, Bytes::new()));
        }
    };
    if start > 0 {
        let failed = |e| DomainError::unavailable(format!("media store: {e}"));
        file.seek(std::io::SeekFrom::Start(start)).await.map_err(failed)?;
    }
    Ok(Reply {
        status,
        headers,
        body: Body::Stream {
            size: Some(length),
            pieces: pieces(file.take(length)),
        },
    })
}

/// A file, or a part of one, piece by piece.
pub(super) fn pieces(file: tokio::io::Take<tokio::fs::File>) -> Upload {
    let pieces = stream::unfold((file, false), |(mut file, failed)| async move {
        if failed {
            return None;
        }
        let mut piece = vec![0; PIECE];
        match file.read(&mut piece).await {
            Ok(0) => None,
            Ok(read) => {
                piece.truncate(read);
                Some((Ok(Bytes::from(piece)), (file, false)))
            }
            Err(error) => Some((Err(error), (file, true))),
        }
    });
    pieces.boxed()
}

fn number(ctx: &Ctx, name: &str, default: u32) -> Outcome<u32> {
    match ctx.request.query_param(name) {
        None => Ok(default),
        Some(text) => match text.parse::<u32>() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(DomainError::invalid_param(format!("{name} must be a positive number"))),
        },
    }
}

/// The size and shape that a thumbnail is asked for in.
pub(super) fn wanted_thumbnail(ctx: &Ctx) -> Outcome<(Size, Fit)> {
    // The reference beside the specification has a default size; clients that name one are not concerned.
    let size = Size {
        width: number(ctx, "width", 800)?,
        height: number(ctx, "height", 600)?,
    };
    let fit = match ctx.request.query_param("method").as_deref() {
        None | Some("scale") => Fit::Scale,
        Some("crop") => Fit::Crop,
        Some(_) => return Err(DomainError::invalid_param("method must be crop or scale")),
    };
    Ok((size, fit))
}

async fn thumbnail(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (size, fit) = wanted_thumbnail(&ctx)?;
    let (origin, id) = address(&request.args)?;
    let row = found(&ctx, origin, id).await?;
    let max_pixels = ctx.config.media.max_image_pixels;
    let (bytes, kind) = media::thumbnail(ctx.hub.env(), &row, size, fit, max_pixels).await?;
    Ok(Reply::raw(StatusCode::OK, headers(&kind, Some("thumbnail")), bytes))
}

/// Media is shown inside a page only where it cannot act there (client-server API, "Serving inline content").
const INLINE: [&str; 24] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
];

pub(super) fn headers(kind: &str, name: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let disposition = if INLINE.contains(&essence.as_str()) || essence == "audio/flac" {
        "inline"
    } else {
        "attachment"
    };
    let disposition = match name.filter(|name| !name.is_empty()) {
        Some(name) => range::disposition(disposition, name),
        None => disposition.to_owned(),
    };
    insert(&mut headers, CONTENT_TYPE, kind);
    insert(&mut headers, CONTENT_DISPOSITION, &disposition);
    insert(
        &mut headers,
        CONTENT_SECURITY_POLICY,
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; \
         object-src 'self';",
    );
    insert(
        &mut headers,
        HeaderName::from_static("cross-origin-resource-policy"),
        "cross-origin",
    );
    insert(
        &mut headers,
        HeaderName::from_static("x-content-type-options"),
        "nosniff",
    );
    insert(&mut headers, CACHE_CONTROL, "private, max-age=31536000, immutable");
    insert(&mut headers, ACCEPT_RANGES, "bytes");
    headers
}

/// A value that cannot stand in a header is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn etag(sha256: &[u8]) -> Option<HeaderValue> {
    let hex: String = sha256.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{hex}\"")).ok()
}
