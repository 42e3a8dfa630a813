//! Taking voice messages in.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use entities::voice_message;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde::Deserialize;

use super::{About, Scrap, Written, keep, max_size_bytes, on_cpu, refused, remove, send, write_beside};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::media::{Upload, temporary_path, write_stream};

/// Room in an envelope for what is not the file.
const ENVELOPE_BYTES: u64 = 16 * 1024;
/// Characters of a session id and of a file's name.
const MAX_TEXT: usize = 255;

/// What comes with the file: beside it in the query, or around it in the envelope.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Fields {
    /// Where to send it.
    #[serde(default)]
    pub room_id: Option<OwnedRoomId>,
    /// The uploader's own mark.
    #[serde(default)]
    pub session_id: Option<String>,
    /// What to call the file.
    #[serde(default)]
    pub filename: Option<String>,
}

/// An upload.
pub struct Incoming {
    /// Whose.
    pub user: OwnedUserId,
    /// The body: the file, or an envelope `{content, …}` around its base64.
    pub body: Upload,
    /// Whether it is an envelope.
    pub is_envelope: bool,
    /// From the query; an envelope has its own.
    pub fields: Fields,
    /// Whether the user may send into rooms.
    pub may_send: bool,
}

/// What was stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As it stands in the database.
    pub message: voice_message::Model,
    /// The loudness, LUFS.
    pub loudness_lufs: Option<f64>,
}

/// `duration_ms` and `content_type` are the uploader's word, which is not needed.
#[derive(Deserialize)]
struct Envelope {
    content: String,
    #[serde(flatten)]
    fields: Fields,
}

/// The largest body of an upload: base64 makes four characters of three bytes.
#[must_use]
pub fn max_body_bytes(max_size_bytes: u64) -> u64 {
    (max_size_bytes / 3 + 1)
        .saturating_mul(4)
        .saturating_add(ENVELOPE_BYTES)
}

/// Looks into an upload and stores it, and sends it into a room where one is named. May be given up at any time: what was
/// stored by then is sent as well, or removed.
///
/// # Errors
/// `M_TOO_LARGE`, `M_UNKNOWN` (400) for what is no audio, `M_FORBIDDEN` for rooms the user may not send to, 429 while
/// another job of the user runs.
pub async fn upload(hub: &Arc<Hub>, incoming: Incoming) -> Outcome<Stored> {
    let env = hub.env();
    let user = incoming.user;
    let _turn = env.voice_jobs.begin(&user)?;
    // Refused before the body is read, where that is possible.
    let fields = sendable(hub, &user, incoming.may_send, incoming.fields).await?;
    let limit = max_size_bytes(env);
    let spool = Scrap(temporary_path(env));
    let most = if incoming.is_envelope {
        max_body_bytes(limit)
    } else {
        limit
    };
    write_stream(&spool.0, incoming.body, most).await?;
    let (path, beside, limits) = (spool.0.clone(), temporary_path(env), env.settings.voice.limits());
    let scrap = Scrap(beside.clone());
    let is_envelope = incoming.is_envelope;
    let looked = on_cpu(env, move |stop| {
        let (file, fields) = open(&path, is_envelope, fields)?;
        if file.len() as u64 > limit {
            return Err(DomainError::too_large(format!(
                "Voice messages may have {limit} bytes."
            )));
        }
        let measured = audio::measure(&file, limits, stop).map_err(refused)?;
        Ok((write_beside(beside, &file, measured)?, fields))
    });
    let (written, fields) = looked.await?;
    drop(spool);
    let fields = match is_envelope {
        true => sendable(hub, &user, incoming.may_send, fields).await?,
        false => fields,
    };
    // From here on it goes on by itself: a message that is stored and was to be sent is not left unsent.
    let (task_hub, task_user) = (hub.clone(), user.clone());
    let task = env.io.spawn(async move {
        let _scrap = scrap;
        finish(&task_hub, task_user, written, fields).await
    });
    task.await
        .map_err(|e| DomainError::internal(format!("voice message: {e}")))?
}

/// Fields that hold nothing forbidden.
async fn sendable(hub: &Hub, user: &UserId, may_send: bool, fields: Fields) -> Outcome<Fields> {
    check_texts(&fields)?;
    if let Some(room_id) = &fields.room_id {
        send::check(hub, user, room_id, may_send).await?;
    }
    Ok(fields)
}

/// The file and its fields, out of a body on disk. Blocks.
fn open(path: &Path, is_envelope: bool, fields: Fields) -> Outcome<(Vec<u8>, Fields)> {
    let body = std::fs::read(path).map_err(|e| crate::media::disk(&e))?;
    if !is_envelope {
        return Ok((body, fields));
    }
    let envelope: Envelope = serde_json::from_slice(&body).map_err(|e| match e.classify() {
        serde_json::error::Category::Data if e.to_string().starts_with("missing field") => {
            DomainError::missing_param(e.to_string())
        }
        serde_json::error::Category::Data => DomainError::bad_json(e.to_string()),
        _ => DomainError::not_json(format!("not JSON: {e}")),
    })?;
    drop(body);
    let text = envelope.content.trim_end_matches('=').as_bytes();
    let wrong = |_| DomainError::invalid_param("`content` is not base64");
    let file = STANDARD_NO_PAD
        .decode(text)
        .or_else(|_| STANDARD.decode(text))
        .map_err(wrong)?;
    Ok((file, envelope.fields))
}

fn check_texts(fields: &Fields) -> Outcome<()> {
    for (name, text) in [("session_id", &fields.session_id), ("filename", &fields.filename)] {
        if text
            .as_ref()
            .is_some_and(|text| text.chars().count() > MAX_TEXT || text.contains('\0'))
        {
            return Err(DomainError::invalid_param(format!(
                "`{name}` has too many or forbidden characters"
            )));
        }
    }
    Ok(())
}

async fn finish(hub: &Hub, user: OwnedUserId, written: Written, fields: Fields) -> Outcome<Stored> {
    let env = hub.env();
    let about = About {
        name: fields.filename,
        room_id: fields.room_id.as_ref().map(ToString::to_string),
        session_id: fields.session_id,
        source_id: None,
    };
    if let Some(room_id) = &fields.room_id {
        // Much may have happened while the sound was looked into.
        send::check(hub, &user, room_id, true).await?;
    }
    let mut message = keep(env, &user, &written, about.clone()).await?;
    if let Some(room_id) = fields.room_id {
        match send::send(
            hub,
            &user,
            &room_id,
            &message,
            about.name.as_deref(),
            &written.measured.waveform,
        )
        .await
        {
            Ok(event_id) => message.event_id = Some(event_id.to_string()),
            Err(refusal) => {
                remove(env, &message).await?;
                return Err(refusal);
            }
        }
    }
    Ok(Stored {
        message,
        loudness_lufs: written.measured.loudness_lufs,
    })
}
