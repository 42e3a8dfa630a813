//! Previews of web pages (client-server API, "GET /_matrix/client/v1/media/preview_url"): the page is fetched, what it says
//! of itself is read, and its picture becomes media of this server.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use federation::{Answer, Outbound, OutboundRequest, OutboundSettings, Tools, WireError};
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, HeaderValue, USER_AGENT};
use image::ImageReader;
use ipnet::IpNet;
use moka::sync::Cache;
use ruma::UserId;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use url::Url;

use super::{Label, page};
use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Pages that are fetched at the same time.
const AT_ONCE: usize = 16;
/// For a page, and once more for its picture.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of a page only the beginning is read: all that it says of itself stands there.
const PAGE_BYTES: usize = 512 * 1024;
const PAGE_LIMIT: usize = 64 * 1024 * 1024;
const PICTURE_BYTES: usize = 8 * 1024 * 1024;
/// Previews that are remembered, and for how long.
const REMEMBERED: u64 = 5_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(60 * 60);
const MAX_URL: usize = 4_096;
/// Pictures that no program can hide in.
const PICTURES: [&str; 5] = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"];

/// A preview as clients get it.
pub type Preview = Arc<Map<String, Value>>;

/// What fetches pages, and remembers what they said.
pub struct Previews {
    outbound: Outbound,
    known: Cache<String, Preview>,
    running: Semaphore,
}

impl Previews {
    /// As other requests that leave the server, but never to the addresses of `blocked` either.
    #[must_use]
    pub fn new(mut settings: OutboundSettings, blocked: &[IpNet], tools: Tools) -> Self {
        settings.ip_range_blocklist.extend_from_slice(blocked);
        Self {
            outbound: Outbound::new(settings, tools),
            known: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            running: Semaphore::new(AT_ONCE),
        }
    }
}

/// The preview of a page. Its picture is stored as the user's.
///
/// # Errors
/// `M_INVALID_PARAM` for what is no web address; `M_FORBIDDEN` for addresses that are not to be connected to; 502 `M_UNKNOWN`
/// when the page cannot be had; `Overloaded` when too many are being fetched.
pub async fn preview(env: &Env, user: &UserId, address: &str) -> Outcome<Preview> {
    let url = Url::parse(address).ok();
    let url = url.filter(|url| ["http", "https"].contains(&url.scheme()) && address.len() <= MAX_URL);
    let mut url = url.ok_or_else(|| DomainError::invalid_param("url is no web address"))?;
    url.set_fragment(None);
    let previews = &env.previews;
    if let Some(known) = previews.known.get(url.as_str()) {
        return Ok(known);
    }
    let overloaded = |_| DomainError::Overloaded { retry_after_ms: 2_000 };
    let _permit = previews.running.try_acquire().map_err(overloaded)?;
    let made = Arc::new(make(env, user, &url).await?);
    previews.known.insert(url.into(), made.clone());
    Ok(made)
}

async fn make(env: &Env, user: &UserId, url: &Url) -> Outcome<Map<String, Value>> {
    let (content_type, answer) = open(env, url, PAGE_LIMIT).await?;
    let kind = kind_of(&content_type);
    let mut preview = Map::new();
    if PICTURES.contains(&kind) {
        // It is the picture itself; one byte more than may be tells that it is too large.
        let body = beginning(answer, PICTURE_BYTES + 1).await?;
        if body.len() <= PICTURE_BYTES {
            tell(add_picture(env, user, kind, body, &mut preview).await);
        }
        return Ok(preview);
    }
    if !["text/html", "application/xhtml+xml"].contains(&kind) {
        return Ok(preview);
    }
    let body = beginning(answer, PAGE_BYTES).await?;
    let read = move || page::properties(&body, &content_type);
    let properties = env.cpu.run(Class::Image, read).await?;
    let picture = properties.get("og:image").and_then(|picture| url.join(picture).ok());
    for (name, value) in properties {
        // Pictures are told as they are here.
        if !name.starts_with("og:image") {
            preview.insert(name, value.into());
        }
    }
    if let Some(picture) = picture.filter(|picture| ["http", "https"].contains(&picture.scheme())) {
        tell(fetch_picture(env, user, &picture, &mut preview).await);
    }
    Ok(preview)
}

/// A picture that cannot be had is left out.
fn tell(added: Outcome<()>) {
    if let Err(error) = added {
        tracing::debug!(%error, "a preview has no picture");
    }
}

async fn fetch_picture(env: &Env, user: &UserId, url: &Url, preview: &mut Map<String, Value>) -> Outcome<()> {
    let (content_type, answer) = open(env, url, PICTURE_BYTES).await?;
    let kind = kind_of(&content_type);
    if !PICTURES.contains(&kind) {
        return Err(DomainError::unknown("it is no picture"));
    }
    let body = beginning(answer, PICTURE_BYTES).await?;
    add_picture(env, user, kind, body, preview).await
}

async fn add_picture(
    env: &Env,
    user: &UserId,
    kind: &str,
    body: Bytes,
    preview: &mut Map<String, Value>,
) -> Outcome<()> {
    let size = body.len();
    let file = body.clone();
    let measure = move || {
        let reader = ImageReader::new(Cursor::new(file)).with_guessed_format().ok()?;
        reader.into_dimensions().ok()
    };
    let dimensions = env.cpu.run(Class::Image, measure).await?;
    let label = Label {
        content_type: Some(kind.to_owned()),
        name: None,
    };
    let upload = stream::once(async move { Ok(body) }).boxed();
    let id = super::store(env, user, label, upload).await?;
    preview.insert("og:image".to_owned(), format!("mxc://{}/{id}", env.server_name).into());
    preview.insert("og:image:type".to_owned(), kind.into());
    preview.insert("matrix:image:size".to_owned(), size.into());
    if let Some((width, height)) = dimensions {
        preview.insert("og:image:width".to_owned(), width.into());
        preview.insert("og:image:height".to_owned(), height.into());
    }
    Ok(())
}

fn kind_of(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Content type in lower case, and an answer with a body of at most `limit` bytes.
async fn open(env: &Env, url: &Url, limit: usize) -> Outcome<(String, Answer)> {
    let mut request = OutboundRequest::get(url.clone(), PATIENCE, limit);
    request.headers = headers();
    let answer = env.previews.outbound.open(request).await.map_err(failed)?;
    if !answer.status.is_success() {
        return Err(unreachable(&format!("it answers {}", answer.status.as_u16())));
    }
    let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Ok((content_type.unwrap_or_default().to_ascii_lowercase(), answer))
}

/// The first `taken` bytes of a body, or all of it.
async fn beginning(mut answer: Answer, taken: usize) -> Outcome<Bytes> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&piece);
        if body.len() >= taken {
            body.truncate(taken);
            break;
        }
    }
    Ok(body.into())
}

fn headers() -> HeaderMap {
    let agent = concat!("synapse-rust/", env!("CARGO_PKG_VERSION"), " (link preview)");
    [
        (USER_AGENT, HeaderValue::from_static(agent)),
        (
            ACCEPT,
            HeaderValue::from_static("text/html,application/xhtml+xml,image/*;q=0.9"),
        ),
        (ACCEPT_LANGUAGE, HeaderValue::from_static("en")),
    ]
    .into_iter()
    .collect()
}

fn failed(error: WireError) -> DomainError {
    match error {
        WireError::Blocked(_) => DomainError::forbidden("This address is not to be connected to"),
        error => unreachable(&error.to_string()),
    }
}

fn unreachable(reason: &str) -> DomainError {
    DomainError::matrix(502, "M_UNKNOWN", format!("The page cannot be had: {reason}"))
}
