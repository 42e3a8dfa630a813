//! Media: files below the media path, rows in the database. Other servers' media is fetched once and kept ([`remote`]).
//!
//! A file is written beside its place, flushed and renamed before its row is committed, so that a row never stands for a
//! file that is not whole. A file without a row is what a crash in between leaves; nothing points at it. What is being
//! written lies in a folder of its own, which is emptied at the start.

mod multipart;
mod page;
pub mod preview;
pub mod remote;
pub mod thumbnail;
pub mod voice;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dashmap::DashSet;
use entities::media;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use ruma::UserId;
use sha2::{Digest, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;

use self::thumbnail::{Method, Size};
use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Characters of a media id: enough that nobody guesses one.
const ID_LEN: usize = 24;
/// When media was read is written at most once in this time.
const ACCESS_QUIET_MS: i64 = 60 * 60 * 1_000;
/// `state` of an address that nothing was uploaded to.
const RESERVED: &str = "reserved";
/// `state` of media that is there.
const STORED: &str = "stored";

/// What is uploaded, as it arrives.
pub type Upload = BoxStream<'static, io::Result<Bytes>>;

/// What the uploader says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// `Content-Type`
    pub content_type: Option<String>,
    /// `?filename=`
    pub name: Option<String>,
}

/// Addresses that are being filled: one upload at a time, or two would mix the file of one with the row of the other.
#[derive(Debug, Default)]
pub struct Filling(DashSet<String>);

/// The right to fill an address.
struct Claim<'a> {
    filling: &'a Filling,
    id: &'a str,
}

impl Filling {
    fn claim<'a>(&'a self, id: &'a str) -> Option<Claim<'a>> {
        self.0.insert(id.to_owned()).then_some(Claim { filling: self, id })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.filling.0.remove(self.id);
    }
}

/// Limits on reservations.
#[derive(Clone, Copy, Debug)]
pub struct Reservations {
    /// How long an address waits for its upload, milliseconds.
    pub lifetime_ms: i64,
    /// How many may wait for one user.
    pub max_pending: i64,
}

/// Stores an upload under a new id, which is the answer.
///
/// # Errors
/// `M_TOO_LARGE`; `Unavailable` when disk or database fail.
pub async fn store(env: &Env, user: &UserId, label: Label, upload: Upload) -> Outcome<String> {
    let id = env.rng.alphanumeric(ID_LEN);
    let row = receive(env, user, &id, label, upload).await?;
    env.store.insert_media(&row).await?;
    Ok(id)
}

/// Reserves an address for a later upload. Answers the id and when it expires (Unix milliseconds).
///
/// # Errors
/// `M_LIMIT_EXCEEDED` when too many of the user's wait.
pub async fn reserve(env: &Env, user: &UserId, limits: Reservations) -> Outcome<(String, i64)> {
    let now = env.clock.now_ms();
    if env.store.pending_media(user.as_str(), now - limits.lifetime_ms).await? >= limits.max_pending {
        return Err(DomainError::Overloaded { retry_after_ms: 60_000 });
    }
    let id = env.rng.alphanumeric(ID_LEN);
    env.store
        .insert_media(&row(env, user, &id, Label::default(), 0, None, RESERVED))
        .await?;
    Ok((id, now + limits.lifetime_ms))
}

/// Fills a reserved address.
///
/// # Errors
/// `M_NOT_FOUND`, `M_FORBIDDEN` (somebody else's), `M_CANNOT_OVERWRITE_MEDIA`, `M_TOO_LARGE`.
pub async fn fill(
    env: &Env,
    user: &UserId,
    id: &str,
    limits: Reservations,
    label: Label,
    upload: Upload,
) -> Outcome<()> {
    let _claim = env.filling.claim(id).ok_or_else(overwrite)?;
    let known = env.store.media(env.server_name.as_str(), id).await?;
    let known = known.ok_or_else(|| DomainError::not_found("Unknown media id."))?;
    if known.user_id.as_deref() != Some(user.as_str()) {
        return Err(DomainError::forbidden("This address was reserved by somebody else."));
    }
    if known.state != RESERVED {
        return Err(overwrite());
    }
    if known.created_ts + limits.lifetime_ms < env.clock.now_ms() {
        return Err(DomainError::not_found("The reservation has expired."));
    }
    let row = receive(env, user, id, label, upload).await?;
    if env.store.fill_media(&row).await? {
        Ok(())
    } else {
        Err(overwrite())
    }
}

fn overwrite() -> DomainError {
    DomainError::matrix(
        409,
        "M_CANNOT_OVERWRITE_MEDIA",
        "There is media at this address already.",
    )
}

