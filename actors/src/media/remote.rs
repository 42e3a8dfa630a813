//! Media of other servers: fetched once, kept like one's own (server-server API, "Content Repository"; client-server API,
//! "Content repository" for servers from before media needed a signature).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use entities::error::StoreError;
use entities::media;
use federation::{Answer, Limits, OutboundRequest, WireRequest};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use futures_util::stream;
use http::HeaderMap;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::{OwnedServerName, ServerName};
use sha2::{Digest as _, Sha256};
use tokio::fs;

use super::multipart::{self, Content};
use super::{Label, STORED, Upload, temporary_path, write_stream};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::handle::Pace;

/// How long a piece of media may take.
const TIMEOUT: Duration = Duration::from_secs(300);
/// What a multipart answer has besides the media, bytes.
const WRAPPING: u64 = 64 * 1024;
/// Pieces of media that are fetched at the same time.
const MAX_FETCHES: usize = 256;

type Fetch = Shared<BoxFuture<'static, Outcome<()>>>;

/// What is being fetched: whoever asks for the same piece waits for the same answer.
#[derive(Default)]
pub struct Fetches(DashMap<(OwnedServerName, String), Fetch>);

/// Makes sure that a piece of media of another server is here, for as long as `patience` allows; the fetch itself goes on.
///
/// # Errors
/// `M_NOT_FOUND` where its server has none; 502 for answers that make no sense; `M_TOO_LARGE`; `M_NOT_YET_UPLOADED` (504)
/// when it takes too long.
pub async fn require(hub: &Arc<Hub>, server: &ServerName, id: &str, patience: Duration) -> Outcome<()> {
    if id.is_empty() || id.len() > 255 || id.contains(['/', '\0']) {
        return Err(missing());
    }
    if hub.env().store.media(server.as_str(), id).await?.is_some() {
        return Ok(());
    }
    let fetch = begin(hub, server, id)?;
    let late = |_| DomainError::matrix(504, "M_NOT_YET_UPLOADED", "The media is still being fetched.");
    tokio::time::timeout(patience, fetch).await.map_err(late)?
}

fn missing() -> DomainError {
    DomainError::not_found("Media not found.")
}

fn begin(hub: &Arc<Hub>, server: &ServerName, id: &str) -> Outcome<Fetch> {
    let env = hub.env();
    let key = (server.to_owned(), id.to_owned());
    let busy = env.fetches.0.len() >= MAX_FETCHES;
    match env.fetches.0.entry(key.clone()) {
        Entry::Occupied(under_way) => Ok(under_way.get().clone()),
        Entry::Vacant(_) if busy => Err(DomainError::Overloaded { retry_after_ms: 1_000 }),
        Entry::Vacant(free) => {
            let hub = hub.clone();
            let task = env.io.spawn(async move {
                let outcome = fetch(&hub, &key.0, &key.1).await;
                hub.env().fetches.0.remove(&key);
                outcome
            });
            let broken = |error| DomainError::internal(format!("a fetch of media: {error}"));
            let fetch = async move { task.await.map_err(broken)? }.boxed().shared();
            Ok(free.insert(fetch).clone())
        }
    }
}

async fn fetch(hub: &Arc<Hub>, server: &ServerName, id: &str) -> Outcome<()> {
    let env = hub.env();
    let temporary = temporary_path(env);
    let fetched = fetch_to(hub, server, id, temporary.clone()).await;
    // Moved to its place, or of no use.
    let _ = fs::remove_file(&temporary).await;
    let row = fetched?;
    match env.store.insert_media(&row).await {
        Err(StoreError::Duplicate(_)) => Ok(()),
        stored => Ok(stored?),
    }
}

