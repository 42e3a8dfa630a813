//! Messages that are made of others: converted and optimised. They belong to who had them made.

use std::sync::Arc;

use audio::{Format, Measured, Spec, Target, Wishes};
use entities::voice_message;
use ruma::OwnedUserId;

use super::read::{self, Reader};
use super::{About, Scrap, Written, keep, on_cpu, refused, write_beside};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::media::{place, temporary_path};

/// What to convert to.
#[derive(Clone, Copy, Debug)]
pub struct ConvertWishes {
    /// The format.
    pub format: Format,
    /// Bits a second.
    pub bitrate: Option<u32>,
    /// Hz.
    pub sample_rate: Option<u32>,
    /// 1 or 2.
    pub channels: Option<u32>,
}

/// How to optimise.
#[derive(Clone, Copy, Debug)]
pub struct OptimiseWishes {
    /// The file should have at most so many bytes.
    pub target_bytes: Option<u64>,
    /// Rather miss the size than sound bad.
    pub preserve_quality: bool,
    /// Shorten pauses.
    pub remove_silence: bool,
    /// Bring the loudness to what the operator chose.
    pub normalize_volume: bool,
}

/// A conversion that was made.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The new message.
    pub message: voice_message::Model,
    /// Bytes of the old one.
    pub size_before: i64,
    /// What decoding found of the old one.
    pub before: Measured,
    /// And of the new one.
    pub after: Measured,
    /// Bits a second that the encoder was asked for.
    pub bitrate: Option<u32>,
}

/// An optimisation that was made.
#[derive(Clone, Debug)]
pub struct Optimised {
    /// The new message; the old one where nothing better could be made.
    pub message: voice_message::Model,
    /// Whether there is a new one.
    pub changed: bool,
    /// Bytes of the old one.
    pub size_before: i64,
    /// What decoding found of the old one.
    pub before: Measured,
    /// And of the new one.
    pub after: Measured,
    /// What samples were multiplied with, dB.
    pub gain_db: f64,
    /// Bits a second that the encoder was asked for.
    pub bitrate: Option<u32>,
}

/// Makes a message in another format. May be given up at any time.
///
/// # Errors
/// `M_NOT_FOUND` for what the user may not see, `M_INVALID_PARAM` for what the format does not have, 429 while another job
/// of the user runs.
pub async fn convert(
    hub: &Arc<Hub>,
    user: OwnedUserId,
    reader: Reader<'_>,
    message_id: &str,
    wishes: ConvertWishes,
) -> Outcome<Converted> {
    let env = hub.env();
    let _turn = env.voice_jobs.begin(&user)?;
    let (row, media) = read::content(env, &reader, message_id).await?;
    let settings = env.settings.voice;
    let target = Target {
        format: wishes.format,
        bitrate: wishes.bitrate,
        sample_rate: wishes.sample_rate,
        channels: wishes.channels,
        most: Spec {
            rate: settings.default_sample_rate,
            channels: if settings.default_channels >= 2 { 2 } else { 1 },
        },
    };
    let (path, beside, most) = (place(env, &media), temporary_path(env), env.settings.max_upload_bytes);
    let scrap = Scrap(beside.clone());
    let made = on_cpu(env, move |stop| {
        let file = std::fs::read(path).map_err(|e| crate::media::disk(&e))?;
        let made = audio::convert(&file, target, settings.limits(), stop).map_err(refused)?;
        check_size(&made.file, most)?;
        let written = write_beside(beside, &made.file, made.after.clone())?;
        Ok((written, made.before, made.after, made.bitrate))
    });
    let (written, before, after, bitrate) = made.await?;
    Ok(Converted {
        message: store(hub, user, &row, written, scrap).await?,
        size_before: row.size_bytes,
        before,
        after,
        bitrate,
    })
}

/// Makes a smaller or better message. May be given up at any time.
///
/// # Errors
/// As [`convert`].
pub async fn optimise(
    hub: &Arc<Hub>,
    user: OwnedUserId,
    reader: Reader<'_>,
    message_id: &str,
    wishes: OptimiseWishes,
) -> Outcome<Optimised> {
    let env = hub.env();
    let _turn = env.voice_jobs.begin(&user)?;
    let (row, media) = read::content(env, &reader, message_id).await?;
    let settings = env.settings.voice;
    let wishes = Wishes {
        target_bytes: wishes.target_bytes,
        preserve_quality: wishes.preserve_quality,
        remove_silence: wishes.remove_silence,
        loudness_lufs: wishes.normalize_volume.then_some(settings.loudness_lufs),
    };
    let (path, beside, most) = (place(env, &media), temporary_path(env), env.settings.max_upload_bytes);
    let scrap = Scrap(beside.clone());
    let made = on_cpu(env, move |stop| {
        let file = std::fs::read(path).map_err(|e| crate::media::disk(&e))?;
        let mut made = audio::optimise(&file, wishes, settings.limits(), stop).map_err(refused)?;
        let written = match made.file.take() {
            Some(file) => {
                check_size(&file, most)?;
                Some(write_beside(beside, &file, made.after.clone())?)
            }
            None => None,
        };
        Ok((written, made))
    });
    let (written, made) = made.await?;
    let size_before = row.size_bytes;
    let changed = written.is_some();
    let message = match written {
        Some(written) => store(hub, user, &row, written, scrap).await?,
        None => row,
    };
    Ok(Optimised {
        message,
        changed,
        size_before,
        before: made.before,
        after: made.after,
        gain_db: made.gain_db,
        bitrate: made.bitrate,
    })
}

fn check_size(file: &[u8], most: u64) -> Outcome<()> {
    if file.len() as u64 > most {
        return Err(DomainError::too_large(format!(
            "It would have {} bytes, more than {most}.",
            file.len()
        )));
    }
    Ok(())
}

/// Stores what was made, whether anybody still waits for it or not.
async fn store(
    hub: &Arc<Hub>,
    user: OwnedUserId,
    source: &voice_message::Model,
    written: Written,
    scrap: Scrap,
) -> Outcome<voice_message::Model> {
    let about = About {
        session_id: source.session_id.clone(),
        source_id: Some(source.message_id.clone()),
        ..About::default()
    };
    let env = hub.env().clone();
    let io = env.io.clone();
    let task = io.spawn(async move {
        let _scrap = scrap;
        keep(&env, &user, &written, about).await
    });
    task.await
        .map_err(|e| DomainError::internal(format!("voice message: {e}")))?
}