/// Media that can be downloaded.
///
/// # Errors
/// `M_NOT_FOUND`; `M_NOT_YET_UPLOADED` (504) for a reserved address.
pub async fn find(env: &Env, origin: &str, id: &str) -> Outcome<media::Model> {
    let missing = || DomainError::not_found("Media not found.");
    if origin == env.server_name.as_str() && !is_id(id) {
        return Err(missing());
    }
    let row = env.store.media(origin, id).await?.ok_or_else(missing)?;
    if row.quarantined_by.is_some() {
        return Err(missing());
    }
    if row.state != STORED {
        return Err(DomainError::matrix(
            504,
            "M_NOT_YET_UPLOADED",
            "Nothing was uploaded yet.",
        ));
    }
    Ok(row)
}

/// Notes that media was read; cheap where that was noted lately.
fn note_access(env: &Env, row: &media::Model) {
    let now = env.clock.now_ms();
    if now.saturating_sub(row.last_access_ts) < ACCESS_QUIET_MS {
        return;
    }
    let (store, origin, id) = (env.store.clone(), row.origin.clone(), row.media_id.clone());
    env.io.spawn(async move {
        if let Err(error) = store.touch_media(&origin, &id, now).await {
            tracing::warn!(%error, "when media was read is not written");
        }
    });
}

/// Deletes a piece of media with its thumbnails: the rows, then the files.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn delete(env: &Env, row: &media::Model) -> Outcome<()> {
    let thumbnails = env.store.delete_media(&row.origin, &row.media_id).await?;
    let name = name(env, row);
    let small = thumbnails
        .iter()
        .map(|t| thumbnail_file(env, &name, (t.width, t.height), &t.method));
    for path in small.chain([place(env, row)]) {
        match fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "a file of deleted media stays");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the file of a piece of media.
///
/// # Errors
/// `M_NOT_FOUND` when the file is gone.
pub async fn open(env: &Env, row: &media::Model) -> Outcome<File> {
    note_access(env, row);
    File::open(place(env, row)).await.map_err(|error| {
        tracing::error!(media = row.media_id, %error, "media file cannot be opened");
        DomainError::not_found("Media not found.")
    })
}

/// A thumbnail: its bytes and media type. Made on first demand and kept.
///
/// # Errors
/// `M_UNKNOWN` (400) where no thumbnail can be made of this media; `M_TOO_LARGE` where it has too many pixels.
pub async fn thumbnail(
    env: &Env,
    row: &media::Model,
    size: Size,
    method: Method,
    max_pixels: u64,
) -> Outcome<(Bytes, String)> {
    note_access(env, row);
    let (size, method) = thumbnail::standard(size, method);
    let kept = env.store.thumbnails(&row.origin, &row.media_id).await?;
    let path = thumbnail_path(env, &name(env, row), size, method);
    let fits = |t: &&entities::media_thumbnail::Model| {
        t.width == i64::from(size.width) && t.height == i64::from(size.height) && t.method == method.as_str()
    };
    if let Some(found) = kept.iter().find(fits)
        && let Ok(bytes) = fs::read(&path).await
    {
        return Ok((bytes.into(), found.content_type.clone()));
    }
    // Read where the images are made: only as many as are worked on lie in memory.
    let original = place(env, row);
    let make = move || {
        let original = std::fs::read(original).map_err(|e| disk(&e))?;
        thumbnail::make(&original, size, method, max_pixels)
    };
    let made = env.cpu.run(Class::Image, make).await??;
    write_whole(env, &path, &made.bytes).await.map_err(|e| disk(&e))?;
    env.store
        .put_thumbnail(&entities::media_thumbnail::Model {
            origin: row.origin.clone(),
            media_id: row.media_id.clone(),
            width: i64::from(size.width),
            height: i64::from(size.height),
            method: method.as_str().to_owned(),
            animated: false,
            content_type: made.content_type.to_owned(),
            size_bytes: i64::try_from(made.bytes.len()).unwrap_or(i64::MAX),
        })
        .await?;
    Ok((made.bytes.into(), made.content_type.to_owned()))
}

fn row(
    env: &Env,
    user: &UserId,
    id: &str,
    label: Label,
    size: u64,
    sha256: Option<Vec<u8>>,
    state: &str,
) -> media::Model {
    let now = env.clock.now_ms();
    media::Model {
        origin: env.server_name.to_string(),
        media_id: id.to_owned(),
        user_id: Some(user.to_string()),
        content_type: label.content_type,
        upload_name: label.name,
        size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
        sha256,
        state: state.to_owned(),
        created_ts: now,
        last_access_ts: now,
        quarantined_by: None,
    }
}