async fn fetch_to(hub: &Arc<Hub>, server: &ServerName, id: &str, temporary: PathBuf) -> Outcome<media::Model> {
    let env = hub.env();
    let path = |prefix: &str| format!("{prefix}{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    let signed = path("/_matrix/federation/v1/media/download/");
    let (label, size, sha256) = match open(hub, server, signed, true).await {
        Ok(answer) => unwrap(env, answer, &temporary).await?,
        // Its server is from before media needed a signature.
        Err(error) if is_unknown_endpoint(&error) => {
            let legacy = format!("/_matrix/media/v3/download/{server}/");
            let legacy = path(&legacy) + "?allow_remote=false&timeout_ms=20000";
            let answer = open(hub, server, legacy, false).await?;
            let label = label(&answer.headers);
            let (size, sha256) = write_stream(&temporary, body(answer), env.settings.max_upload_bytes).await?;
            (label, size, sha256)
        }
        Err(error) => return Err(not_here(error)),
    };
    let now = env.clock.now_ms();
    let row = media::Model {
        origin: server.to_string(),
        media_id: id.to_owned(),
        user_id: None,
        content_type: label.content_type,
        upload_name: label.name,
        size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
        sha256: Some(sha256),
        state: STORED.to_owned(),
        created_ts: now,
        last_access_ts: now,
        quarantined_by: None,
    };
    super::put(&temporary, &super::place(env, &row))
        .await
        .map_err(|e| super::disk(&e))?;
    Ok(row)
}

async fn open(hub: &Arc<Hub>, server: &ServerName, path: String, signed: bool) -> Outcome<Answer> {
    let largest = hub.env().settings.max_upload_bytes.saturating_add(WRAPPING);
    let limits = Limits {
        timeout: TIMEOUT,
        max_bytes: usize::try_from(largest).unwrap_or(usize::MAX),
    };
    let request = WireRequest {
        signed,
        ..WireRequest::get(path, limits)
    };
    hub.peers().open(server, request, Pace::Patient).await
}

/// Before `M_UNRECOGNIZED` was the rule servers answered 404 without an errcode.
fn is_unknown_endpoint(error: &DomainError) -> bool {
    let DomainError::Matrix { status, errcode, .. } = error else {
        return false;
    };
    matches!(status, 404 | 405 | 501) && *errcode != "M_NOT_FOUND" && *errcode != "M_NOT_YET_UPLOADED"
}

/// A refusal by the other server means to the client that there is nothing.
fn not_here(error: DomainError) -> DomainError {
    match error {
        DomainError::Matrix { status, errcode, .. } if errcode != "M_NOT_YET_UPLOADED" && status < 500 => missing(),
        other => other,
    }
}

/// Takes the media out of a multipart answer, or follows where it points.
async fn unwrap(env: &Env, answer: Answer, path: &Path) -> Outcome<(Label, u64, Vec<u8>)> {
    let limit = env.settings.max_upload_bytes;
    let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let boundary = kind
        .and_then(multipart::boundary)
        .ok_or_else(|| nonsense("no multipart boundary"))?;
    let wrapped = path.with_extension("parts");
    let written = write_stream(&wrapped, body(answer), limit.saturating_add(WRAPPING)).await;
    let content = match written {
        Ok(_) => multipart::read(&wrapped, &boundary).await,
        Err(error) => Err(error),
    };
    let outcome = match content {
        Ok(Content::Media { headers, start, length }) => {
            let part = multipart::part(&wrapped, start, length)
                .await
                .map_err(|e| super::disk(&e));
            match part {
                Ok(part) => write_stream(path, part, limit)
                    .await
                    .map(|(size, sha256)| (label(&headers), size, sha256)),
                Err(error) => Err(error),
            }
        }
        Ok(Content::Elsewhere(url)) => follow(env, &url, path).await,
        Err(error) => Err(error),
    };
    // It was copied, or is of no use.
    let _ = fs::remove_file(&wrapped).await;
    outcome
}

/// Media that lies with a third party.
async fn follow(env: &Env, url: &str, path: &Path) -> Outcome<(Label, u64, Vec<u8>)> {
    let url = url.parse().map_err(|_| nonsense("a redirect to no URL"))?;
    let limit = env.settings.max_upload_bytes;
    let request = OutboundRequest::get(url, TIMEOUT, usize::try_from(limit).unwrap_or(usize::MAX));
    let answer = env.outbound.open(request).await;
    let answer = answer.map_err(|error| nonsense(format!("what a redirect leads to: {error}")))?;
    if !answer.status.is_success() {
        return Err(missing());
    }
    let label = label(&answer.headers);
    let (size, sha256) = write_stream(path, body(answer), limit).await?;
    Ok((label, size, sha256))
}

fn nonsense(what: impl std::fmt::Display) -> DomainError {
    DomainError::matrix(
        502,
        "M_UNKNOWN",
        format!("the other server's answer makes no sense: {what}"),
    )
}

fn label(headers: &HeaderMap) -> Label {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &http::HeaderValue| value.to_str().ok())
    };
    Label {
        content_type: text(CONTENT_TYPE).filter(|kind| kind.len() <= 255).map(str::to_owned),
        name: text(CONTENT_DISPOSITION).and_then(multipart::file_name),
    }
}

fn body(answer: Answer) -> Upload {
    let pieces = stream::unfold(Some(answer), |answer| async {
        let mut answer = answer?;
        match answer.chunk().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(answer))),
            Ok(None) => None,
            Err(error) => Some((Err(std::io::Error::other(error.to_string())), None)),
        }
    });
    Box::pin(pieces)
}

/// The name of the file: whatever the other server calls it, no path can be built that leaves the folder.
pub(super) fn file_name(server: &str, id: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(server);
    hash.update([0]);
    hash.update(id);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
