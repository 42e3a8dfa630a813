//! Voice messages: audio that was looked into before it was stored, and what is made of it.
//!
//! Files lie among the media; rows are written with the media's, by this module alone. Whatever decodes or encodes runs on
//! the CPU pool, one job for each user, and ends soon when nobody waits for it any more.

mod derive;
mod jobs;
mod read;
mod send;
mod upload;

use std::path::PathBuf;

use audio::{AudioError, Limits};
use entities::{media, voice_message};
use ruma::UserId;
use sha2::{Digest as _, Sha256};
use tokio::fs;

pub use audio::{Format, Kind, Measured};
pub use derive::{ConvertWishes, Converted, OptimiseWishes, Optimised, convert, optimise};
pub use jobs::Jobs;
pub use read::{Page, Reader, Totals, content, list_of_room, list_of_user, totals};
pub use upload::{Fields, Incoming, Stored, max_body_bytes, upload};

use self::jobs::StopOnDrop;
use super::{ID_LEN, STORED};
use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;

/// What is accepted and made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The largest file, bytes.
    pub max_size_bytes: u64,
    /// The longest message, milliseconds.
    pub max_duration_ms: u64,
    /// Conversions that ask for none keep at most this rate, Hz.
    pub default_sample_rate: u32,
    /// And at most so many channels.
    pub default_channels: u32,
    /// What normalising aims at, LUFS.
    pub loudness_lufs: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_size_bytes: 100 * 1024 * 1024,
            max_duration_ms: 600_000,
            default_sample_rate: 48_000,
            default_channels: 2,
            loudness_lufs: -23.0,
        }
    }
}

impl Settings {
    fn limits(&self) -> Limits {
        Limits {
            max_duration_ms: self.max_duration_ms,
        }
    }
}

/// The largest voice message: no larger than any upload may be.
#[must_use]
pub fn max_size_bytes(env: &Env) -> u64 {
    env.settings.voice.max_size_bytes.min(env.settings.max_upload_bytes)
}

/// Deletes a message with its file, and redacts the event that it was sent as.
///
/// # Errors
/// `M_NOT_FOUND` for what the reader may not see, `M_FORBIDDEN` for what is somebody else's.
pub async fn delete(hub: &Hub, reader: &Reader<'_>, message_id: &str) -> Outcome<()> {
    let env = hub.env();
    let row = read::visible(env, reader, message_id).await?;
    if !reader.is_admin && reader.user.is_none_or(|user| user.as_str() != row.user_id) {
        return Err(DomainError::forbidden("This is somebody else's voice message."));
    }
    send::redact(hub, &row).await;
    remove(env, &row).await
}

async fn remove(env: &Env, row: &voice_message::Model) -> Outcome<()> {
    env.store.delete_voice_message(env.server_name.as_str(), row).await?;
    let path = super::file_path(env, &row.media_id);
    if let Err(error) = fs::remove_file(path).await {
        tracing::warn!(media = row.media_id, %error, "the file of a deleted voice message stays");
    }
    Ok(())
}

/// A file that was written beside its place, and what is known of it.
struct Written {
    temporary: PathBuf,
    measured: Measured,
    size: u64,
    sha256: Vec<u8>,
}

/// Removes a file that nobody wants any more; that it cannot be removed changes nothing.
struct Scrap(PathBuf);

impl Drop for Scrap {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes a file beside its place. Blocks: for the CPU pool.
fn write_beside(temporary: PathBuf, bytes: &[u8], measured: Measured) -> Outcome<Written> {
    let write = || {
        use std::io::Write as _;
        if let Some(folder) = temporary.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| super::disk(&e))?;
    Ok(Written {
        temporary,
        measured,
        size: bytes.len() as u64,
        sha256: Sha256::digest(bytes).to_vec(),
    })
}

/// What a message is besides its sound.
#[derive(Clone, Debug, Default)]
struct About {
    name: Option<String>,
    room_id: Option<String>,
    session_id: Option<String>,
    source_id: Option<String>,
}

/// Puts a file in its place and writes its rows.
async fn keep(env: &Env, user: &UserId, written: &Written, about: About) -> Outcome<voice_message::Model> {
    let media_id = env.rng.alphanumeric(ID_LEN);
    let kind = written.measured.kind;
    let name = about
        .name
        .unwrap_or_else(|| format!("Voice message.{}", kind.extension()));
    let now = env.clock.now_ms();
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let media = media::Model {
        origin: env.server_name.to_string(),
        media_id: media_id.clone(),
        user_id: Some(user.to_string()),
        content_type: Some(kind.mime().to_owned()),
        upload_name: Some(name),
        size_bytes: whole(written.size),
        sha256: Some(written.sha256.clone()),
        state: STORED.to_owned(),
        created_ts: now,
        last_access_ts: now,
        quarantined_by: None,
    };
    let row = voice_message::Model {
        message_id: format!("voice_{}", env.rng.alphanumeric(ID_LEN)),
        user_id: user.to_string(),
        media_id: media_id.clone(),
        room_id: about.room_id,
        event_id: None,
        session_id: about.session_id,
        source_id: about.source_id,
        content_type: kind.mime().to_owned(),
        size_bytes: whole(written.size),
        duration_ms: whole(written.measured.duration_ms),
        sample_rate: i64::from(written.measured.sample_rate),
        channels: i64::from(written.measured.channels),
        waveform: serde_json::to_string(&written.measured.waveform)
            .map_err(|e| DomainError::internal(format!("a waveform does not serialise: {e}")))?,
        created_ts: now,
    };
    super::put(&written.temporary, &super::file_path(env, &media_id))
        .await
        .map_err(|e| super::disk(&e))?;
    env.store.insert_voice_message(&media, &row).await?;
    Ok(row)
}

/// Runs a job on the CPU pool that stops when it is not waited for any more.
async fn on_cpu<T: Send + 'static>(
    env: &Env,
    job: impl FnOnce(&audio::Stop) -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let stop = StopOnDrop::default();
    let flag = stop.flag();
    env.cpu.run(Class::Audio, move || job(&flag)).await?
}

fn refused(error: AudioError) -> DomainError {
    match error {
        AudioError::TooLong { .. } => DomainError::too_large(format!("Refused: {error}.")),
        AudioError::Stopped => DomainError::unavailable("audio job: stopped"),
        AudioError::Impossible(_) => DomainError::invalid_param(format!("Refused: {error}.")),
        error => DomainError::unknown(format!("Refused: {error}.")),
    }
}