/// Writes an upload to its place.
async fn receive(env: &Env, user: &UserId, id: &str, label: Label, upload: Upload) -> Outcome<media::Model> {
    let path = file_path(env, id);
    let temporary = temporary_path(env);
    let written = write_stream(&temporary, upload, env.settings.max_upload_bytes).await;
    let (size, sha256) = match written {
        Ok(written) => written,
        Err(error) => {
            // Whatever was written is of no use; that it cannot be removed changes nothing.
            let _ = fs::remove_file(&temporary).await;
            return Err(error);
        }
    };
    put(&temporary, &path).await.map_err(|e| disk(&e))?;
    Ok(row(env, user, id, label, size, Some(sha256), STORED))
}

async fn write_stream(path: &Path, mut upload: Upload, limit: u64) -> Outcome<(u64, Vec<u8>)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).await.map_err(|e| disk(&e))?;
    }
    let mut file = File::create(path).await.map_err(|e| disk(&e))?;
    let mut hash = Sha256::new();
    let mut size = 0_u64;
    while let Some(piece) = upload.next().await {
        let piece = piece.map_err(|e| broken_upload(&e))?;
        size += piece.len() as u64;
        if size > limit {
            return Err(DomainError::too_large(format!("Uploads may have {limit} bytes.")));
        }
        hash.update(&piece);
        file.write_all(&piece).await.map_err(|e| disk(&e))?;
    }
    file.flush().await.map_err(|e| disk(&e))?;
    file.sync_all().await.map_err(|e| disk(&e))?;
    Ok((size, hash.finalize().to_vec()))
}

async fn write_whole(env: &Env, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_path(env);
    if let Some(folder) = temporary.parent() {
        fs::create_dir_all(folder).await?;
    }
    fs::write(&temporary, bytes).await?;
    put(&temporary, path).await
}

/// Puts a file that is whole in its place.
async fn put(temporary: &Path, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).await?;
    }
    fs::rename(temporary, path).await
}

/// Deletes what a former process had begun to write. Call before anything is written.
pub async fn clear_unfinished(env: &Env) {
    match fs::remove_dir_all(incoming(env)).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "unfinished uploads of a former process stay");
        }
        _ => {}
    }
}

/// The edge ends a body that is too long with this kind of error.
fn broken_upload(error: &io::Error) -> DomainError {
    if error.kind() == io::ErrorKind::FileTooLarge {
        DomainError::too_large("The upload is too large.")
    } else {
        DomainError::unknown(format!("The upload broke off: {error}"))
    }
}

fn disk(error: &io::Error) -> DomainError {
    DomainError::unavailable(format!("media store: {error}"))
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 255 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Ids are ours and plain (see [`is_id`]): no path can be built from them that leaves the folder.
fn file_path(env: &Env, id: &str) -> PathBuf {
    let (shelf, board) = (id.get(0..2).unwrap_or("__"), id.get(2..4).unwrap_or("__"));
    env.settings.media_path.join("local").join(shelf).join(board).join(id)
}

/// What the file of a piece of media is called.
fn name(env: &Env, row: &media::Model) -> String {
    match row.origin == env.server_name.as_str() {
        true => row.media_id.clone(),
        false => remote::file_name(&row.origin, &row.media_id),
    }
}

/// Where the file of a piece of media lies.
fn place(env: &Env, row: &media::Model) -> PathBuf {
    let name = name(env, row);
    match row.origin == env.server_name.as_str() {
        true => file_path(env, &name),
        false => {
            let folder = env.settings.media_path.join("remote");
            folder.join(&name[..2]).join(&name[2..4]).join(name)
        }
    }
}

/// Where files are written before they are put in their place.
fn incoming(env: &Env) -> PathBuf {
    env.settings.media_path.join("incoming")
}

fn temporary_path(env: &Env) -> PathBuf {
    incoming(env).join(env.rng.alphanumeric(ID_LEN))
}

fn thumbnail_path(env: &Env, id: &str, size: Size, method: Method) -> PathBuf {
    let size = (i64::from(size.width), i64::from(size.height));
    thumbnail_file(env, id, size, method.as_str())
}

fn thumbnail_file(env: &Env, id: &str, (width, height): (i64, i64), method: &str) -> PathBuf {
    let (shelf, board) = (id.get(0..2).unwrap_or("__"), id.get(2..4).unwrap_or("__"));
    let name = format!("{id}-{width}x{height}-{method}");
    env.settings
        .media_path
        .join("thumbnails")
        .join(shelf)
        .join(board)
        .join(name)
}
